"""PCA as an autoencoder: the linear baseline, and the fast path, behind the VQ-VAE's interface."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from brainscm.config import AutoencoderOptions
from brainscm.encoding.encoder import ClosedForm
from brainscm.encoding.layout import Layout
from brainscm.errors import BrainSCMError
from brainscm.tissue_levels import TissueLevels

logger = logging.getLogger("brainscm")


class PCA(ClosedForm):
    """Principal components of whole volumes; the latent (n, k, 1, 1, 1) holds the k scores of a scan."""

    kind = "pca"
    mean: Tensor  # (voxels,)
    components: Tensor  # (k, voxels), orthonormal rows

    def __init__(self, grid_shape: Sequence[int], options: AutoencoderOptions) -> None:
        super().__init__(grid_shape, options)
        self.latent_shape = (options.components, 1, 1, 1)
        self.layout = Layout((options.components,))
        voxels = math.prod(grid_shape)
        self.register_buffer("mean", torch.zeros(voxels))
        self.register_buffer("components", torch.zeros(options.components, voxels))

    @classmethod
    def solve(cls, volumes: Any, options: AutoencoderOptions) -> Self:
        pca = cls.fit(volumes, options.components)
        if pca.latent_shape[0] < options.components:
            logger.warning(
                "autoencoder.components: %d training scans give at most %d components, not %d",
                len(volumes),
                pca.latent_shape[0],
                options.components,
            )
        return pca

    @classmethod
    def fit(cls, volumes: Any, components: int) -> Self:
        """Fit on volumes (n, 1, x, y, z): an array or anything that slices like one (memory map, zarr).

        The components come from the n×n Gram matrix of the centred volumes, summed slab by slab, so that memory holds
        one slab of all scans and never all volumes. `components` is cut to n - 1, beyond which nothing varies.

        Raises:
            BrainSCMError: there are fewer than two volumes.
        """
        n, _, *shape = volumes.shape
        if n < 2:
            raise BrainSCMError(f"autoencoder: PCA needs at least 2 training scans and has {n}; check the split.")
        grid_shape = (shape[0], shape[1], shape[2])
        mean = np.empty(grid_shape, np.float32)
        gram = np.zeros((n, n))
        for x in range(grid_shape[0]):
            slab = _slab(volumes, x)
            mean[x] = slab.mean(0).reshape(grid_shape[1:])
            slab -= slab.mean(0)
            gram += slab @ slab.T
        values, vectors = np.linalg.eigh(gram)
        kept = np.argsort(values)[::-1][: min(components, n - 1)]
        weights = vectors[:, kept] / np.sqrt(np.maximum(values[kept], np.finfo(np.float32).tiny))  # (n, k)

        pca = cls(grid_shape, AutoencoderOptions(kind="pca", components=len(kept)))
        rows = np.empty((len(kept), *grid_shape), np.float32)
        for x in range(grid_shape[0]):
            slab = _slab(volumes, x)
            rows[:, x] = (weights.T @ (slab - slab.mean(0))).reshape(len(kept), *grid_shape[1:])
        rows = rows.reshape(len(kept), -1)
        # An eigenvector's sign is arbitrary; the largest voxel made positive gives the same components on any machine.
        largest = np.abs(rows).argmax(1)
        rows *= np.sign(rows[np.arange(len(rows)), largest])[:, None]
        pca.mean.copy_(torch.from_numpy(mean.ravel()))
        pca.components.copy_(torch.from_numpy(rows))
        return pca

    @torch.no_grad()
    def encode(
        self, volumes: Tensor, displacements: Tensor | None = None, levels: Sequence[TissueLevels] = ()
    ) -> Tensor:
        """Scores (n, k, 1, 1, 1) of volumes (n, 1, x, y, z)."""
        scores = (volumes.reshape(len(volumes), -1) - self.mean) @ self.components.T
        return scores[:, :, None, None, None]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Volumes (n, 1, x, y, z) of scores (n, k, 1, 1, 1)."""
        flat = latents.reshape(len(latents), -1) @ self.components + self.mean
        return flat.reshape(-1, 1, *self.grid_shape)


def _slab(volumes: Any, x: int) -> np.ndarray:
    slab = np.asarray(volumes[:, 0, x], np.float64)
    return slab.reshape(len(slab), -1)


ENCODER = PCA
