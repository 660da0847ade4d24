"""From a shifted latent to a volume: named strategies behind one signature."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from brainscm.encoding.encoder import Factual

# (factual, shift of the latent) -> (counterfactual volume, its signed difference from the factual)
Strategy = Callable[[Factual, Tensor], tuple[Tensor, Tensor]]


def residual(factual: Factual, shift: Tensor) -> tuple[Tensor, Tensor]:
    """x' = x + D(z + s) - D(z), or the scan warped where it was aligned: it keeps what the encoder loses.

    The difference is x' - x. Intensities do not fall below zero (or below the scan's own value, where that is
    negative). A null shift gives x.
    """
    x = factual.volumes
    volume = torch.maximum(factual.encoder.apply_shift(factual, shift), x.clamp(max=0))
    return volume, volume - x


def direct(factual: Factual, shift: Tensor) -> tuple[Tensor, Tensor]:
    """x' = D(z + s). The difference is x' - D(z), so that it holds the intervention and no reconstruction error."""
    volume = factual.encoder.decode(factual.latents + shift)
    return volume, volume - factual.decoded


def quantized(factual: Factual, shift: Tensor) -> tuple[Tensor, Tensor]:
    """x' = D(q(z + s)) with the latent snapped to the codebook again. The difference is x' - D(q(z))."""
    volume = factual.encoder.decode(factual.encoder.quantize(factual.latents + shift))
    return volume, volume - factual.decoded_quantized


STRATEGIES: dict[str, Strategy] = {"residual": residual, "direct": direct, "quantized": quantized}


def pass_through(factual: Factual, shift: Tensor) -> Tensor:
    """Share of each scan's shift that survives quantisation, (n,): <q(z + s) - q(z), s> / <s, s>; NaN for a null shift.

    1 means all of it, 0 that the codebook swallows it.
    """
    survived = factual.encoder.quantize(factual.latents + shift) - factual.quantized
    axes = tuple(range(1, shift.ndim))
    return (survived * shift).sum(dim=axes) / shift.square().sum(dim=axes)
