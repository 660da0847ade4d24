"""The preprocessed scans as memory-mapped arrays, read ahead while the present step is worked on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from brainscm.files import whole
from brainscm.images import Grid, Mask, Volume, read_mask, read_volume
from brainscm.parallel import CPU, side_by_side

logger = logging.getLogger("brainscm")

Prepare = Callable[[Volume, Mask], tuple[Volume, Mask]]


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
            with whole(folder) as unfinished:
                unfinished.mkdir()
                _build(unfinished, scans, grid, prepare, device)
        return cls(folder)


def _build(folder: Path, scans: pd.DataFrame, grid: Grid, prepare: Prepare | None, device: torch.device) -> None:
    shape = (len(scans), 1, *grid.shape)
    volumes = np.lib.format.open_memmap(folder / "volumes.npy", "w+", np.float16, shape)
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.bool_, shape)

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
