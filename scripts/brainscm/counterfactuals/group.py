"""What a question does to the brain in the mean over participants: maps of the mean change and its standard error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.counterfactuals.manifest import join_parts
from brainscm.files import sidecar, write_json
from brainscm.images import Grid, Image, Volume, read_volume, write_image
from brainscm.questions import by_question, query_label, question_of
from brainscm.scans import ScanTable, records

STATISTICS = {
    "group_path": ("effect", "Mean difference, counterfactual minus factual, over participants"),
    "group_error_path": ("se", "Standard error over participants of the mean difference"),
}


def average(
    queries: Sequence[QueryOptions],
    parts: Sequence[Path],
    scans: ScanTable,
    out_dir: Path,
    space: Mapping[str, str],
    origin: Mapping[str, Any],
) -> pd.DataFrame:
    """Write the maps of those questions that ask for them; by `query`, the columns that the manifest gets.

    Args:
        queries: of some questions. parts: what was written of them, a part of the manifest a shard.
        space, origin: see `write_group`.
    """
    names = [query.name for query in queries]
    rows = join_parts(parts, names, scans.rows["scan"].tolist()).replace("n/a", None)
    found = []
    for members in by_question(queries).values():
        if members[0].group:
            own = [member.name for member in members]
            paths = write_group(members, records(rows[rows["query"].isin(own)]), out_dir, scans.grid, space, origin)
            found += [{"query": name, **paths} for name in own]
    return pd.DataFrame(found, columns=["query", *STATISTICS])


def write_group(
    members: Sequence[QueryOptions],
    rows: Sequence[Mapping[str, Any]],
    out_dir: Path,
    grid: Grid,
    space: Mapping[str, str],
    origin: Mapping[str, Any],
) -> dict[str, str]:
    """Write the maps of one question, of a trajectory a 4D series over its members; the columns of the manifest.

    Args:
        rows: of the manifest, of all members.
        space: what side-cars say of the grid; origin: of the causal model.
    """
    found, counts = [], []
    for member in members:
        made = [row for row in rows if row["query"] == member.name and row["status"] == "pass"]
        by_participant: dict[str, list[Path]] = {}
        for row in made:
            by_participant.setdefault(row["participant"], []).append(out_dir / row["difference_path"])
        counts.append(len(by_participant))
        found.append(mean_and_error(by_participant.values(), grid))
    if not any(counts):
        return {}
    asked, source = members[0], next(Path(row["difference_path"]).name for row in rows if row.get("difference_path"))
    entities = "_".join(part for part in source.split("_") if part.startswith(("space-", "res-")))
    paths = {}
    for place, (column, (statistic, description)) in enumerate(STATISTICS.items()):
        path = Path("group", f"query-{query_label(question_of(asked))}_{entities}_stat-{statistic}_statmap.nii.gz")
        maps = [each[place] for each in found]
        data = maps[0] if asked.trajectory is None else np.stack(maps, axis=-1)
        write_image(out_dir / path, Image(data, grid.affine), grid.space)
        told = {
            "Description": f"{description}. Outside a participant's brain mask nothing changes.",
            "Query": question_of(asked),
            "Members": [member.do for member in members],
            "Participants": counts,
            "Effect": asked.effect,
            "Decode": asked.decode,
        }
        write_json(sidecar(out_dir / path), {**told, **space, **origin})
        paths[column] = path.as_posix()
    return paths


def mean_and_error(by_participant: Iterable[Sequence[Path]], grid: Grid) -> tuple[Volume, Volume]:
    """The mean over participants, each the mean of their scans, and its standard error (0 of fewer than two).

    One volume is in memory at a time (Welford 1962, doi 10.2307/1266577).
    """
    n, mean, squares = 0, np.zeros(grid.shape), np.zeros(grid.shape)
    for paths in by_participant:
        own = sum(read_volume(path, grid).astype(np.float64) for path in paths) / len(paths)
        n += 1
        step = own - mean
        mean += step / n
        squares += step * (own - mean)
    error = np.sqrt(squares / (n - 1) / n) if n > 1 else squares
    return mean.astype(np.float32), error.astype(np.float32)
