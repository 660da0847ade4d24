"""Calibrated intervals of regional changes: the spread of the draws, times a factor learnt on participants of no test.

How far draws of the parameters spread tells how sure the model is of one change beside another, but not how far a
measured change may be off: encoding, decoding and measuring err, too. Split-conformal calibration (Papadopoulos et al.
2002, doi 10.1007/3-540-36755-1_29, normalised) finds the factor by which that spread has to be taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainscm.counterfactuals.regional import RegionChange
from brainscm.errors import BrainSCMError
from brainscm.scm.design import Array
from brainscm.scm.slope_spread import Slopes
from brainscm.tables import read_table, write_table

LEVEL = 0.95
NEEDED = math.ceil(LEVEL / (1 - LEVEL))  # participants: with fewer no finite interval has this level
FEW = f"fewer than {NEEDED} participants outside the test split to calibrate intervals on"
STILL = "no draw of the parameters changes this region"
COLUMNS = [
    "scan", "participant", "session", "query", "trajectory", "region", "before_ml", "change_ml", "change_percent",
    "low_95_ml", "high_95_ml", "why_no_interval",
]  # fmt: skip
SLOPES = ("mean_slope_ml_a_year", "slope_sd_ml_a_year", "slope_half_95_ml_a_year")
UNKNOWN = "the causal model expects nothing of this region"


@dataclass(frozen=True)
class IntervalFactors:
    """By region how many times the draws' spread an interval reaches to either side, and on how many participants it
    was learnt; no factor where there are too few. How far participants' own slopes in time differ widens it."""

    factors: Mapping[str, float]
    participants: Mapping[str, int]
    slopes: Mapping[str, Slopes] = field(default_factory=dict)

    @classmethod
    def learn(
        cls, scores: Mapping[str, Mapping[str, Array]], slopes: Mapping[str, Slopes] | None = None
    ) -> IntervalFactors:
        """From each region's scores by participant: |measured − expected| over the spread, some of each.

        Args:
            slopes: of the participants in time, where repeated visits tell them.
        """
        factors = {}
        for region, of_region in scores.items():
            n = len(of_region)
            if n >= NEEDED:
                # Each participant counts once, and one more, who is not there, is the worst of all.
                pooled = np.concatenate([*of_region.values()])
                weights = np.concatenate([np.full(len(own), 1 / len(own)) for own in of_region.values()])
                order = np.argsort(pooled)
                place = np.searchsorted(np.cumsum(weights[order]), LEVEL * (n + 1) - 1e-9)
                factors[region] = float(pooled[order][place])
        return cls(factors, {region: len(of_region) for region, of_region in scores.items()}, slopes or {})

    def write(self, path: Path) -> None:
        """Write intervals.tsv."""
        rows = []
        for region, count in self.participants.items():
            row: dict[str, Any] = {"region": region, "factor": self.factors.get(region), "participants": count}
            if region in self.slopes:
                slopes = self.slopes[region]
                row |= dict(zip(SLOPES, (slopes.mean_ml, slopes.sd_ml, slopes.half_95_ml), strict=True))
            rows.append(row)
        write_table(pd.DataFrame(rows, columns=["region", "factor", "participants", *SLOPES]), path)

    @classmethod
    def read(cls, path: Path) -> IntervalFactors:
        """Read what `write` wrote.

        Raises:
            BrainSCMError: an earlier version wrote it, and other numbers.
        """
        table = read_table(path).set_index("region")
        if lacking := [name for name in SLOPES if name not in table]:
            raise BrainSCMError(f"{path}: it lacks {lacking[0]}, as an earlier version wrote it; make it again.")
        factors, participants = table["factor"].dropna(), table["participants"]
        slopes = table[list(SLOPES)].dropna()
        return cls(
            {str(region): float(factor) for region, factor in factors.items()},
            {str(region): int(count) for region, count in participants.items()},
            {str(row.Index): Slopes(float(row[1]), float(row[2]), float(row[3])) for row in slopes.itertuples()},
        )

    def half_width_ml(self, region: str, change: RegionChange, years: float = 0.0) -> float | str:
        """Of the interval about a change; in words where there is none.

        Args:
            years: of the change that is a change in time.
        """
        if not change.error_ml:
            return STILL
        if region in self.factors:
            own = self.slopes[region].half_width_ml(years) if region in self.slopes else 0.0
            return math.hypot(self.factors[region] * change.error_ml, own)
        return FEW if region in self.participants else UNKNOWN


def regions_table(rows: Sequence[Mapping[str, Any]], factors: IntervalFactors) -> pd.DataFrame:
    """One row a counterfactual and region, see `COLUMNS`.

    Args:
        rows: of the manifest, with `regions` where there is a counterfactual, and the `years` that it goes on.
    """
    found = []
    for row in rows:
        for region, change in (row.get("regions") or {}).items():
            half = factors.half_width_ml(region, change, row["years"])
            bounds: dict[str, Any] = {"why_no_interval": half}
            if isinstance(half, float):
                bounds = {"low_95_ml": change.change_ml - half, "high_95_ml": change.change_ml + half}
            found.append(
                {
                    **{key: row.get(key) for key in ("scan", "participant", "session", "query", "trajectory")},
                    "region": region,
                    "before_ml": change.before_ml,
                    "change_ml": change.change_ml,
                    "change_percent": 100 * change.change_ml / change.before_ml if change.before_ml > 0 else None,
                    **bounds,
                }
            )
    return pd.DataFrame(found, columns=COLUMNS)
