"""The latents of a cohort's scans: one zarr store, found by scan id, which knows the encoder that filled it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from brainscm.encoding.layout import Layout
from brainscm.errors import BrainSCMError, ScanError
from brainscm.files import share, whole
from brainscm.identity import Identity


@dataclass(frozen=True)
class _Checked:
    """The latents of a store on disk; one whose file has been damaged or removed is named, and not used."""

    array: zarr.Array
    scans: Sequence[str]
    path: Path | str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        try:
            latents = np.asarray(self.array[rows])
        except Exception as error:  # whatever the decompression makes of it: its errors have no class of their own
            raise self._damaged(rows) from error
        if np.isnan(latents).any():  # zarr fills in what is not there
            raise self._damaged(rows)
        return latents

    def _damaged(self, rows: Any) -> BrainSCMError:
        whose = self.scans[int(rows)] if np.ndim(rows) == 0 and not isinstance(rows, slice) else "a scan"
        return BrainSCMError(
            f"{self.path}: the latent of {whose} is damaged or gone; remove this folder and run the same command again."
        )


@dataclass(frozen=True)
class LatentStore:
    """Latents by scan.

    Attributes:
        latents: (n, c, x, y, z), an array or anything whose i-th item is the i-th scan's latent, such as a zarr array.
        scans: the scan of each row.
        layout: of each latent.
        identity: of the scans, with the encoder's.
    """

    latents: Any
    scans: Sequence[str]
    layout: Layout
    identity: Identity

    @classmethod
    def open(cls, path: Path | str) -> LatentStore:
        """Open a store that `create` or `gather` wrote.

        Raises:
            BrainSCMError: it is not there, or not whole.
        """
        try:
            group = zarr.open_group(path, mode="r")
            attributes: dict[str, Any] = dict(group.attrs)
            layout, identity = Layout.of_json(attributes["layout"]), Identity.model_validate(attributes["identity"])
            scans = tuple(attributes["scans"])
            return cls(_Checked(group["latents"], scans, path), scans, layout, identity)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise BrainSCMError(
                f"{path}: is not a store of latents of this version of BrainSCM ({type(error).__name__}); "
                "run encode_scans again."
            ) from error

    @staticmethod
    @contextmanager
    def create(
        path: Path, scans: Sequence[str], latent_shape: Sequence[int], layout: Layout, identity: Identity
    ) -> Iterator[zarr.Array]:
        """An empty array (n, *latent_shape), float32, one chunk a scan, which becomes the store when it is filled."""
        with whole(path) as partial:
            group = zarr.create_group(store=partial)
            shape = (len(scans), *latent_shape)
            latents = group.create_array(
                "latents",
                shape=shape,
                chunks=(1, *latent_shape),
                dtype="float32",
                fill_value=np.nan,
                compressors=ZstdCodec(checksum=True),
            )
            group.attrs.update({"scans": list(scans), "layout": layout.as_json(), "identity": identity.as_json()})
            yield latents

    @classmethod
    def gather(cls, parts: Sequence[Path], scans: Sequence[str], path: Path) -> None:
        """Make one store at `path` of the latents of some scans, which lie in several stores.

        Each latent is one file, which the stores share where the disk can do that; one is in memory at a time.

        Raises:
            BrainSCMError: a store or a latent is damaged, a scan is in none, or two encoders made the stores.
        """
        stores = [cls.open(part) for part in parts]
        first = stores[0]
        for store, part in zip(stores, parts, strict=True):
            store.identity.check(first.identity, str(part), str(parts[0]), "remove both and run the same command again")
        holder = {scan: store for store in stores for scan in store.scans}
        with cls.create(path, scans, first.latents.shape[1:], first.layout, first.identity) as gathered:
            for row, scan in enumerate(scans):
                if scan not in holder:
                    raise ScanError(f"{scan}: it has no latent in {parts[0].parent}; remove that and run again.")
                store = holder[scan]
                store.of(scan)  # it is whole, or there is an error
                share(_chunk(store.latents.array, store.row_of[scan]), _chunk(gathered, row))

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Where each scan's latent stands."""
        return {scan: row for row, scan in enumerate(self.scans)}

    def rows(self, scans: Iterable[str]) -> list[int]:
        return [self.row_of[scan] for scan in scans]

    def of(self, scan: str) -> NDArray[np.float32]:
        """The latent of a scan, (c, x, y, z).

        Raises:
            ScanError: it has none.
        """
        if scan not in self.row_of:
            raise ScanError(f"{scan}: it has no latent; run encode_scans again")
        return np.asarray(self.latents[self.row_of[scan]], dtype=np.float32)

    def lacking(self, scans: Iterable[str]) -> pd.Series:
        """Why a scan cannot be used for want of a latent, by scan id; "" where it has one."""
        told = {scan: "" if scan in self.row_of else "it has no latent; run encode_scans again" for scan in scans}
        return pd.Series(told, dtype=object)


def _chunk(latents: zarr.Array, row: int) -> Path:
    """The file of a row."""
    key = latents.metadata.encode_chunk_key((row, *[0] * (latents.ndim - 1)))
    return Path(latents.store.root, latents.path, key)
