"""The preprocessed scans as arrays: which are usable, reading one, and a memory-mapped store of many, read ahead."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError

from brainscm.cohort.tables import read_table
from brainscm.errors import BrainSCMError, ScanError
from brainscm.parallel import CPU, side_by_side

logger = logging.getLogger("brainscm")

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Prepare = Callable[[Volume, Mask], tuple[Volume, Mask]]


def usable_scans(scans_tsv: Path, qc_tsv: Path, preproc_dir: Path) -> pd.DataFrame:
    """Scans whose preprocessing did not fail: scan, participant, split, covariates, and paths `image` and `mask`.

    Raises:
        BrainSCMError: none is left.
    """
    scans = read_table(scans_tsv)
    qc = read_table(qc_tsv)
    qc = qc.loc[qc["status"] != "fail", ["scan", "preproc_t1w", "template_mask"]]
    usable = scans.merge(qc, on="scan", validate="one_to_one")
    if usable.empty:
        raise BrainSCMError(f"{qc_tsv}: preprocessing failed for every scan; the reasons column says why.")
    for column, source in (("image", "preproc_t1w"), ("mask", "template_mask")):
        usable[column] = [str(Path(preproc_dir, path)) for path in usable.pop(source)]
    return usable


@dataclass(frozen=True)
class Grid:
    """The template-space grid that all scans share."""

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]  # (4, 4), voxel -> mm, RAS

    @classmethod
    def of(cls, image_path: str | Path) -> Grid:
        image = _load(image_path)
        x, y, z = image.shape
        return cls((x, y, z), np.asarray(image.affine, np.float64))

    def agrees_with(self, other: Grid) -> bool:
        return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=1e-3)

    def __str__(self) -> str:
        voxel_mm = voxel_sizes(self.affine)
        origin = ", ".join(f"{mm:g}" for mm in self.affine[:3, 3])
        return f"{'×'.join(map(str, self.shape))} at {'×'.join(f'{mm:g}' for mm in voxel_mm)} mm from ({origin})"


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


def _load(path: str | Path) -> nib.Nifti1Image:
    try:
        image = nib.load(path)
    except (OSError, ImageFileError) as error:
        raise ScanError(f"{path}: cannot be read ({error}); run the preprocessing of this scan again.") from error
    if len(image.shape) != 3:
        raise ScanError(f"{path}: has {len(image.shape)} dimensions, not 3; run the preprocessing of this scan again.")
    return image


def _voxels(image: nib.Nifti1Image, path: str | Path) -> Volume:
    try:
        return np.asarray(image.dataobj, np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise ScanError(f"{path}: is cut short ({error}); run the preprocessing of this scan again.") from error


def content_fingerprint(scans: pd.DataFrame) -> str:
    """Hash of the scans' ids and the bytes of their images and masks."""
    digest = hashlib.sha256()
    for scan, *paths in scans[["scan", "image", "mask"]].astype(str).itertuples(index=False):
        digest.update(scan.encode())
        for path in paths:
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:16]


class VolumeStore:
    """Volumes (n, 1, x, y, z) float16 and masks (n, 1, x, y, z) bool as memory maps, decoded from NIfTI only once.

    Half precision keeps values near 1 to 0.0005, far below the noise of a scan, and halves what the disk must hold.
    """

    def __init__(self, folder: Path) -> None:
        self.volumes = np.load(folder / "volumes.npy", mmap_mode="r")
        self.masks = np.load(folder / "masks.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.volumes)

    @classmethod
    def open_or_build(
        cls,
        scans: pd.DataFrame,
        grid: Grid,
        parent: Path,
        prepare: Prepare | None = None,
        prepared: str = "",
        device: torch.device = CPU,
    ) -> VolumeStore:
        """Open the store of these scans under `parent`, building it first if their contents were not stored before.

        Args:
            prepare: what is done to each scan and mask before they are stored; `prepared` names what it depends on,
                `device` is where it works.

        Raises:
            ScanError: a scan cannot be read, is not finite, or lies on another grid.
        """
        folder = parent / (content_fingerprint(scans) + prepared)
        if not folder.exists():
            unfinished = parent / f"{folder.name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            shape = (len(scans), 1, *grid.shape)
            volumes = np.lib.format.open_memmap(unfinished / "volumes.npy", "w+", np.float16, shape)
            masks = np.lib.format.open_memmap(unfinished / "masks.npy", "w+", np.bool_, shape)

            def read(paths: tuple[str, str]) -> tuple[Volume, Mask]:
                pair = read_volume(paths[0], grid), read_mask(paths[1])
                return prepare(*pair) if prepare else pair

            pairs = side_by_side(read, zip(scans["image"], scans["mask"], strict=True), device)
            for i, (volume, mask) in enumerate(pairs):
                volumes[i, 0], masks[i, 0] = volume, mask
                if (i + 1) % 50 == 0:
                    logger.info("read %d of %d scans into memory maps", i + 1, len(scans))
            volumes.flush()
            masks.flush()
            os.replace(unfinished, folder)
        return cls(folder)


class ReadAhead:
    """Reads the next step's rows of a store in a thread of its own, while the present step is worked on."""

    def __init__(self, store: VolumeStore, rows_of: Callable[[int], list[int]]) -> None:
        self._store, self._rows_of = store, rows_of
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[tuple[Volume, Mask]]] | None = None

    def read(self, step: int) -> tuple[Volume, Mask]:
        """Volumes (n, 1, x, y, z) float16 and masks of a step; those of the step after it are then under way."""
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._thread.submit(self._read, step)
        batch = self._ahead[1].result()
        self._ahead = step + 1, self._thread.submit(self._read, step + 1)
        return batch

    def _read(self, step: int) -> tuple[Volume, Mask]:
        rows = self._rows_of(step)
        return self._store.volumes[rows], self._store.masks[rows]
