"""What stands between a raw scan's intensities and its preprocessed ones: a smooth gain, read off the two images."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from brainscm.images import Grid, Image, Volume
from brainscm.resampling import gaussian_for_voxels, sample

WINDOW_MM = 6.0  # standard deviation: narrow beside a bias field (on simulated heads the gain is right to 2 %)


def to_grid(raw: Image, grid: Grid, to_scan: np.ndarray) -> Volume:
    """A raw image on the grid of preprocessed scans, as preprocessing brings it there; `to_scan` (4, 4), RAS+ mm."""
    blurred = gaussian_for_voxels(raw, float(np.linalg.norm(grid.affine[:3, 0])))
    return sample(blurred, grid.affine, grid.shape, to_scan)


def local_gain(of: Volume, on: Volume, voxel_mm: float) -> Volume:
    """The local least-squares slope of one volume (x, y, z) on another, in a Gaussian window; 0 where `on` is empty."""
    window = WINDOW_MM / voxel_mm
    squares = gaussian_filter(on * on, window)
    return np.asarray(gaussian_filter(of * on, window) / np.maximum(squares, np.finfo(np.float32).tiny))
