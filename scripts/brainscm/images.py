"""3D images: an array with its place in the world, the grid that all preprocessed scans share, and NIfTI files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import Opener

from brainscm.errors import ScanError
from brainscm.files import whole

Volume = npt.NDArray[np.float32]  # (x, y, z) or (n, 1, x, y, z), without its place in the world
Mask = npt.NDArray[np.bool_]
Displacement = npt.NDArray[np.float32]  # (3, x/2, y/2, z/2), in voxels of the grid, at every second of them

LPS = np.diag([-1.0, -1.0, 1.0])  # ITK's world axes against NIfTI's RAS+
GZIP_LEVEL = 1  # brains on an empty ground get little smaller with more
SCANNER = "scanner"  # the NIfTI code of a scan's own coordinates


@dataclass(frozen=True)
class Image:
    """`data` (x, y, z) and its voxel-to-world `affine` (4, 4), mm, RAS+."""

    data: np.ndarray
    affine: np.ndarray

    @property
    def voxel_mm(self) -> np.ndarray:
        return voxel_sizes(self.affine)

    @property
    def voxel_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def with_data(self, data: np.ndarray) -> Image:
        return Image(data, self.affine)


@dataclass(frozen=True)
class Grid:
    """The template-space grid that all preprocessed scans share.

    Attributes:
        affine: (4, 4), voxel to world, mm, RAS+.
        space: NIfTI's word for these world coordinates: `mni`, or `template` for any other template's.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    space: str = "mni"

    @classmethod
    def of(cls, image_path: str | Path) -> Grid:
        image = _load(image_path)
        space = nib.nifti1.xform_codes.label[int(image.header["sform_code"])]
        return cls(image.shape, np.asarray(image.affine, np.float64), space)

    @property
    def nodes(self) -> Grid:
        """The grid of every second voxel, on which displacements live: a node in the middle of 2 × 2 × 2 voxels."""
        x, y, z = (n // 2 for n in self.shape)
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
        affine[:3, :3] *= 2
        return Grid((x, y, z), affine, self.space)

    def agrees_with(self, other: Grid) -> bool:
        return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=1e-3)

    def __str__(self) -> str:
        voxel_mm = voxel_sizes(self.affine)
        origin = ", ".join(f"{mm:g}" for mm in self.affine[:3, 3])
        return f"{'×'.join(map(str, self.shape))} at {'×'.join(f'{mm:g}' for mm in voxel_mm)} mm from ({origin})"


def template_code(template: str) -> str:
    """NIfTI's word for the world coordinates of a template with this name."""
    return "mni" if template.startswith("MNI") else "template"


def write_image(
    path: Path, image: Image, space: str, dtype: npt.DTypeLike = np.float32, gzip_level: int = GZIP_LEVEL
) -> None:
    """Write a NIfTI; `space` is NIfTI's word for its world coordinates, `gzip_level` 0 (stored) to 9."""
    nifti = nib.Nifti1Image(image.data.astype(dtype), image.affine)
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(image.affine, code=space)
    nifti.set_sform(image.affine, code=space)
    with whole(path) as partial, Opener(partial, "wb", compresslevel=gzip_level) as file:
        nifti.to_stream(file)


def write_volume(
    path: Path,
    volume: npt.NDArray[np.floating],
    grid: Grid,
    dtype: npt.DTypeLike = np.float32,
    gzip_level: int = GZIP_LEVEL,
) -> None:
    """Write a volume (x, y, z) that lies on the common grid."""
    write_image(path, Image(volume, grid.affine), grid.space, dtype, gzip_level)


def write_coarsely(path: Path, volume: npt.NDArray[np.floating], grid: Grid) -> None:
    """Write a volume (x, y, z) on the common grid in 256 steps from its lowest to its highest intensity: for eyes."""
    nifti = nib.Nifti1Image(volume.astype(np.float32), grid.affine)
    nifti.set_data_dtype(np.uint8)
    nifti.header.set_xyzt_units("mm")
    nifti.set_sform(grid.affine, code=grid.space)
    with whole(path) as partial:
        nib.save(nifti, partial)


def read_volume(image_path: str | Path, grid: Grid) -> Volume:
    """Read a preprocessed scan (x, y, z) and check that it lies on the grid and is finite.

    Raises:
        ScanError: it cannot be read, lies on another grid, or holds NaN or infinity.
    """
    image = _load(image_path)
    own = Grid(image.shape, image.affine)
    if not own.agrees_with(grid):
        raise ScanError(
            f"{Path(image_path).name}: its grid is {own}, not {grid} like the other scans'; "
            "run the preprocessing of this scan again."
        )
    volume = _voxels(image, image_path)
    if not np.isfinite(volume).all():
        raise ScanError(f"{Path(image_path).name}: holds NaN or infinity; run the preprocessing of this scan again.")
    return volume


def read_mask(mask_path: str | Path) -> Mask:
    """Read a brain mask (x, y, z)."""
    return _voxels(_load(mask_path), mask_path) > 0.5


def write_displacement(path: Path, displacement: npt.NDArray[np.floating], grid: Grid) -> None:
    """Write a displacement (3, x/2, y/2, z/2) on the nodes of a grid, in its voxels, as ITK and ANTs read it.

    A NIfTI of vectors (x/2, y/2, z/2, 1, 3) in LPS mm: what is added to a point of the template.
    """
    vectors = LPS @ grid.affine[:3, :3] @ displacement.reshape(3, -1).astype(np.float64)
    data = vectors.T.reshape(*displacement.shape[1:], 1, 3).astype(np.float32)
    nifti = nib.Nifti1Image(data, grid.nodes.affine)
    nifti.header.set_intent("vector")
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(grid.nodes.affine, code=grid.space)
    nifti.set_sform(grid.nodes.affine, code=grid.space)
    with whole(path) as partial:
        nib.save(nifti, partial)


def read_displacement(path: str | Path, grid: Grid) -> Displacement:
    """Read a displacement (3, x/2, y/2, z/2) in voxels of a grid, on whose nodes it lies.

    Raises:
        ScanError: it cannot be read, lies on another grid, or holds NaN or infinity.
    """
    image = _load(path, dimensions=5)
    nodes = grid.nodes
    if image.shape != (*nodes.shape, 1, 3) or not np.allclose(image.affine, nodes.affine, atol=1e-3):
        raise ScanError(
            f"{Path(path).name}: does not lie on the nodes of {grid}; run the alignment of this scan again."
        )
    vectors = _voxels(image, path).reshape(-1, 3).T.astype(np.float64)
    displacement = np.linalg.solve(LPS @ grid.affine[:3, :3], vectors).reshape(3, *nodes.shape)
    if not np.isfinite(displacement).all():
        raise ScanError(f"{Path(path).name}: holds NaN or infinity; run the alignment of this scan again.")
    return displacement.astype(np.float32)


def _load(path: str | Path, dimensions: int = 3) -> Any:
    try:
        image = nib.load(path)
    except (OSError, ImageFileError) as error:
        raise ScanError(f"{path}: cannot be read ({error}); run the preprocessing of this scan again.") from error
    if len(image.shape) != dimensions:
        raise ScanError(
            f"{path}: has {len(image.shape)} dimensions, not {dimensions}; run the preprocessing of this scan again."
        )
    return image


def _voxels(image: Any, path: str | Path) -> Volume:
    try:
        return np.asarray(image.dataobj, np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise ScanError(f"{path}: is cut short ({error}); run the preprocessing of this scan again.") from error
