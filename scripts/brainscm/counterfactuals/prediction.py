"""The one way to a counterfactual: a step of the design row, the shift of the latent that it makes, and its volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainscm.counterfactuals.decoding import STRATEGIES
from brainscm.encoding.encoder import Encoder, Factual
from brainscm.parallel import device_of
from brainscm.scm.design import Array
from brainscm.scm.image import ImageModel

SMALL = 0.1  # of the residuals' standard deviation: a step by which a slope is found


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
    with torch.inference_mode():
        shift = _shift(factual, image, step, draw)
        return Prediction(*STRATEGIES[decode](factual, shift), shift)


def _shift(factual: Factual, image: ImageModel, step: Array, draw: int | None = None) -> Tensor:
    change = image.predict(step)
    if draw is not None:
        change += image.deviate(step, draw)
    device = factual.volumes.device
    return factual.encoder.transport(_tensor(change, device), factual.latents, _tensor(image.mean, device))


def _tensor(array: NDArray[np.floating], device: torch.device) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).to(device)


@dataclass(frozen=True)
class Draws:
    """What draws of the parameters make of a scan, near its counterfactual where the encoder can do that.

    What a draw does to the appearance is taken of the mean participant, whose decoder's slope along each coefficient is
    found once for all scans.
    """

    encoder: Encoder
    image: ImageModel
    _slopes: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def volumes(
        self, factual: Factual, made: Prediction, step: Array, drawn_steps: Array, decode: str, decoded: bool
    ) -> Iterator[Tensor]:
        """The counterfactual (1, 1, x, y, z) of one scan under each draw.

        Args:
            made: the counterfactual. step: (1, p) that made it; drawn_steps: (K, 1, p) that each draw makes.
            decoded: decode each draw, whatever that takes.
        """
        near = None
        if decode == "residual" and not decoded:
            with torch.inference_mode():
                near = self.encoder.nearby(factual, made.shift, made.volume)
        for k, drawn in enumerate(drawn_steps):
            if near is None:
                yield predict(factual, self.image, drawn, decode, draw=k).volume
            else:
                yield self._moved(near, factual, made, step, drawn, k)

    @torch.inference_mode()
    def _moved(
        self,
        near: Callable[[Tensor, Tensor], Tensor],
        factual: Factual,
        made: Prediction,
        step: Array,
        drawn: Array,
        k: int,
    ) -> Tensor:
        differs = _shift(factual, self.image, drawn, k) - made.shift
        if not differs.any():
            return made.volume
        volume = near(differs, self._appearance(step[0], drawn[0], k))
        return torch.maximum(volume, factual.volumes.clamp(max=0))

    def _appearance(self, step: Array, drawn: Array, k: int) -> Tensor:
        """By how much the appearance differs, (1, x, y, z)."""
        total = torch.zeros((1, *self.encoder.grid_shape), device=self._mean.device)
        for column in range(len(step)):
            for of_draw, weight in ((None, drawn[column] - step[column]), (k, drawn[column])):
                if weight:
                    total += float(weight) * self._slope(of_draw, column)
        return total

    def _slope(self, draw: int | None, column: int) -> Tensor:
        """Of the appearance along a coefficient, or what a draw adds to it, (1, x, y, z); halves, to save memory."""
        with self._lock:
            if (draw, column) not in self._slopes:
                along = self.image.coefficients[column] if draw is None else self.image.draws[draw, column]
                if not along.any():
                    return self._appearance_of_mean.new_zeros(1)
                small = SMALL * float(np.sqrt(self.image.residual_variance.mean() / np.square(along).mean()))
                there = self.encoder.appearance(self._mean + small * _tensor(along, self._mean.device))
                self._slopes[draw, column] = ((there - self._appearance_of_mean)[0] / small).half()
            return self._slopes[draw, column]

    @cached_property
    def _mean(self) -> Tensor:
        return _tensor(self.image.mean, device_of(self.encoder))[None]

    @cached_property
    def _appearance_of_mean(self) -> Tensor:
        return self.encoder.appearance(self._mean)
