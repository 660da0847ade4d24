"""Means with intervals that hold for other participants, not for other scans of these."""

from __future__ import annotations

import numpy as np


def bootstrap_mean(
    values: np.ndarray, participants: np.ndarray, rng: np.random.Generator, resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean of `values` (n,) with its 95 % percentile interval, resampling participants (n,) and not scans.

    With fewer than three participants there is no interval: NaN.
    """
    mean = float(np.mean(values))
    names, owner = np.unique(participants, return_inverse=True)
    if len(names) < 3:
        return mean, float("nan"), float("nan")
    totals = np.bincount(owner, weights=values)
    counts = np.bincount(owner).astype(np.float64)
    # (resamples, participants)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    low, high = np.percentile((weights @ totals) / (weights @ counts), [2.5, 97.5])
    return mean, float(low), float(high)
