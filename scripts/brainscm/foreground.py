"""Where in an image the head is."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def foreground(head: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Head against air: voxels above a share of the bright end of the histogram, largest piece, holes filled."""
    above = head > share * np.percentile(head, 99)
    labels, count = ndimage.label(ndimage.binary_opening(above))
    if count == 0:
        return above
    largest = labels == 1 + np.argmax(ndimage.sum_labels(above, labels, np.arange(1, count + 1)))
    return ndimage.binary_fill_holes(ndimage.binary_dilation(largest))
