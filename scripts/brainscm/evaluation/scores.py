"""What a shard's job has measured, as tables that the next job reads, and all of them in one order."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from brainscm.tables import read_table, write_table


@dataclass(frozen=True)
class ShardScores:
    """The scores of a shard's scans, or of all of them.

    Attributes:
        measurements: a row each, see `measurements.table_of`.
        features: a row a counterfactual, see `realism.feature_row`.
        changes: see `slopes.counterfactual_changes`.
    """

    measurements: pd.DataFrame
    features: pd.DataFrame
    changes: pd.DataFrame

    def write(self, folder: Path) -> None:
        for each in fields(self):
            write_table(getattr(self, each.name), folder / f"{each.name}.tsv")

    @classmethod
    def read(cls, folder: Path) -> ShardScores:
        """Read what `write` has written.

        Raises:
            BrainSCMError: a table is damaged.
        """
        return cls(*(read_table(folder / f"{each.name}.tsv") for each in fields(cls)))


def in_order(parts: Sequence[pd.DataFrame], columns: Sequence[str], order: Iterable[Hashable]) -> pd.DataFrame:
    """The rows of all parts, in an order that does not depend on how they were dealt.

    Args:
        columns: by which rows are ordered; those with the same values there are of one part, and stay as they are.
        order: all values that occur, tuples of several columns.
    """
    filled = [part for part in parts if len(part)]
    if not filled:
        return parts[0]
    table = pd.concat(filled, ignore_index=True)
    place = {value: number for number, value in enumerate(order)}
    keys = table[columns[0]] if len(columns) == 1 else pd.Series(zip(*(table[name] for name in columns), strict=True))
    return table.iloc[keys.map(place).argsort(kind="stable")].reset_index(drop=True)
