"""A counterfactual on the raw scan's own grid and in its units: the scan's own voxels, moved, and what else changes.

The raw voxels are interpolated once, at the places that tissue is moved from, and where nothing moves not at all. What
else changes, appearance and borders, comes from template space and has its resolution. Bias field and scale are those
of the raw scan, read off it and its preprocessed image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from brainscm.errors import ScanError
from brainscm.files import read_description, sidecar
from brainscm.gain import local_gain, to_grid
from brainscm.images import Grid, Image, Mask, Volume, read_mask
from brainscm.preprocess.derived import derived_files
from brainscm.preprocess.head import read_scan
from brainscm.preprocess.itk import read_matrix
from brainscm.resampling import sample
from brainscm.scans import ScanTable
from brainscm.tables import run_paths

RIM_MM = 2.0  # within the mask's surface, over which a change sets in where the head is kept around the brain
ROOM_MM = 12.0  # around the brain: tissue is moved from no further away

Motion = NDArray[np.float32]  # (3, x, y, z), voxels of the template's grid


@dataclass(frozen=True)
class NativeVolumes:
    """On the raw scan's grid, in its units, each (x, y, z): see `synthesis.Counterfactual`."""

    volume: Volume
    difference: Volume
    uncertainty: Volume


@dataclass(frozen=True)
class NativeScan:
    """A raw scan, and what leads from its voxels to template space.

    Attributes:
        raw: as it lies in its file. mask: of the brain, on its grid, (x, y, z).
        preprocessed: the same in template space, on `grid`.
        to_scan: (4, 4), from template to scan, RAS+ mm.
    """

    raw: Image
    mask: Mask
    preprocessed: Volume
    grid: Grid
    to_scan: NDArray[np.float64]

    @classmethod
    def read(cls, scans: ScanTable, scan: str, raw: Path, preprocessed: Volume) -> NativeScan:
        """Read the raw scan (see `raw_path`) and what preprocessing wrote about it.

        Raises:
            ScanError: one of the files cannot be read, or the raw scan is not the one that was preprocessed.
        """
        read, mask = read_scan(raw), scans.path(scan, "native_mask")
        if not Grid.of(mask).agrees_with(Grid(read.data.shape, read.affine)):
            raise ScanError(f"{raw}: does not lie on the grid of its brain mask; preprocess this scan again.")
        to_scan = read_matrix(scans.path(scan, "to_template"))
        return cls(read.volume, read_mask(mask), preprocessed, scans.grid, to_scan)

    def bring(
        self,
        shown: Literal["brain", "head"],
        volume: Volume,
        difference: Volume,
        uncertainty: Volume,
        motion: Motion | None,
    ) -> NativeVolumes:
        """Bring a counterfactual to the raw scan.

        Args:
            shown: the brain alone, or the head around it, too.
            volume, difference, uncertainty: of the counterfactual in template space, (x, y, z), not masked.
            motion: where each of its voxels lay in the scan, minus the voxel; None for a counterfactual that was
                decoded as it is, and not made of the scan.
        """
        raw, inside = self.raw.data[self._box], self.mask[self._box]
        if motion is None:
            change = self._gain * self._from_template(difference, order=3)
            seen = self._gain * self._from_template(volume, order=3) - raw
        else:
            # Where tissue comes from the gain is another by as little as a bias field changes in some millimetres.
            rest = self._gain * self._from_template(volume - _moved(self.preprocessed, motion), order=3)
            change = seen = _moved(raw, self._raw_steps(motion)) - raw + rest
        weight = self._rim if shown == "head" else inside.astype(np.float32)
        made = np.maximum(raw + weight * seen, np.minimum(raw, 0))
        whole = self.raw.data.copy()
        whole[self._box] = made
        return NativeVolumes(
            volume=whole if shown == "head" else np.where(self.mask, whole, np.float32(0)),
            difference=self._on_grid(weight * change if motion is None else made - raw),
            uncertainty=self._on_grid(weight * self._gain * self._from_template(uncertainty, order=1)),
        )

    @cached_property
    def _box(self) -> tuple[slice, ...]:
        """Around the brain: the rest of the head is as it was."""
        room = np.ceil(ROOM_MM / self.raw.voxel_mm).astype(int)
        found = ndimage.find_objects(self.mask.astype(np.uint8))
        if not found:
            raise ScanError("its brain mask on the raw scan's grid is empty; preprocess it again.")
        return tuple(slice(max(0, part.start - m), part.stop + m) for part, m in zip(found[0], room, strict=True))

    @cached_property
    def _box_affine(self) -> NDArray[np.float64]:
        affine = self.raw.affine.astype(np.float64)
        affine[:3, 3] = apply_affine(affine, [part.start for part in self._box])
        return affine

    def _from_template(self, volume: Volume, order: int) -> Volume:
        """A volume in template space at the voxels of the box."""
        shape = self.mask[self._box].shape
        return sample(Image(volume, self.grid.affine), self._box_affine, shape, np.linalg.inv(self.to_scan), order)

    @cached_property
    def _gain(self) -> Volume:
        """The raw scan's bias field and scale: what a preprocessed intensity of 1 is in its units, within the box."""
        brightness = to_grid(self.raw, self.grid, self.to_scan) * (self.preprocessed > 0)
        gain = local_gain(brightness, self.preprocessed, float(np.linalg.norm(self.grid.affine[:3, 0])))
        return self._from_template(gain, order=1)

    def _raw_steps(self, motion: Motion) -> Motion:
        """A motion in voxels of the raw scan, at those of the box."""
        to_raw = np.linalg.inv(self.raw.affine) @ self.to_scan @ self.grid.affine
        steps = np.stack([self._from_template(each, order=1) for each in motion])
        return np.tensordot(to_raw[:3, :3], steps, axes=1).astype(np.float32)

    @cached_property
    def _rim(self) -> Volume:
        """1 in the depth of the brain, falling towards 0 at its surface, within the box."""
        inside = self.mask[self._box]
        depth_mm = ndimage.distance_transform_edt(inside, sampling=self.raw.voxel_mm)
        return np.clip(depth_mm / (RIM_MM + self.raw.voxel_mm.max()), 0, 1).astype(np.float32)

    def _on_grid(self, within: Volume) -> Volume:
        """What lies in the box, with 0 around."""
        volume = np.zeros(self.raw.data.shape, np.float32)
        volume[self._box] = within
        return volume


def raw_path(scans: ScanTable, scan: str, derivatives: Path | None) -> Path:
    """The file on whose grid a scan was preprocessed: that which its mask's side-car names first among its sources."""
    row = scans.require(scan)
    found = [Path(path) for path in run_paths(row["path"], row.get("further_runs"))]
    if derivatives is not None:
        found += [path for paths in derived_files(derivatives, scan).values() for path in paths]
    sources = read_description(sidecar(scans.path(scan, "native_mask"))).get("Sources") or [found[0].name]
    name = str(sources[0]).rsplit("/", 1)[-1]
    for path in found:
        if path.name == name:
            return path
    raise ScanError(f"{scan}: {name}, which it was preprocessed from, is not among its files; preprocess it again.")


def _moved(volume: Volume, steps: Motion) -> Volume:
    """What lies at p + steps(p), of a volume (x, y, z); a voxel that does not move keeps its value to the last bit."""
    points = np.indices(volume.shape, dtype=np.float32) + steps
    return np.where(steps.any(axis=0), ndimage.map_coordinates(volume, points, order=3), volume)
