"""How far participants' own changes differ: the spread of their slopes in time, where visits are repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special
import scipy.stats

from brainscm.scm.design import Array
from brainscm.scm.error_rates import SLOPES_SKEWED, of_few_visits
from brainscm.scm.model import Scm
from brainscm.visits import AGE, SINCE, add_years_since_baseline

FEWEST = 5  # participants with several visits, below which nothing is said
DRAWS = 1000  # of the spread
HALVINGS = 20


@dataclass(frozen=True)
class Slopes:
    """Of participants who came several times: their own slopes of a volume in time (ml a year).

    Attributes:
        mean_ml, sd_ml: of the slopes.
        half_95_ml: by how much another participant's slope may differ from the mean, in 95 % of them, with how little
            is known of the spread.
        p: of their being all the same.
        participants: who came several times.
    """

    mean_ml: float
    sd_ml: float
    half_95_ml: float
    p: float = np.nan
    participants: int = 0

    def half_width_ml(self, years: float) -> float:
        """By how much another participant's own change in time may differ from the expected one, in 95 % of them."""
        return self.half_95_ml * abs(years)

    @property
    def predicted_sd_ml(self) -> float:
        """The standard deviation of normal slopes of which 95 % lie within `half_95_ml`."""
        return self.half_95_ml / float(scipy.stats.norm.ppf(0.975))


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
    slope. A warning says where slopes differ, p < 0.05 (adjusted for the regions). `returning_participants` are those
    of whom the region knows that least, with a warning where they are few.

    Args: see `region_slopes`.
    """
    found, rows = region_slopes(scm, table, regions), []
    for region, slopes in found.items():
        words = (
            f"participants' own slopes of {region} in time differ: {slopes.mean_ml:.3g} ml a year with a standard "
            f"deviation of {slopes.sd_ml:.2g} (p = {slopes.p:.2g}; of strongly skewed residuals p < 0.05 is found in "
            f"up to {SLOPES_SKEWED} % of cases where there is nothing); intervals of changes in time are wider by it"
        )
        share = slopes.sd_ml / abs(slopes.mean_ml) if slopes.mean_ml else np.nan
        rows.append(("slope_spread", region, share, words if slopes.p < 0.05 / len(found) else None))
    if found:
        region, fewest = min(((region, slopes.participants) for region, slopes in found.items()), key=lambda of: of[1])
        rows.append(("returning_participants", region, fewest, of_few_visits(fewest) or None))
    return pd.DataFrame(rows, columns=["check", "item", "value", "warning"])


def random_slopes(y: Array, time: Array, participants: Array) -> Slopes | None:
    """The participants' own slopes in time.

    With v_ij = a_i + b_i t_ij + e_ij, S_i the summed squares of t about its mean and b̂_i the slope of participant i,

        Q = Σ S_i (b̂_i - b̄)²,   E(Q) = σ_e²(G - 1) + σ_b²(ΣS_i - ΣS_i²/ΣS_i),   b̄ = Σ S_i b̂_i / ΣS_i

    for G participants with several visits; σ_e² is that about their own lines, and Q/(G - 1)/σ_e² is F where all slopes
    are one (DerSimonian & Laird, 1986, for the moments). None where there are too few visits to tell σ_e.
    """
    codes = np.unique(participants, return_inverse=True)[1]
    scans = np.bincount(codes)
    t, v = (each - (np.bincount(codes, each) / scans)[codes] for each in (time, y))
    squares = np.bincount(codes, t * t)
    several = squares > 0
    freedom, groups = int((scans[several] - 2).sum()), int(several.sum())
    if groups < FEWEST or freedom < FEWEST:
        return None
    weights = squares[several].astype(np.float64)
    slopes = np.bincount(codes, t * v)[several] / weights
    noise = (np.bincount(codes, v * v)[several] - weights * slopes**2).sum() / freedom
    mean = float(weights @ slopes / weights.sum())
    q = float(weights @ (slopes - mean) ** 2)
    unit = weights.sum() - (weights**2).sum() / weights.sum()
    between = max((q - noise * (groups - 1)) / unit, 0.0)
    p = float(scipy.stats.f.sf(q / (groups - 1) / noise, groups - 1, freedom)) if noise > 0 else np.nan
    return Slopes(mean, float(np.sqrt(between)), _half_95(_spreads(weights, q, noise, freedom)), p, groups)


def _spreads(weights: Array, q: float, noise: float, freedom: int) -> Array:
    """Draws of σ_b² from its generalised confidence distribution (Iyer, Wang & Mathew, 2004, JASA 99), (DRAWS,).

    Each is the b with Σ S_i (d_i - d̄)² = Q, d_i = √(b + σ_e²/S_i) ε_i, ε_i a draw of normals and σ_e² one of its own
    distribution; 0 where the noise alone gives more.

    Args:
        weights: S_i, (G,). q: Q. noise: the estimate of σ_e², on `freedom` degrees of freedom.
    """
    rng, weights = np.random.default_rng(0), np.sort(weights)
    normals = rng.standard_normal((DRAWS, len(weights)))
    of_noise = (noise * freedom / rng.chisquare(freedom, DRAWS))[:, None] / weights

    def squares(d: Array) -> Array:
        return np.asarray(np.square(d) @ weights - np.square(d @ weights) / weights.sum())

    low, high = np.zeros(DRAWS), q / squares(normals)  # without noise the spread is that
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_little = squares(np.sqrt(middle[:, None] + of_noise) * normals) < q
        low, high = np.where(too_little, middle, low), np.where(too_little, high, middle)
    return low


def _half_95(spreads: Array) -> float:
    """What 95 % of normal numbers do not exceed whose variance is one of `spreads`, drawn at random."""
    sd = np.sqrt(spreads[spreads > 0])

    def beyond(half: float) -> float:
        return float(scipy.special.erfc(half / sd / np.sqrt(2)).sum() / len(spreads) - 0.05)

    return float(scipy.optimize.brentq(beyond, 0.0, 10 * sd.max())) if len(sd) > 0.05 * len(spreads) else 0.0
