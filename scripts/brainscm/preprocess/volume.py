"""A 3D array with its place in the world: resampling by one affine, and the way to and from ANTs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

LPS = np.diag([-1.0, -1.0, 1.0])  # ITK's world axes against NIfTI's RAS+


@dataclass(frozen=True)
class Volume:
    """`data` (x, y, z) and its voxel-to-world `affine` (4, 4), mm, RAS+."""

    data: np.ndarray
    affine: np.ndarray

    @property
    def voxel_mm(self) -> np.ndarray:
        return nib.affines.voxel_sizes(self.affine)

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def with_data(self, data: np.ndarray) -> Volume:
        return Volume(data, self.affine)


def sample(
    source: Volume,
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


def gaussian_for_voxels(source: Volume, voxel_mm: float) -> Volume:
    """Blur `source` to the resolution of larger voxels, so that taking fewer samples does not alias.

    A voxel acts as a Gaussian of FWHM = its edge; the blur adds the missing variance, axis by axis.
    """
    fwhm = np.sqrt(np.clip(voxel_mm**2 - source.voxel_mm**2, 0, None))
    sigma = fwhm / np.sqrt(8 * np.log(2)) / source.voxel_mm
    if not sigma.any():
        return source
    return source.with_data(ndimage.gaussian_filter(source.data.astype(np.float32, copy=False), sigma))


def halve(source: Volume) -> Volume:
    """Means of 2 × 2 × 2 voxels; an odd last slice is repeated."""
    data = np.pad(source.data, [(0, n % 2) for n in source.data.shape], mode="edge").astype(np.float32, copy=False)
    x, y, z = (n // 2 for n in data.shape)
    affine = source.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
    affine[:3, :3] *= 2
    return Volume(data.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5)), affine)


def crop(source: Volume, mask: np.ndarray, margin_mm: float) -> Volume:
    """The box around `mask` with a margin, cut at the volume's own border."""
    margin = np.ceil(margin_mm / source.voxel_mm).astype(int)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = [max(0, part.start - m) for part, m in zip(box, margin, strict=True)]
    high = [min(n, part.stop + m) for part, m, n in zip(box, margin, mask.shape, strict=True)]
    affine = source.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Volume(source.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], affine)


def to_ants(volume: Volume) -> Any:
    """An ANTs image of an axis-aligned or rotated (not sheared) volume."""
    import ants

    spacing = volume.voxel_mm
    return ants.from_numpy(
        np.ascontiguousarray(volume.data, dtype=np.float32),
        origin=(LPS @ volume.affine[:3, 3]).tolist(),
        spacing=spacing.tolist(),
        direction=LPS @ (volume.affine[:3, :3] / spacing),
    )


def save_nifti(path: Path, volume: Volume, dtype: type = np.float32) -> None:
    """Write under a temporary name, then move into place: a killed job leaves no half-written volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(volume.data.astype(dtype), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(volume.affine, code=1)
    image.set_sform(volume.affine, code=1)
    temporary = path.with_name(f".{path.name.removesuffix('.nii.gz')}.tmp.nii.gz")
    nib.save(image, temporary)
    os.replace(temporary, path)
