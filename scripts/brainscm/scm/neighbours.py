"""Who is near: the training participants, known by rounded values alone, so that a bundle can hold them without ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NEAR_SD = 0.5
ROUNDED_SD = 0.25  # to about four years, where ages are spread as they are among adults


@dataclass(frozen=True)
class Neighbours:
    """Training participants as far as it takes to count those who are near.

    Attributes:
        values: node values, numbers rounded to a quarter of their standard deviation; in no order but their own.
        participants: (n,) number of the participant of each row, as they come.
        sd: numeric node → standard deviation over the training scans.
    """

    values: pd.DataFrame
    participants: NDArray[np.int_]
    sd: dict[str, float]

    @classmethod
    def of(cls, values: pd.DataFrame, participants: pd.Series) -> Neighbours:
        """Of the training scans' node values (as `Covariates.read` gives them), and the participants of those rows."""
        sd, rounded = {}, {}
        for name in map(str, values):
            column = values[name]
            if isinstance(column.dtype, pd.CategoricalDtype):
                rounded[name] = column
                continue
            spread = float(column.std())
            sd[name] = spread if spread > 0 else 1.0
            step = ROUNDED_SD * sd[name]
            rounded[name] = (column / step).round() * step
        table = pd.DataFrame(rounded, index=values.index).assign(**{_WHOSE: participants}).drop_duplicates()
        names = list(rounded)
        # A participant's rows lie together; participants are in the order of their first rows, whatever they are called
        table = table.sort_values([*names, _WHOSE], kind="stable") if names else table
        first = table.drop_duplicates(_WHOSE)[_WHOSE]
        numbers = table[_WHOSE].map({whose: number for number, whose in enumerate(first)}).to_numpy(dtype=np.int_)
        order = np.argsort(numbers, kind="stable")
        return cls(table[names].iloc[order].reset_index(drop=True), numbers[order], sd)

    def count(self, values: pd.DataFrame, near: tuple[str, ...]) -> NDArray[np.int_]:
        """How many training participants are near each query point, (n,).

        Near is within half a standard deviation in each number of `near`, and of the same levels.
        """
        close = np.ones((len(values), len(self.participants)), dtype=bool)  # (points, training rows)
        for name in near:
            if name in self.sd:
                ours, theirs = (table[name].to_numpy(dtype=float) for table in (values, self.values))
                close &= np.abs(theirs - ours[:, None]) <= NEAR_SD * self.sd[name]
            else:
                ours, theirs = (table[name].astype(object).to_numpy() for table in (values, self.values))
                close &= theirs == ours[:, None]
        # The first row of each participant.
        first = np.flatnonzero(np.r_[True, self.participants[1:] != self.participants[:-1]])
        return np.logical_or.reduceat(close, first, axis=1).sum(axis=1)

    def as_json(self) -> dict[str, Any]:
        columns = {
            name: [None if pd.isna(each) else each for each in self.values[name].tolist()] for name in self.values
        }
        return {"sd": self.sd, "participants": self.participants.tolist(), "values": columns}

    @classmethod
    def of_json(cls, stored: dict[str, Any]) -> Neighbours:
        columns = {
            name: pd.Series(column, dtype=float if name in stored["sd"] else object)
            for name, column in stored["values"].items()
        }
        return cls(pd.DataFrame(columns), np.array(stored["participants"], dtype=np.int_), dict(stored["sd"]))


_WHOSE = "whose scan"  # no node can be called so
