"""How well a predicted counterfactual agrees with the truth: inside the brain, and region by region."""

from __future__ import annotations

import numpy as np

from brainscm.images import Mask, Volume
from brainscm.training.fidelity import psnr, ssim


def change_agreement(
    volume: Volume, change: Volume, true_volume: Volume, true_change: Volume, mask: Mask
) -> dict[str, float]:
    """Agreement of a predicted counterfactual and its signed change with the truth; all (x, y, z) on one grid.

    Over the voxels of `mask`, with p the predicted and d the true change:

    - `psnr_brain_db`, `ssim_brain`: of the predicted volume against the true one;
    - `change_correlation`: Pearson correlation of p with d; NaN where either is constant;
    - `change_slope`: least-squares slope of p on d with an intercept, cov(p, d) / var(d). 1 is a change of the right
      size, below 1 too little. 0 for a method that changes nothing; NaN where nothing truly changed.
    """
    d, p = true_change[mask].astype(np.float64), change[mask].astype(np.float64)
    d -= d.mean()
    p -= p.mean()
    variance, covariance = float(d @ d), float(p @ d)
    norms = float(np.sqrt(variance) * np.linalg.norm(p))
    return {
        "psnr_brain_db": psnr(volume, true_volume, mask=mask),
        "ssim_brain": ssim(volume, true_volume, mask=mask),
        "change_correlation": covariance / norms if norms > 0 else float("nan"),
        "change_slope": covariance / variance if variance > 0 else float("nan"),
    }
