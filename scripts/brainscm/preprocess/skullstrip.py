"""The intracranial mask: brain, ventricles and the CSF around the brain, down to the foramen magnum."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from brainscm.images import Image

OUTWARD_MM = 0.3  # the template's mask hugs the average cortex; this takes in the CSF on top of each participant's gyri
REACH_MM = 2.0  # how far intensities may move the surface: about what an average skull's thickness gets wrong
SMOOTH_MM = 2.8


def brain_surface(probability: Image, head: Image) -> Image:
    """Signed distance (mm, positive inside) to the surface of the intracranial mask.

    A distance can be interpolated onto any grid and cut at 0 there, without the steps that a mask would show.

    The warped template mask is right to a few millimetres: it stops short of the wide CSF of shrunken brains, and
    enters thick skulls. Within that reach the scan decides: the surface moves outward through voxels brighter than the
    border between CSF and bone, inward through darker ones, and is smoothed. Both levels are read from the scan itself.

    Args:
        probability: the template's mask warped onto the scan; its grid must be isotropic.
        head: the bias-corrected scan on the same grid.
    """
    distance = signed_distance(probability)
    deep, shell = distance > 15, (distance < -3) & (distance > -7)
    push = np.zeros_like(distance)
    if deep.any() and shell.any():
        csf, bone = np.percentile(head.data[deep], 1), np.percentile(head.data[shell], 10)
        border, slope = bone + 0.7 * (csf - bone), 0.17 * (csf - bone)
        if slope > 0:
            push = np.where(abs(distance) < 5, np.clip((head.data - border) / slope, -REACH_MM, REACH_MM), 0)
    moved = ndimage.gaussian_filter(np.clip(distance, -6, 6) + OUTWARD_MM + push, SMOOTH_MM / head.voxel_mm[0])
    return probability.with_data(np.where(solid(moved > 0), abs(moved), -abs(moved)).astype(np.float32))


def signed_distance(probability: Image) -> np.ndarray:
    """Distance (mm) to where the probability crosses one half, positive inside the largest piece and its holes."""
    mask = solid(probability.data > 0.5)
    distance = np.where(mask, ndimage.distance_transform_edt(mask) - 0.5, 0.5 - ndimage.distance_transform_edt(~mask))
    # Next to the surface the probability says where between two voxels it lies.
    rim = abs(distance) < 1
    distance[rim] = np.where(mask[rim], 1, -1) * np.minimum(abs(probability.data[rim] - 0.5) * 2, 1)
    return distance * probability.voxel_mm[0]


def solid(mask: np.ndarray) -> np.ndarray:
    """The largest piece, with its holes filled, so that ventricles are always inside."""
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + np.argmax(ndimage.sum_labels(mask, labels, np.arange(1, count + 1)))
    return ndimage.binary_fill_holes(mask)
