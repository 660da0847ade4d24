"""How far participants' own changes differ: the spread of their slopes in time, where visits are repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats

from brainscm.scm.design import Array
from brainscm.scm.model import Scm
from brainscm.visits import SINCE, add_years_since_baseline

FEWEST = 5  # participants with several visits, below which nothing is said


def slope_spreads(scm: Scm, table: pd.DataFrame, regions: Sequence[str]) -> pd.DataFrame:
    """The spread of slopes in time between training participants: rows like those of `diagnose`.

    `slope_spread` is the standard deviation of the participants' own slopes of a volume over the size of the mean
    slope. A warning says where slopes differ, p < 0.05 (adjusted for the regions): intervals of one participant do not
    hold that.

    Args:
        scm: the fitted model. table: scan, age, and the columns `<region>_ml`. regions: names of the regions.
    """
    columns, rows = ["check", "item", "value", "warning"], []
    told = add_years_since_baseline(scm.training[["scan", "participant"]].merge(table.drop(columns="participant")))
    measured = [region for region in regions if f"{region}_ml" in told]
    if SINCE not in told or not pd.api.types.is_numeric_dtype(told[SINCE]):
        return pd.DataFrame(columns=columns)
    for region in measured:
        known = told[told[[SINCE, f"{region}_ml"]].notna().all(axis=1)]
        found = random_slopes(
            known[f"{region}_ml"].to_numpy(float), known[SINCE].to_numpy(float), known["participant"].to_numpy(str)
        )
        if found is None:
            continue
        slope, spread, p = found
        words = (
            f"participants' own slopes of {region} in time differ: {slope:.3g} ml a year with a standard deviation of "
            f"{spread:.2g} (p = {p:.2g}), which the intervals of one participant's change do not hold"
        )
        share = spread / abs(slope) if slope else np.nan
        rows.append(("slope_spread", region, share, words if p < 0.05 / len(measured) else None))
    return pd.DataFrame(rows, columns=columns)


def random_slopes(y: Array, time: Array, participants: Array) -> tuple[float, float, float] | None:
    """Mean and standard deviation of the participants' slopes, and p of their being all the same.

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
    weights = squares[several]
    slopes = np.bincount(codes, t * v)[several] / weights
    noise = (np.bincount(codes, v * v)[several] - weights * slopes**2).sum() / freedom
    mean = float(weights @ slopes / weights.sum())
    q = float(weights @ (slopes - mean) ** 2)
    between = (q - noise * (groups - 1)) / (weights.sum() - (weights**2).sum() / weights.sum())
    p = float(scipy.stats.f.sf(q / (groups - 1) / noise, groups - 1, freedom)) if noise > 0 else np.nan
    return mean, float(np.sqrt(max(between, 0.0))), p
