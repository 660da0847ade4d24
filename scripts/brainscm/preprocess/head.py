"""Read a raw T1w scan, refuse what cannot be a head, and put the rest on an upright isotropic working grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes

from brainscm.errors import ScanError
from brainscm.images import Image
from brainscm.preprocess.nifti import read_nifti
from brainscm.resampling import gaussian_for_voxels, sample

VOXEL_MM = (0.3, 6.0)  # a T1w outside these edge lengths is a header error or a localiser
EXTENT_MM = (90.0, 600.0)  # a head fits in no less and no scanner sees more
FAR_BELOW = 0.1  # of the bright end: what an interpolation or a noise that was taken away leaves below zero is less
INT16 = (-32768, 32767)
NEAR_THE_END = 700  # of the range of int16: where a number grew beyond one end and went on at the other


@dataclass(frozen=True)
class RawScan:
    """A validated scan.

    Attributes:
        data: float32 on its own grid (x, y, z).
        affine: voxel to world, mm, RAS+.
        orientation: which part of the file's header the affine is from.
        sha256: of the file.
        notes: sentences about what is odd, though it can be used.
    """

    path: Path
    data: np.ndarray
    affine: np.ndarray
    orientation: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()

    @property
    def volume(self) -> Image:
        return Image(self.data, self.affine)


def read_scan(path: Path) -> RawScan:
    """Read and validate one T1w NIfTI.

    Raises:
        ScanError: one sentence with the path, what is wrong, and what to do.
    """
    path = Path(path)
    file = read_nifti(path)
    data, affine, notes = file.data, file.affine, list(file.notes)
    if data.ndim != 3:
        raise ScanError(f"{path}: has shape {data.shape}, a T1w must be one 3D volume; extract or average its volumes")
    if min(data.shape) < 16:
        raise ScanError(f"{path}: has only {min(data.shape)} slices along one axis; use a 3D T1w, not a localiser")
    voxel_mm = np.maximum(voxel_sizes(affine), 1e-9)
    extent_mm = voxel_mm * data.shape
    if voxel_mm.min() < VOXEL_MM[0] or voxel_mm.max() > VOXEL_MM[1]:
        raise ScanError(f"{path}: voxel size {_mm(voxel_mm)} is not that of a T1w; check the header's units (mm)")
    if extent_mm.min() < EXTENT_MM[0] or extent_mm.max() > EXTENT_MM[1]:
        raise ScanError(
            f"{path}: field of view {_mm(extent_mm)} cannot hold a whole brain; use a whole-head T1w, or "
            "mend the header's units (mm)"
        )
    bad = ~np.isfinite(data)
    if bad.any():
        if _extent_mm(~bad, voxel_mm) < EXTENT_MM[0]:
            raise ScanError(f"{path}: {bad.mean():.0%} of its voxels are NaN or infinite; convert it again")
        data = np.where(bad, 0, data)
        if bad.mean() > 0.01:
            notes.append(f"{path.name}: {bad.mean():.0%} of its voxels are NaN or infinite and taken for background")
    data, told = _from_zero(data)
    notes += [f"{path.name}: {told}"] if told else []
    if not data.any():
        raise ScanError(f"{path}: every voxel is zero; convert it again")
    if np.ptp(data) == 0:
        raise ScanError(f"{path}: every voxel has the same value; convert it again")
    if np.ptp(data[data.shape[0] // 4 : -data.shape[0] // 4]) == 0 or (data != data.flat[0]).mean() < 0.02:
        raise ScanError(f"{path}: nearly all of it is empty, probably a truncated copy; copy or convert it again")
    return RawScan(path, data, affine, file.orientation, file.sha256, tuple(notes))


def working_head(scan: RawScan, voxel_mm: float = 2.0) -> Image:
    """The scan on an upright (RAS, axis-aligned) isotropic grid that holds its whole field of view; negatives set to 0.

    Every estimate (bias field, registration, mask) is made here, whatever the scan's own orientation, shear or voxel
    size: cost and behaviour then do not depend on them. World coordinates are kept.
    """
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in scan.data.shape])).reshape(3, -1)
    world = apply_affine(scan.affine, corners.T)
    low, high = world.min(0), world.max(0)
    shape = tuple(int(n) for n in np.ceil((high - low) / voxel_mm))
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = low + voxel_mm / 2
    data = np.clip(scan.data, 0, np.percentile(scan.data, 99.9))
    smooth = gaussian_for_voxels(Image(data, scan.affine), voxel_mm)
    return Image(np.clip(sample(smooth, affine, shape, order=1), 0, None), affine)


def _corner_value(data: np.ndarray) -> float:
    """The median of the corners: the value of the background, as far as it has one."""
    return float(np.median(data[:: data.shape[0] - 1, :: data.shape[1] - 1, :: data.shape[2] - 1]))


def _from_zero(data: np.ndarray) -> tuple[np.ndarray, str]:
    """Intensities that begin at zero, and what was done to them: all that is negative counts as nothing later on.

    Scans that were standardized, and uniform images of MP2RAGE, have negative numbers in the brain. A background of
    -1024 is none of these: of its one value nothing is asked. Nor is one of noise about zero, or of ripple.
    """
    background = _corner_value(data)
    middle = data[tuple(slice(n // 4, n - n // 4) for n in data.shape)]
    middle = middle[middle != background]
    low, high = np.percentile(middle, (2, 99)) if middle.size else (0.0, 0.0)
    if low >= -FAR_BELOW * abs(high):
        return data, ""
    held = data[data != background]
    low = np.percentile(held[:: 1 + held.size // 10**6], 0.1)
    (first, last), ends = INT16, (held.min(), held.max())
    if first <= ends[0] < first + NEAR_THE_END and last - NEAR_THE_END < ends[1] <= last:
        return np.where(data < 0, data + 2**16, data), "its numbers beyond 32767 were stored as negative ones: mended"
    raised = np.where(data == background, 0, data - low)
    return raised, f"its intensities begin at {low:.3g}, also in the head: they are raised to begin at zero"


def _extent_mm(held: np.ndarray, voxel_mm: np.ndarray) -> float:
    """The shortest edge of the box around all that is true."""
    along = [np.flatnonzero(held.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return min(
        (found[-1] - found[0] + 1) * mm if len(found) else 0.0 for found, mm in zip(along, voxel_mm, strict=True)
    )


def _mm(values: np.ndarray) -> str:
    return " × ".join(f"{value:g}" for value in np.round(values, 2)) + " mm"
