"""What each counterfactual does to regional volumes, measured on it with the scan's own measure: a row a region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from brainscm.images import Volume
from brainscm.regions import RegionMeasure


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
