"""Centiles of one number along another, without a formula: how volumes lie among participants of about the same age."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = (5, 25, 50, 75, 95)
LEAST = 10  # participants that a centile rests on


def centiles(x: Array, y: Array, at: Array, levels: tuple[int, ...] = LEVELS) -> Array:
    """Centiles of y at each place of `at`, (levels, places); NaN where fewer than `LEAST` participants are near.

    Weights fall with the distance from the place as a Gaussian whose width is Scott's rule; the centiles are those of
    the weighted residuals about the weighted straight line through the place, so that they lean the right way at the
    ends, too.
    """
    found = np.full((len(levels), len(at)), np.nan)
    spread = float(np.std(x))
    if len(x) < LEAST or spread == 0:
        return found
    width = 1.06 * spread * len(x) ** -0.2
    for place, centre in enumerate(at):
        distance = (x - centre) / width
        weight = np.exp(-(distance**2) / 2)
        if weight.sum() ** 2 / (weight**2).sum() < LEAST:
            continue
        line = np.polynomial.Polynomial.fit(distance, y, 1, w=np.sqrt(weight))
        residual = y - line(distance)
        order = np.argsort(residual)
        share = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
        found[:, place] = line(0.0) + np.interp(np.array(levels) / 100, share, residual[order])
    return found
