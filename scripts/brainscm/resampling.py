"""Images on other grids: interpolated once, blurred for larger voxels, halved, cropped."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from brainscm.images import Image


def sample(
    source: Image,
    affine: np.ndarray,
    shape: tuple[int, ...],
    world: np.ndarray | None = None,
    order: int = 3,
    outside: float = 0.0,
) -> np.ndarray:
    """Interpolate `source` once on the grid (`affine`, `shape`), float32.

    Args:
        world: (4, 4) map from that grid's world coordinates to the source's, both RAS+ mm. Identity if None.
        order: spline order: 3 for intensities, 1 for probabilities and distance maps, 0 for labels.
        outside: value beyond the source's field of view.
    """
    to_source = np.linalg.inv(source.affine) @ (np.eye(4) if world is None else world) @ affine
    return ndimage.affine_transform(
        source.data.astype(np.float32, copy=False),
        to_source[:3, :3],
        to_source[:3, 3],
        output_shape=shape,
        order=order,
        cval=outside,
    )


def gaussian_for_voxels(source: Image, voxel_mm: float) -> Image:
    """Blur `source` to the resolution of larger voxels, so that taking fewer samples does not alias.

    A voxel acts as a Gaussian of FWHM = its edge; the blur adds the missing variance, axis by axis.
    """
    fwhm = np.sqrt(np.clip(voxel_mm**2 - source.voxel_mm**2, 0, None))
    sigma = fwhm / np.sqrt(8 * np.log(2)) / source.voxel_mm
    if not sigma.any():
        return source
    return source.with_data(ndimage.gaussian_filter(source.data.astype(np.float32, copy=False), sigma))


def halve(source: Image) -> Image:
    """Means of 2 × 2 × 2 voxels; an odd last slice is repeated."""
    data = np.pad(source.data, [(0, n % 2) for n in source.data.shape], mode="edge").astype(np.float32, copy=False)
    x, y, z = (n // 2 for n in data.shape)
    affine = source.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
    affine[:3, :3] *= 2
    return Image(data.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5)), affine)


def crop(source: Image, mask: np.ndarray, margin_mm: float) -> Image:
    """The box around `mask` with a margin, cut at the volume's own border."""
    margin = np.ceil(margin_mm / source.voxel_mm).astype(int)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = [max(0, part.start - m) for part, m in zip(box, margin, strict=True)]
    high = [min(n, part.stop + m) for part, m, n in zip(box, margin, mask.shape, strict=True)]
    affine = source.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Image(source.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], affine)
