"""Brains that are given: by a scan that was skull-stripped before it came here, or by another program's mask.

A stripped scan's surroundings are empty, and what is left is a brain's. A whole head is registered with its skull and
scalp; a brain that has none would be cut a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from brainscm.errors import ScanError
from brainscm.images import Image
from brainscm.preprocess.head import RawScan
from brainscm.preprocess.network import FirstLook
from brainscm.preprocess.nifti import read_nifti
from brainscm.resampling import sample

Expected = Literal["head", "brain", "auto"]  # what the study says that its scans are; `auto` looks at each

EMPTY_SHARE = 0.3  # of all voxels at least, of one value or noise, around a stripped brain
BRAIN_ML = (300.0, 2100.0)  # the outlines of brains; the smallest head, cut at the chin, holds more
LOOSE_ML = 3000.0  # a brain whose mask was 8 mm too wide and soft at its edge holds less
ONE_PIECE = 0.9  # of all that is there is the brain: around a skull that was set to zero there is still a scalp
MAX_ON_FACES_CM2 = 60.0  # a head that the field of view cuts ends on its faces
LOOSE_ON_FACES_CM2 = 20.0  # and if little else tells it from a brain: heads of that size have 48 and more
RINGING = 0.005  # of the bright end: what an interpolation leaves around a brain that was stripped before it
CORNER = 1 / 12  # of the field of view's edge: what is there is background
NOISE = 8.0  # times the noise's median deviation: what exceeds it is no noise
SULCUS_MM = 6.0  # fluid that noise hides between what stands out of it
# Of what is given is what the network takes for the brain: a head has at most 0.64, a brain with 4 mm around it 0.81.
BRAIN_SHARE = 0.75
LEAST_BRAIN_ML = 300.0
NOISY = "what surrounds the given brain is not empty: its outline is where it stands out of that; look at the mask"
LOOSE = (
    "it is probably a brain that was stripped with much around it, and was treated as a whole head: look at the mask, "
    "and write preprocess.input: head if it is a whole head, or brain to take all that is there for the brain"
)


@dataclass(frozen=True)
class Given:
    """What is known of a scan that may have been stripped before.

    Attributes:
        outline: (x, y, z) of the brain that was given; None where the brain has to be found.
        notes: sentences about what is not certain.
    """

    outline: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def find_given(scan: Image, expected: Expected) -> Given:
    """Whether a scan is a brain that was stripped already, or a whole head.

    Args:
        expected: what the study says that its scans are.

    Raises:
        ScanError: a brain is expected, and the scan has no empty surroundings.
    """
    if expected == "head":
        return Given()
    held, is_noisy = _held(scan.data)
    empty_share = float(1 - held.mean())
    if expected == "brain" and (empty_share < EMPTY_SHARE or not held.any()):
        told = f"{empty_share:.0%} of its voxels are empty" if held.any() else "nothing stands out of its background"
        raise ScanError(f"it is no skull-stripped brain: {told}; write preprocess.input: auto")
    piece = _largest_piece(held)
    is_one = empty_share >= EMPTY_SHARE and piece.sum() >= ONE_PIECE * held.sum()
    if is_noisy:
        piece = _closed(piece, max(1, round(SULCUS_MM / 2 / float(scan.voxel_mm.mean()))))
    outline = ndimage.binary_fill_holes(piece)
    volume_ml, on_faces_cm2 = outline.sum() * scan.voxel_ml, _on_faces_cm2(outline, scan.voxel_mm)
    if expected == "brain" or (is_one and BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1] and on_faces_cm2 <= MAX_ON_FACES_CM2):
        return Given(outline, (NOISY,) if is_noisy else ())
    # Around a head the air is hardly ever empty, and what stands out of its noise may be as small as a brain.
    is_loose = is_one and not is_noisy and BRAIN_ML[1] < volume_ml <= LOOSE_ML and on_faces_cm2 <= LOOSE_ON_FACES_CM2
    return Given(notes=(LOOSE,) if is_loose else ())


def holds_a_head(outline: Image, head: Image) -> bool:
    """Whether the network sees a brain that fills little of what stands out of a scan's background.

    A child's head may be as small as a brain, and of a head in noise little stands out.

    Args:
        outline: (x, y, z) of what `find_given` took for a brain, on the raw scan's grid.
        head: the whole scan on the working grid.
    """
    seen = FirstLook.at(head).on_grid_of(head) > 0.5
    if seen.sum() * head.voxel_ml < LEAST_BRAIN_ML:
        return False
    within = sample(outline.with_data(outline.data.astype(np.float32)), head.affine, head.data.shape, order=1) > 0.5
    return float((seen & within).sum()) < BRAIN_SHARE * float(within.sum())


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


def _held(data: np.ndarray) -> tuple[np.ndarray, bool]:
    """What is not background, and whether the background is noise."""
    edges = (np.r_[: max(2, round(n * CORNER)), -max(2, round(n * CORNER)) : 0] for n in data.shape)
    corners = data[np.ix_(*edges)]
    background = float(np.median(corners))
    beside = np.abs(data - background)
    ringing = RINGING * np.percentile(beside, 99.5)
    noise = NOISE * float(np.median(np.abs(corners - background)))
    return beside > max(ringing, noise), noise > ringing


def _closed(piece: np.ndarray, voxels: int) -> np.ndarray:
    return ndimage.binary_closing(np.pad(piece, voxels), iterations=voxels)[(slice(voxels, -voxels),) * 3]


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
