"""The methods that are compared: one design matrix, one way to a counterfactual, and each its own encoding.

Persistence aside, every method is the same causal model with the image node fitted on another encoding of the same
training scans: the encoder's latent (BrainSCM), PCA scores, or the voxels themselves. The peers are estimated by
plain least squares, as they are in the field.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainscm.config import ImageOptions
from brainscm.counterfactuals.decoding import residual
from brainscm.counterfactuals.prediction import predict
from brainscm.encoding.encoder import Encoder, Factual, Unaligned
from brainscm.encoding.layout import Layout, Mirror
from brainscm.encoding.pca import PCA
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.images import Volume
from brainscm.scm.design import Array
from brainscm.scm.image import LEAST_SQUARES, ImageModel, fit_image
from brainscm.scm.model import Scm
from brainscm.scm.sample import Rows, Sample
from brainscm.tissue_levels import TissueLevels

logger = logging.getLogger("brainscm")


class Voxels(Unaligned):
    """The encoding that is none: the latent of a scan is the scan."""

    kind = "voxels"

    def __init__(self, grid_shape: tuple[int, int, int], mirrored: bool = False) -> None:
        self.grid_shape = grid_shape
        self.latent_shape = (1, *grid_shape)
        self.layout = Layout((1,), Mirror((0,), (1,)) if mirrored else None)

    def encode(
        self, volumes: Tensor, displacements: Tensor | None = None, levels: Sequence[TissueLevels] = ()
    ) -> Tensor:
        return volumes

    def quantize(self, latents: Tensor) -> Tensor:
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@dataclass(frozen=True)
class Method:
    """An encoding and the image node that was fitted on it."""

    name: str
    encoder: Encoder
    image: ImageModel

    def factual(
        self, volume: Volume, latent: NDArray[np.float32] | None = None, levels: Sequence[TissueLevels] = ()
    ) -> Factual:
        """One scan (x, y, z) as predictions start from it; without a stored latent it is encoded here.

        `levels`: of the scan, or of that in whose place the volume stands.
        """
        volumes = torch.from_numpy(volume)[None, None]
        with torch.inference_mode():
            latents = self.encoder.encode(volumes, levels=levels) if latent is None else torch.from_numpy(latent)[None]
        return Factual(self.encoder, volumes, latents, levels)

    def predict(self, factual: Factual, step: Array, decode: str = "residual") -> Counterfactual:
        """The counterfactual, not masked, for a step (p,) of one scan's design row."""
        made = predict(factual, self.image, step[None], decode)
        return Counterfactual(made.volume[0, 0].numpy(), made.difference[0, 0].numpy())

    def reach(self, factual: Factual, answer: Volume) -> Counterfactual:
        """What residual decoding makes of the answer's own latent: no causal model comes nearer in this encoding."""
        with torch.inference_mode():
            volume, difference = residual(
                factual, self.factual(answer, levels=factual.levels).latents - factual.latents
            )
        return Counterfactual(volume[0, 0].numpy(), difference[0, 0].numpy())


@dataclass(frozen=True)
class Methods:
    """The fitted methods.

    `voxel_shrunken` is the voxelwise one estimated as the study's own image node is: what shrinkage gives without any
    encoding. None where that is least squares, and hence `voxel_glm`.
    """

    voxel_glm: Method
    voxel_shrunken: Method | None
    pca_glm: Method
    latent_glm: Method

    @classmethod
    def fit(
        cls,
        scm: Scm,
        encoder: Encoder,
        volumes: NDArray[np.floating],
        grid_shape: tuple[int, int, int],
        components: int,
    ) -> Methods:
        """Fit the peers of the study's own model.

        Args:
            scm, encoder: of the study.
            volumes: the scans of `scm.training`, in its order, (n, 1, x, y, z).
            components: of PCA.
        """
        return cls(
            voxel_glm=voxel_glm(scm, volumes, grid_shape),
            voxel_shrunken=voxel_shrunken(scm, volumes, grid_shape, encoder.layout.mirror is not None),
            pca_glm=pca_glm(scm, volumes, components),
            latent_glm=Method("latent_glm", encoder, scm.image),
        )

    @property
    def compared(self) -> tuple[Method, Method, Method]:
        """Those of the summary."""
        return self.voxel_glm, self.pca_glm, self.latent_glm

    def encode(self, scan: Scan) -> dict[str, Factual]:
        """The scan as each of the compared methods encodes it, by name; the study's own latent is the stored one."""
        return {
            method.name: method.factual(scan.volume, scan.latent if method is self.latent_glm else None, scan.levels)
            for method in self.compared
        }


def voxel_glm(scm: Scm, volumes: Rows, grid_shape: tuple[int, int, int]) -> Method:
    """The image node fitted on the voxels."""
    logger.info("fitting the voxelwise GLM on %d scans", len(scm.training))
    return Method("voxel_glm", Voxels(grid_shape), _refit(scm, volumes, None))


def voxel_shrunken(scm: Scm, volumes: Rows, grid_shape: tuple[int, int, int], mirrored: bool) -> Method | None:
    """The same estimated as the study's own image node is; None where that is plain least squares.

    mirrored: whether left and right are estimated together there.
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
    sample = replace(sample, components=scm.components)
    drawn = options is not None  # shrinkage looks at the draws
    return fit_image(sample, options, layout, seed=scm.seed, drawn=drawn)
