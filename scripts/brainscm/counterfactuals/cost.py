"""What a study's counterfactuals have cost so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brainscm.benchmark_files import read_job_cost
from brainscm.tables import evenly_spaced, read_table

SIZED = 50  # files that are looked at to tell how large one is
TIMED = 10  # counterfactuals that a job must have made to tell how long one takes


@dataclass(frozen=True)
class Cost:
    """Wall seconds of a job with its threads, for a counterfactual, and the size of a volume; None if unknown."""

    seconds: float | None
    megabytes: float | None


def recorded_cost(results: Path) -> Cost:
    """What a counterfactual of this study has cost so far, from the jobs that made some and the files that they wrote.

    Where there are none yet, the size of a volume is taken to be that of preprocessed scans.
    """
    folder, seconds, made = results / "counterfactuals", 0.0, 0
    written: list[Path] = []
    for part in sorted((folder / "questions").glob("*/*.tsv")):
        rows = read_table(part)
        made_of = {column: rows[column].dropna() for column in rows if str(column).endswith("path")}
        volumes = [path for name in made_of.get("path", []) if (path := folder / name).exists()]
        written += [path for names in made_of.values() for name in names if (path := folder / name).exists()]
        job = read_job_cost(results / "benchmarks" / "synthesize_counterfactuals" / part.parent.name / part.name)
        took = job.seconds if job else 0.0
        # A job keeps the volumes that are there already: those it made are younger than its start.
        own = sum(path.stat().st_mtime > part.stat().st_mtime - took - 1 for path in volumes)
        if own >= TIMED:
            seconds, made = seconds + took, made + own
    if not written:
        written = sorted((results / "preproc").glob("sub-*/**/*_desc-preproc_T1w.nii.gz"))
    sample = evenly_spaced(pd.Series(written, dtype=object), SIZED)
    size = float(np.mean([path.stat().st_size for path in sample])) if len(sample) else None
    return Cost(seconds / made if made else None, None if size is None else size / 1e6)
