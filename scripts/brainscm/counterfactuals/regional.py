"""What each counterfactual does to regional volumes, measured on it with the scan's own measure: a row a region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from brainscm.images import Volume
from brainscm.regions import RegionMeasure

COLUMNS = [
    "scan", "participant", "session", "query", "trajectory", "region", "before_ml", "change_ml", "change_percent",
    "low_95_ml", "high_95_ml", "why_no_interval",
]  # fmt: skip


@dataclass(frozen=True)
class RegionChange:
    """Of one region of one counterfactual, in ml.

    Attributes:
        before_ml: of what the difference starts from: the scan or, where the latent is decoded directly, its
            reconstruction.
        change_ml: measured on the counterfactual, with the levels of the scan's tissues held.
        error_ml: root mean square distance of the same change under draws of the causal model's parameters.
        draws: how many there were.
    """

    before_ml: float
    change_ml: float
    error_ml: float
    draws: int


def measure_change(
    measure: RegionMeasure, volume: Volume, difference: Volume, drawn: Sequence[Mapping[str, float]]
) -> dict[str, RegionChange]:
    """By region, the change that a counterfactual (x, y, z) with this difference shows.

    Args:
        measure: of its scan. drawn: what that measures on the counterfactual under draws of the parameters.
    """
    before, after = measure.volumes_ml(volume - difference), measure.volumes_ml(volume)
    found = {}
    for region in before:
        error = math.sqrt(np.mean([(each[region] - after[region]) ** 2 for each in drawn])) if drawn else 0.0
        found[region] = RegionChange(before[region], after[region] - before[region], error, len(drawn))
    return found


def as_json(regions: Mapping[str, RegionChange]) -> dict[str, dict[str, float]]:
    return {region: asdict(change) for region, change in regions.items()}


def of_json(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, RegionChange]:
    return {region: RegionChange(**change) for region, change in stored.items()}


def regions_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a counterfactual and region, see `COLUMNS`.

    The interval is of a t distribution with as many degrees of freedom as there are draws, about the change: what the
    fitted parameters leave open, and not what encoding and measuring miss.

    Args:
        rows: of the manifest, with `regions` where there is a counterfactual.
    """
    found = []
    for row in rows:
        for region, change in (row.get("regions") or {}).items():
            half = scipy.stats.t.ppf(0.975, change.draws) * change.error_ml if change.draws else 0.0
            bounds = {"low_95_ml": change.change_ml - half, "high_95_ml": change.change_ml + half}
            found.append(
                {
                    **{key: row.get(key) for key in ("scan", "participant", "session", "query", "trajectory")},
                    "region": region,
                    "before_ml": change.before_ml,
                    "change_ml": change.change_ml,
                    "change_percent": 100 * change.change_ml / change.before_ml if change.before_ml > 0 else None,
                    **(bounds if half else {}),
                    "why_no_interval": None if half else "no draw of the parameters changes this region",
                }
            )
    return pd.DataFrame(found, columns=COLUMNS)
