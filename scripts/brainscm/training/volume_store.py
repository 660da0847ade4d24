"""The preprocessed scans as memory-mapped arrays, read ahead while the present step is worked on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from brainscm.alignment.displacement import align
from brainscm.files import whole
from brainscm.images import Mask, Volume
from brainscm.parallel import side_by_side
from brainscm.provenance import code_fingerprint
from brainscm.scans import ScanTable

logger = logging.getLogger("brainscm")


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
        cls, scans: ScanTable, chosen: Sequence[str], parent: Path, is_aligned: bool = False
    ) -> VolumeStore:
        """Open the store of the chosen scans under `parent`, building it if their contents were not stored before.

        Args:
            is_aligned: whether the scans are brought to the template by the displacements that their alignment found.

        Raises:
            ScanError: a scan cannot be read, is not finite, or lies on another grid.
        """
        folder = parent / f"{content_fingerprint(scans, chosen, is_aligned)}-{code_fingerprint(__name__)}"
        if not folder.exists():
            with whole(folder) as unfinished:
                unfinished.mkdir()
                _build(unfinished, scans, chosen, is_aligned)
        return cls(folder)


class Stores(NamedTuple):
    """The scans that a model is fitted on, and those by which one sees how well it does."""

    training: VolumeStore
    validation: VolumeStore


def content_fingerprint(scans: ScanTable, chosen: Sequence[str], is_aligned: bool) -> str:
    """Hash of scans' ids and of the bytes of their images, masks and, if they are aligned, displacements."""
    roles = ("preproc_t1w", "template_mask", *(("deformation",) if is_aligned else ()))
    digest = hashlib.sha256()
    for scan in chosen:
        digest.update(scan.encode())
        for role in roles:
            digest.update(hashlib.sha256(scans.path(scan, role).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _build(folder: Path, scans: ScanTable, chosen: Sequence[str], is_aligned: bool) -> None:
    shape = (len(chosen), 1, *scans.grid.shape)
    volumes = np.lib.format.open_memmap(folder / "volumes.npy", "w+", np.float16, shape)
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.bool_, shape)
    read = _read_aligned if is_aligned else _read
    for i, (volume, mask) in enumerate(side_by_side(lambda scan: read(scans, scan), chosen)):
        volumes[i, 0], masks[i, 0] = volume, mask
        if (i + 1) % 50 == 0:
            logger.info("read %d of %d scans into memory maps", i + 1, len(chosen))
    volumes.flush()
    masks.flush()


def _read(scans: ScanTable, scan: str) -> tuple[Volume, Mask]:
    return scans.volume(scan), scans.mask(scan)


def _read_aligned(scans: ScanTable, scan: str) -> tuple[Volume, Mask]:
    volume, mask = (torch.from_numpy(part.astype(np.float32)) for part in _read(scans, scan))
    displacement = torch.from_numpy(scans.displacement(scan))
    return align(volume, displacement).numpy(), align(mask, displacement).numpy() > 0.5


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
