"""Make intensities comparable: N4 against the bias field, white-matter peak to 1."""

from __future__ import annotations

import numpy as np

from brainscm.images import Image
from brainscm.preprocess.itk import load_ants, to_ants


def bias_field(head: Image, region: np.ndarray, shrink_factor: int = 4) -> np.ndarray:
    """Multiplicative bias field of `head` by N4 inside `region`, mean 1 there (Tustison et al. 2010,
    doi 10.1109/TMI.2010.2046908)."""
    ants = load_ants()
    positive = head.with_data(np.maximum(head.data, 1e-3 * np.percentile(head.data, 99)))
    field = ants.n4_bias_field_correction(
        to_ants(positive),
        mask=to_ants(head.with_data(region.astype(np.float32))),
        shrink_factor=shrink_factor,
        convergence={"iters": [30, 30, 20], "tol": 1e-5},
        return_bias_field=True,
    ).numpy()
    return field / np.exp(np.log(field[region]).mean())


def white_peak(values: np.ndarray) -> float:
    """The mode of white-matter intensities: top of a smoothed histogram between its 2nd and 98th percentile."""
    low, high = np.percentile(values, (2, 98))
    counts, edges = np.histogram(values, bins=80, range=(low, high + 1e-6))
    smooth = np.convolve(counts, np.hanning(13), mode="same")
    top = int(np.argmax(smooth))
    return float((edges[top] + edges[top + 1]) / 2)
