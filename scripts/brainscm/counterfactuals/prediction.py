"""The one way to a counterfactual: a step of the design row, the shift of the latent that it makes, and its volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brainscm.counterfactuals.decoding import STRATEGIES
from brainscm.encoding.encoder import Factual
from brainscm.scm.design import Array
from brainscm.scm.image import ImageModel


@dataclass(frozen=True)
class Prediction:
    """Counterfactuals of n scans, not masked.

    Attributes:
        volume: (n, 1, x, y, z).
        difference: (n, 1, x, y, z), signed: counterfactual minus factual.
        shift: (n, c, x', y', z'), what the intervention adds to each scan's latent.
    """

    volume: Tensor
    difference: Tensor
    shift: Tensor


def predict(factual: Factual, image: ImageModel, step: Array, decode: str, draw: int | None = None) -> Prediction:
    """Predict the scans under an intervention; each keeps its residual, so that z' = z + step·B.

    Args:
        factual: the observed scans.
        image: the image node, fitted on latents of `factual.encoder`.
        step: (n, p) change of the scans' design rows.
        decode: name of a strategy, see `decoding.STRATEGIES`.
        draw: which draw of the image node's coefficients to take; None for the coefficients themselves.
    """
    change = image.predict(step)
    if draw is not None:
        change += image.deviate(step, draw)
    device = factual.volumes.device
    of_mean, mean = (torch.from_numpy(each.astype(np.float32)).to(device) for each in (change, image.mean))
    with torch.inference_mode():
        shift = factual.encoder.transport(of_mean, factual.latents, mean)
        return Prediction(*STRATEGIES[decode](factual, shift), shift)
