"""The methods that are compared: one design matrix, one way to intervene and decode, and each its own encoding.

Persistence aside, every method is the same causal model with the image node fitted on another encoding of the same
training scans: the autoencoder's latent (BrainSCM), PCA scores, or the voxels themselves. The peers are estimated by
plain least squares, as they are in the field.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainscm.config import ImageOptions
from brainscm.counterfactuals.decoding import STRATEGIES, Factual
from brainscm.encoding.encoder import Encoder, Unaligned
from brainscm.encoding.layout import Layout, Mirror
from brainscm.encoding.pca import PCA
from brainscm.scm.design import Array
from brainscm.scm.image import LEAST_SQUARES, ImageModel, fit_image
from brainscm.scm.model import Scm
from brainscm.scm.sample import Rows, Sample

logger = logging.getLogger("brainscm")

Volume = NDArray[np.float32]


class Voxels(Unaligned):
    """The encoding that is none: the latent of a scan is the scan."""

    kind = "voxels"

    def __init__(self, grid_shape: tuple[int, int, int], mirrored: bool = False) -> None:
        self.grid_shape = grid_shape
        self.latent_shape = (1, *grid_shape)
        self.layout = Layout((1,), Mirror((0,), (1,)) if mirrored else None)

    def encode(self, volumes: Tensor, displacements: Tensor | None = None) -> Tensor:
        return volumes

    def quantize(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@dataclass(frozen=True)
class Method:
    """An encoding and the image node that was fitted on it."""

    name: str
    autoencoder: Encoder
    image: ImageModel

    def predict(self, factual: Factual, step: Array, decode: str = "residual") -> tuple[Volume, Volume]:
        """Counterfactual volume and its signed change (x, y, z) for a step (p,) of one scan's design row."""
        mean, shift = (
            torch.from_numpy(z.astype(np.float32)) for z in (self.image.mean, self.image.predict(step[None]))
        )
        return self._decode(factual, factual.encoder.transport(shift, factual.latents, mean), decode)

    def reach(self, factual: Factual, answer: Volume) -> tuple[Volume, Volume]:
        """What residual decoding makes of the answer's own latent: no causal model comes nearer in this encoding."""
        return self._decode(factual, self.factual(answer).latents - factual.latents, "residual")

    def factual(self, volume: Volume, latent: NDArray[np.float32] | None = None) -> Factual:
        """One scan (x, y, z) as the decoding strategies take it; without a stored latent it is encoded here."""
        volumes = torch.from_numpy(volume)[None, None]
        with torch.inference_mode():
            latents = self.autoencoder.encode(volumes) if latent is None else torch.from_numpy(latent)[None]
        return Factual(self.autoencoder, volumes, latents)

    def _decode(self, factual: Factual, shift: Tensor, decode: str) -> tuple[Volume, Volume]:
        with torch.inference_mode():
            volume, change = STRATEGIES[decode](factual, shift)
        return volume[0, 0].numpy(), change[0, 0].numpy()


def voxel_glm(scm: Scm, volumes: Rows, grid_shape: tuple[int, int, int]) -> Method:
    """The image node fitted on the voxels; volumes: the scans of `scm.training` (n, 1, x, y, z), in its order."""
    logger.info("fitting the voxelwise GLM on %d scans", len(scm.training))
    return Method("voxel_glm", Voxels(grid_shape), _refit(scm, volumes, None))


def voxel_shrunken(scm: Scm, volumes: Rows, grid_shape: tuple[int, int, int], mirrored: bool) -> Method | None:
    """The same estimated as the study's own image node is: what shrinkage gives without any encoding.

    None where that is plain least squares, and hence `voxel_glm`. mirrored: whether left and right are estimated
    together there.
    """
    if scm.image.estimator == LEAST_SQUARES:
        return None
    voxels = Voxels(grid_shape, mirrored)
    return Method("voxel_shrunken", voxels, _refit(scm, volumes, scm.options.image, voxels.layout))


def pca_glm(scm: Scm, volumes: NDArray[np.floating], components: int) -> Method:
    """The image node fitted on the scores of principal components of the same scans."""
    logger.info("fitting PCA and its GLM on %d scans", len(scm.training))
    pca = PCA.fit(volumes, components)
    scores = [pca.encode(torch.from_numpy(np.asarray(volume, np.float32))[None])[0].numpy() for volume in volumes]
    return Method("pca_glm", pca, _refit(scm, np.stack(scores), None))


def _refit(scm: Scm, encoded: Rows, options: ImageOptions | None, layout: Layout | None = None) -> ImageModel:
    training = scm.training
    participants = training["participant"].tolist()
    sample = Sample.of(scm.design_matrix(training), scm.design.columns, encoded, participants)
    drawn = options is not None  # shrinkage looks at the draws
    return fit_image(sample, options, layout, seed=scm.seed, drawn=drawn)
