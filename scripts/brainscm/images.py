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

from brainscm.errors import ScanError
from brainscm.files import whole

Volume = npt.NDArray[np.float32]  # (x, y, z) or (n, 1, x, y, z), without its place in the world
Mask = npt.NDArray[np.bool_]

LPS = np.diag([-1.0, -1.0, 1.0])  # ITK's world axes against NIfTI's RAS+
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

    def agrees_with(self, other: Grid) -> bool:
        return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=1e-3)

    def __str__(self) -> str:
        voxel_mm = voxel_sizes(self.affine)
        origin = ", ".join(f"{mm:g}" for mm in self.affine[:3, 3])
        return f"{'×'.join(map(str, self.shape))} at {'×'.join(f'{mm:g}' for mm in voxel_mm)} mm from ({origin})"


def template_code(template: str) -> str:
    """NIfTI's word for the world coordinates of a template with this name."""
    return "mni" if template.startswith("MNI") else "template"


def write_image(path: Path, image: Image, space: str, dtype: type = np.float32) -> None:
    """Write a NIfTI; `space` is NIfTI's word for its world coordinates."""
    nifti = nib.Nifti1Image(image.data.astype(dtype), image.affine)
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(image.affine, code=space)
    nifti.set_sform(image.affine, code=space)
    with whole(path) as partial:
        nib.save(nifti, partial)


def write_volume(path: Path, volume: npt.NDArray[np.floating], grid: Grid) -> None:
    """Write a volume (x, y, z) that lies on the common grid."""
    write_image(path, Image(volume, grid.affine), grid.space)


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


def _load(path: str | Path) -> Any:
    try:
        image = nib.load(path)
    except (OSError, ImageFileError) as error:
        raise ScanError(f"{path}: cannot be read ({error}); run the preprocessing of this scan again.") from error
    if len(image.shape) != 3:
        raise ScanError(f"{path}: has {len(image.shape)} dimensions, not 3; run the preprocessing of this scan again.")
    return image


def _voxels(image: Any, path: str | Path) -> Volume:
    try:
        return np.asarray(image.dataobj, np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise ScanError(f"{path}: is cut short ({error}); run the preprocessing of this scan again.") from error
