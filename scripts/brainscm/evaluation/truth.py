"""The true answer to a counterfactual question in template space, where a simulator made one.

A simulated true counterfactual has the same scanner, pose and noise as its scan, so the raw difference of the two
heads is the true change and nothing else. It is brought to template space through the *factual* scan's transform and
intensity scaling: whatever preprocessing would make of the other head never enters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from brainscm.errors import ScanError
from brainscm.gain import local_gain, to_grid
from brainscm.images import Grid, Image, Mask, Volume

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """The true answer to a case in template space, (x, y, z), and its regional volumes in ml."""

    volume: Volume
    regions_ml: Mapping[str, float]


def read_raw(path: str | Path) -> nib.Nifti1Image:
    """Read a raw head with its voxels.

    Raises:
        ScanError: it is missing or cut short.
    """
    try:
        image = nib.load(path)
        image.get_fdata(dtype=np.float32)
    except (OSError, EOFError, ImageFileError) as error:
        raise ScanError(f"{path}: cannot be read ({error}); simulate or copy it again.") from error
    return image


def true_volume(
    factual: Volume, mask: Mask, factual_raw: nib.Nifti1Image, answer_raw: nib.Nifti1Image, to_scan: Matrix, grid: Grid
) -> Volume:
    """The true counterfactual in template space, (x, y, z): the preprocessed scan plus the resampled true raw change.

    Preprocessing divides a raw scan by a smooth bias field and a scale. That gain is read off the scan itself, as the
    local least-squares slope of preprocessed on raw intensities (Gaussian window), so that the change is scaled exactly
    as the scan was and equal heads give back the scan to the last bit.

    Args:
        factual, mask: the preprocessed scan on `grid`.
        factual_raw, answer_raw: the scan and the true counterfactual as the scanner gave them.
        to_scan: (4, 4) map from template to scan world coordinates (RAS+, mm), the factual scan's own.

    Raises:
        ScanError: the two raw heads are not on one grid, so that their difference would hold more than the change.
    """
    if answer_raw.shape != factual_raw.shape or not np.allclose(answer_raw.affine, factual_raw.affine, atol=1e-4):
        raise ScanError("the true counterfactual lies on another grid than its scan; simulate the cohort again.")

    raw = factual_raw.get_fdata(dtype=np.float32)
    affine = factual_raw.affine
    change = to_grid(Image(answer_raw.get_fdata(dtype=np.float32) - raw, affine), grid, to_scan)
    brightness = to_grid(Image(raw, affine), grid, to_scan) * mask
    gain = local_gain(factual, brightness, float(voxel_sizes(grid.affine)[0]))
    # As in preprocessing, no intensity is negative.
    return (np.maximum(factual + gain * change, np.minimum(factual, 0)) * mask).astype(np.float32)
