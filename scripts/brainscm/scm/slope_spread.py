"""How far participants' own changes differ: the spread of their slopes in time, where visits are repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats

from brainscm.scm.design import Array
from brainscm.scm.model import Scm
from brainscm.visits import AGE, SINCE, add_years_since_baseline

FEWEST = 5  # participants with several visits, below which nothing is said
LEAST_FREEDOM = 3.0


@dataclass(frozen=True)
class Slopes:
    """Of participants who came several times: their own slopes of a volume in time (ml a year).

    Attributes:
        mean_ml, sd_ml: of the slopes; freedom: degrees of freedom of `sd_ml`².
        p: of their being all the same.
    """

    mean_ml: float
    sd_ml: float
    freedom: float
    p: float = np.nan

    def half_width_ml(self, years: float) -> float:
        """By how much another participant's own change in time may differ from the expected one, in 95 % of them."""
        return float(scipy.stats.t.ppf(0.975, self.freedom)) * self.sd_ml * abs(years)


def region_slopes(scm: Scm, table: pd.DataFrame, regions: Sequence[str]) -> dict[str, Slopes]:
    """The slopes of the training participants, of each region where there are enough visits to tell.

    Args:
        scm: the fitted model. table: scan, age, and the columns `<region>_ml`. regions: names of the regions.
    """
    measures = table.drop(columns="participant").reset_index(drop=True)
    told = add_years_since_baseline(scm.training[["scan", "participant"]].merge(measures))
    if SINCE not in told or not pd.api.types.is_numeric_dtype(told[SINCE]):
        return {}
    found = {}
    for region in regions:
        if f"{region}_ml" in told:
            known = told[told[[SINCE, f"{region}_ml"]].notna().all(axis=1)]
            slopes = random_slopes(
                known[f"{region}_ml"].to_numpy(float), known[SINCE].to_numpy(float), known["participant"].to_numpy(str)
            )
            if slopes is not None:
                found[region] = slopes
    return found


def years_asked(scm: Scm, factual: pd.DataFrame, changed: pd.DataFrame, effect: str) -> Array:
    """The change of age, or of the years since baseline, that reaches the brain by every way, (n,).

    0 of a direct effect: slopes in time are total ones.
    """
    before, after = scm.values(factual), scm.values(changed)
    in_time = [name for name, column in scm.covariates.columns.items() if column in (AGE, SINCE)]
    numeric = [name for name in in_time if scm.covariates.levels[name] is None]
    if effect == "direct":
        numeric = []
    return np.asarray((after[numeric] - before[numeric]).sum(axis=1), dtype=np.float64)


def slope_spreads(scm: Scm, table: pd.DataFrame, regions: Sequence[str]) -> pd.DataFrame:
    """The spread of slopes in time between training participants: rows like those of `diagnose`.

    `slope_spread` is the standard deviation of the participants' own slopes of a volume over the size of the mean
    slope. A warning says where slopes differ, p < 0.05 (adjusted for the regions).

    Args: see `region_slopes`.
    """
    found, rows = region_slopes(scm, table, regions), []
    for region, slopes in found.items():
        words = (
            f"participants' own slopes of {region} in time differ: {slopes.mean_ml:.3g} ml a year with a standard "
            f"deviation of {slopes.sd_ml:.2g} (p = {slopes.p:.2g}, if residuals are normal); intervals of changes in "
            "time are wider by it"
        )
        share = slopes.sd_ml / abs(slopes.mean_ml) if slopes.mean_ml else np.nan
        rows.append(("slope_spread", region, share, words if slopes.p < 0.05 / len(found) else None))
    return pd.DataFrame(rows, columns=["check", "item", "value", "warning"])


def random_slopes(y: Array, time: Array, participants: Array) -> Slopes | None:
    """The participants' own slopes in time.

    With v_ij = a_i + b_i t_ij + e_ij, S_i the summed squares of t about its mean and b̂_i the slope of participant i,

        Q = Σ S_i (b̂_i - b̄)²,   E(Q) = σ_e²(G - 1) + σ_b²(ΣS_i - ΣS_i²/ΣS_i),   b̄ = Σ S_i b̂_i / ΣS_i

    for G participants with several visits; σ_e² is that about their own lines, and Q/(G - 1)/σ_e² is F where all slopes
    are one (DerSimonian & Laird, 1986, for the moments). σ_b² has the degrees of freedom that Q, a sum of χ² with
    weights S_i σ_b² + σ_e², gives it (Satterthwaite), at least `LEAST_FREEDOM`. None where there are too few visits to
    tell σ_e.
    """
    codes = np.unique(participants, return_inverse=True)[1]
    scans = np.bincount(codes)
    t, v = (each - (np.bincount(codes, each) / scans)[codes] for each in (time, y))
    squares = np.bincount(codes, t * t)
    several = squares > 0
    freedom, groups = int((scans[several] - 2).sum()), int(several.sum())
    if groups < FEWEST or freedom < FEWEST:
        return None
    weights = squares[several]
    slopes = np.bincount(codes, t * v)[several] / weights
    noise = (np.bincount(codes, v * v)[several] - weights * slopes**2).sum() / freedom
    mean = float(weights @ slopes / weights.sum())
    q = float(weights @ (slopes - mean) ** 2)
    unit = weights.sum() - (weights**2).sum() / weights.sum()
    between = max((q - noise * (groups - 1)) / unit, 0.0)
    p = float(scipy.stats.f.sf(q / (groups - 1) / noise, groups - 1, freedom)) if noise > 0 else np.nan
    error = np.square(weights * between + noise).sum() + (groups - 1) ** 2 * noise**2 / freedom  # half of Var(Q - ...)
    of_spread = (between * unit) ** 2 / error if error > 0 else groups - 1
    return Slopes(mean, float(np.sqrt(between)), float(np.clip(of_spread, LEAST_FREEDOM, groups - 1)), p)
