"""Intervals for a counterfactual's regional volumes, calibrated on participants who are not tested.

The truth of a counterfactual is never seen, so nothing can be conformed to it. What can be seen is how far the change
that is *measured on the counterfactual volume* lies from the change that the causal model's own regression of that
region *expects*, for the same question put to participants of the training and validation splits. That distance, its
mean and its standard deviation over participants, is the error of encoding, decoding and measuring; the
regression's parameters and the noise that abduction leaves open add theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from brainscm.scm.design import Array

PARTICIPANTS_NEEDED = 5
LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Calibration:
    """Measured minus expected change over the calibration participants, by region: mean and standard deviation (ml)."""

    regions: tuple[str, ...]
    bias_ml: Array
    sd_ml: Array
    participants: int

    @classmethod
    def learn(cls, regions: Sequence[str], excess_ml: Array) -> Calibration | None:
        """From the excess of each calibration participant (n, r); None where there are too few of them."""
        if len(excess_ml) < PARTICIPANTS_NEEDED:
            return None
        return cls(tuple(regions), excess_ml.mean(axis=0), excess_ml.std(axis=0, ddof=1), len(excess_ml))

    def as_json(self) -> dict[str, Any]:
        return {
            "regions": list(self.regions),
            "bias_ml": self.bias_ml.tolist(),
            "sd_ml": self.sd_ml.tolist(),
            "participants": self.participants,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Calibration:
        bias_ml, sd_ml = (np.array(told[name]) for name in ("bias_ml", "sd_ml"))
        return cls(tuple(told["regions"]), bias_ml, sd_ml, told["participants"])

    def scaled(self, factor: float) -> Calibration:
        """For a question `factor` times as large."""
        return Calibration(self.regions, self.bias_ml * factor, self.sd_ml * abs(factor), self.participants)

    def intervals(
        self, measured_ml: Mapping[str, float], drawn_ml: Array, further_sd: Mapping[str, float]
    ) -> dict[str, RegionInterval]:
        """The interval of each region of one counterfactual.

        Args:
            measured_ml: volumes of the regions in the counterfactual.
            drawn_ml: (K, r) expected change under draws of the parameters and the open noise.
            further_sd: standard deviation (ml) of what else the truth differs by: a second scan, participants' own
                slopes in time.
        """
        of_calibration = self.sd_ml**2 * (1 + 1 / self.participants)
        sd = np.sqrt(of_calibration + drawn_ml.var(axis=0, ddof=1))
        return {
            region: RegionInterval(
                measured_ml[region] - self.bias_ml[place],
                float(np.hypot(sd[place], further_sd.get(region, 0.0))),
                self.participants - 1,
            )
            for place, region in enumerate(self.regions)
        }


@dataclass(frozen=True)
class RegionInterval:
    """A Student t distribution of a region's volume: centre and scale in ml."""

    centre_ml: float
    sd_ml: float
    degrees_of_freedom: int

    def half_width(self, level: float) -> float:
        return float(scipy.stats.t.ppf(0.5 + level / 2, self.degrees_of_freedom)) * self.sd_ml

    def covers(self, volume_ml: float, level: float) -> bool:
        return abs(volume_ml - self.centre_ml) <= self.half_width(level)
