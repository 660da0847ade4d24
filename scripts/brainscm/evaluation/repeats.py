"""How far two scans of one participant come apart: the floor under every change that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainscm.evaluation.cases import SHORTEST_INTERVAL_YEARS
from brainscm.scm.model import Scm

PAIRS_NEEDED = 5


@dataclass(frozen=True)
class Repeats:
    """Standard deviation (ml) of the difference between two scans of a participant, by region.

    `source` says where it is from, or why it is not known (then `sd_ml` is empty).
    """

    sd_ml: dict[str, float]
    source: str


def measure_repeats(table: pd.DataFrame, scm: Scm, regions: Sequence[str]) -> Repeats:
    """From participants of the training and validation splits who were scanned more than once.

    Scans less than three months apart are repeats: their root mean square difference. Where there are fewer than five
    such pairs, later scans stand in: the standard deviation of the change that a common slope a year leaves
    unexplained, which holds how participants differ in ageing, too.

    Args:
        table: usable scans: participant, split, the nodes' columns and `<region>_ml`.
    """
    age = scm.covariates.columns.get("age") if "age" in scm.covariates.ranges else None
    if age is None:
        return Repeats({}, "the graph has no age, so that repeated scans cannot be told from later ones")
    untested = table[table["split"] != "test"].sort_values(["participant", age])
    columns = [f"{region}_ml" for region in regions]
    changes = untested.groupby("participant")[[age, *columns]].diff().dropna()
    years, change = changes[age].to_numpy(dtype=float), changes[columns].to_numpy(dtype=float)  # (pairs, regions)
    repeated = years < SHORTEST_INTERVAL_YEARS
    if repeated.sum() >= PAIRS_NEEDED:
        sd = np.sqrt(np.mean(change[repeated] ** 2, axis=0))
        return Repeats(dict(zip(regions, sd.tolist(), strict=True)), f"{repeated.sum()} repeated scans")
    years, change = years[~repeated], change[~repeated]
    if len(years) < PAIRS_NEEDED:
        return Repeats({}, f"fewer than {PAIRS_NEEDED} participants outside the test split were scanned twice")
    residual = change - years[:, None] * (years @ change / (years @ years))
    sd = np.sqrt((residual**2).sum(axis=0) / (len(years) - 1))
    return Repeats(dict(zip(regions, sd.tolist(), strict=True)), f"{len(years)} later scans")
