"""The rows behind the image node: a design, the latents that it explains, and whose scans they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from brainscm.parallel import CPU
from brainscm.scm.components import Component
from brainscm.scm.design import Array

# Scans read at once, as they are stored; a tile of their latents at a time, of a size that stays in the cache.
BLOCK_BYTES = 32 * 2**20
MIN_BLOCK_ROWS = 16
TILE_BYTES = 4 * 2**20
MIN_TILE_LATENTS = 512


class Rows(Protocol):
    """Anything whose i-th item is the i-th scan's array: numpy, zarr, or a lazy reader of volumes."""

    def __getitem__(self, index: int, /) -> NDArray[np.floating]: ...


@dataclass(frozen=True)
class Sample:
    """n scans on which an image node is fitted or tested.

    Attributes:
        x: (n, p) design matrix, of full rank; the refinements of the fit take column 0 for the intercept.
        columns: (p,) names of x's columns.
        latents: of these scans and perhaps others, of any shape.
        rows: (n,) where each scan stands in `latents`; no other row is read.
        participants: (n,) whose scan each is.
        clusters: (n,) whose scans share an error: those of a participant, but where a random intercept has taken up
            what they share.
        imputed: (m, n, p) the design matrix of each imputation, where missing covariates were imputed several times; x
            is then that of what is expected.
        components: of the design, for shrinkage; without any, each column is one.
    """

    x: Array
    columns: Sequence[str]
    latents: Rows
    rows: Sequence[int]
    participants: Sequence[str]
    clusters: Sequence[str]
    imputed: Sequence[Array] = ()
    components: Sequence[Component] = ()

    @classmethod
    def of(cls, x: Array, columns: Sequence[str], latents: Rows, participants: Sequence[str]) -> Sample:
        """One row of `latents` for each row of x; a participant's scans share an error."""
        return cls(x, columns, latents, range(len(x)), participants, participants)

    def take(self, order: NDArray[np.intp]) -> Sample:
        """The scans at these places of the sample, in this order."""
        rows, participants, clusters = (
            [each[i] for i in order] for each in (self.rows, self.participants, self.clusters)
        )
        imputed = [x[order] for x in self.imputed]
        return replace(self, x=self.x[order], rows=rows, participants=participants, clusters=clusters, imputed=imputed)

    @property
    def completed(self) -> list[Sample]:
        """The sample as each imputation has it; itself alone where there is none."""
        return [replace(self, x=x, imputed=()) for x in self.imputed] or [self]

    @property
    def is_clustered(self) -> bool:
        """Whether some scans share an error."""
        return len(set(self.clusters)) < len(self.clusters)

    @property
    def is_repeated(self) -> bool:
        """Whether some participant has several scans."""
        return len(set(self.participants)) < len(self.participants)

    def first(self) -> NDArray[np.floating]:
        """The first scan's latent, which tells their shape and type."""
        return np.asarray(self.latents[int(self.rows[0])])

    def blocks(
        self, device: torch.device = CPU, keep_together: NDArray[np.int_] | None = None
    ) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Read each row once, in blocks of bounded size, and give them tile by tile: (rows, latents, z in float64).

        Rows of one code of `keep_together` share a block. `z` is the caller's to change.
        """
        first, rows = self.first(), self.rows
        most = max(MIN_BLOCK_ROWS, BLOCK_BYTES // first.nbytes)
        start = 0
        while start < len(rows):
            stop = min(start + most, len(rows))
            while keep_together is not None and stop < len(rows) and keep_together[stop] == keep_together[stop - 1]:
                stop += 1
            scans = np.stack([np.asarray(self.latents[int(row)]).reshape(-1) for row in rows[start:stop]])
            block = torch.from_numpy(scans).to(device)
            width = min(first.size, max(MIN_TILE_LATENTS, TILE_BYTES // (8 * len(scans))))
            for left in range(0, first.size, width):
                tile = slice(left, min(left + width, first.size))
                yield slice(start, stop), tile, block[:, tile].to(torch.float64, copy=True)
            start = stop


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy there, aligned as torch aligns its own: products of unaligned ones may differ in the last bit."""
    return torch.tensor(array, device=device)
