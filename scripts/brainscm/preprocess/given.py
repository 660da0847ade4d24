"""Brains that are given: by a scan that was skull-stripped before it came here, or by another program's mask.

A stripped scan's surroundings are empty, and what is left is a brain's. A whole head is registered with its skull and
scalp; a brain that has none would be cut a second time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from brainscm.errors import ScanError
from brainscm.images import Image
from brainscm.preprocess.head import RawScan, corner_value
from brainscm.preprocess.nifti import read_nifti

EMPTY_SHARE = 0.3  # of all voxels at least, of one value, around a stripped brain
BRAIN_ML = (300.0, 2100.0)  # the outlines of brains; the smallest head, cut at the chin, holds more
ONE_PIECE = 0.9  # of all that is there is the brain: around a skull that was set to zero there is still a scalp
MAX_ON_FACES_CM2 = 60.0  # a head that the field of view cuts ends on its faces
RINGING = 0.005  # of the bright end: what an interpolation leaves around a brain that was stripped before it


def given_outline(scan: Image, expected: Literal["head", "brain", "auto"]) -> np.ndarray | None:
    """The outline (x, y, z) of a brain that was stripped already; None for a whole head.

    Args:
        expected: what the study says that its scans are; `auto` looks at each.

    Raises:
        ScanError: a brain is expected, and the scan has no empty surroundings.
    """
    if expected == "head":
        return None
    held = _held(scan.data)
    empty_share = float(1 - held.mean())
    if expected == "brain" and empty_share < EMPTY_SHARE:
        raise ScanError(
            f"it is no skull-stripped brain: {empty_share:.0%} of its voxels are empty; write preprocess.input: auto"
        )
    piece = _largest_piece(held)
    outline = ndimage.binary_fill_holes(piece)
    is_brain = (
        empty_share >= EMPTY_SHARE
        and piece.sum() >= ONE_PIECE * held.sum()
        and BRAIN_ML[0] <= outline.sum() * scan.voxel_ml <= BRAIN_ML[1]
        and _on_faces_cm2(outline, scan.voxel_mm) <= MAX_ON_FACES_CM2
    )
    return outline if expected == "brain" or is_brain else None


def read_given_mask(scan: RawScan, path: Path) -> np.ndarray:
    """The brain mask (x, y, z) that another program made of a scan.

    Raises:
        ScanError: it cannot be read, lies on another grid, or is empty.
    """
    file = read_nifti(path)
    if file.data.shape != scan.data.shape or not np.allclose(file.affine, scan.affine, atol=1e-2):
        raise ScanError(f"{path}: does not lie on the grid of {scan.path.name}; take masks and images of one program")
    mask = file.data > 0.5
    if not mask.any():
        raise ScanError(f"{path}: is empty; look at it")
    return mask


def _held(data: np.ndarray) -> np.ndarray:
    """What is not background."""
    return np.abs(data - corner_value(data)) > RINGING * np.percentile(data, 99.5)


def _largest_piece(held: np.ndarray) -> np.ndarray:
    """Without what hangs on it by a voxel."""
    labels, count = ndimage.label(ndimage.binary_opening(held))
    if count == 0:
        return held
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_dilation(largest) & held  # the voxels that the opening took from its surface


def _on_faces_cm2(mask: np.ndarray, voxel_mm: np.ndarray) -> float:
    area_mm2 = np.prod(voxel_mm) / voxel_mm
    return float(sum(mask.take(end, axis=k).sum() * area_mm2[k] for k in range(3) for end in (0, -1))) / 100
