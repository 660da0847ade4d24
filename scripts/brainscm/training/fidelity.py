"""How like two volumes are: PSNR and SSIM, over the whole grid or inside a mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

Volume = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def psnr(a: Volume, b: Volume, mask: Mask | None = None, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB of two volumes (x, y, z); infinite where they are equal.

    `data_range` is 1 because white matter peaks at 1 after preprocessing.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    mean_squared_error = np.mean(np.square(difference if mask is None else difference[mask]))
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(data_range**2 / mean_squared_error))


def ssim(a: Volume, b: Volume, mask: Mask | None = None, data_range: float = 1.0) -> float:
    """Structural similarity of two volumes (x, y, z) with a uniform 7×7×7 window (Wang et al. 2004; scikit-image).

    With a mask, the mean of the SSIM map over the mask; the windows still see what lies around it.
    """
    whole, similarity = structural_similarity(
        np.asarray(a, np.float32), np.asarray(b, np.float32), data_range=data_range, full=True
    )
    return float(whole if mask is None else similarity[mask].mean())
