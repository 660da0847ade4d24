"""Read and write the workflow's TSV tables the same way everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from brainscm.files import damaged, whole

IDENTIFIERS = ("scan", "participant", "session", "query", "further_runs")
RUN_SEPARATOR = ";"  # no BIDS file name holds one
LEFT_OUT_OF_SCM = "left_out_of_scm"  # in scans.tsv, why a rating leaves a scan out of the causal model alone

Rows = TypeVar("Rows", pd.DataFrame, pd.Series)


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a BIDS-style TSV: tab-separated, `n/a` (or an empty cell) is missing, identifiers stay text.

    Raises:
        BrainSCMError: it is empty, or no such table.
    """
    text = dict.fromkeys([*IDENTIFIERS, "participant_id", "session_id"], str)
    # Whole columns at once: read piece by piece, a long one with gaps would be text here and numbers there.
    try:
        return pd.read_csv(path, sep="\t", na_values=["n/a", ""], keep_default_na=False, dtype=text, low_memory=False)
    except ValueError as error:  # pandas's own errors of empty and broken tables are such
        raise damaged(path, error) from error


def write_table(table: pd.DataFrame, path: Path | str) -> None:
    """Write a TSV; numbers keep every digit that they need to be read back unchanged."""
    with whole(Path(path)) as partial:
        # A stranger's file may have a name that is no text.
        table.to_csv(partial, sep="\t", index=False, na_rep="n/a", errors="replace")


def evenly_spaced(rows: Rows, count: int) -> Rows:
    """At most `count` of the rows, evenly spaced from the first to the last: a sample that nobody chose."""
    return rows.iloc[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def run_paths(path: str, further_runs: str | None) -> list[str]:
    """The files of a scan: `path` of its first run, and beside it those that `further_runs` names (`;` between)."""
    names = further_runs.split(RUN_SEPARATOR) if isinstance(further_runs, str) else []
    return [path, *(str(Path(path).with_name(name)) for name in names)]
