"""What a network minimises: how far its reconstruction is from the volume, and its latents from their codes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from brainscm.config import AutoencoderOptions

# The background is known to be zero: it need only not be forgotten.
BACKGROUND_WEIGHT = 0.1


def charbonnier(reconstruction: Tensor, volumes: Tensor, masks: Tensor, epsilon: float = 0.01) -> Tensor:
    """Smooth absolute error (Charbonnier et al. 1994) over the brain, with a little of the background."""
    error = torch.sqrt((reconstruction - volumes).square() + epsilon**2) - epsilon
    return _mean(error, masks + BACKGROUND_WEIGHT * (~masks))


def absolute_error(reconstruction: Tensor, volumes: Tensor, masks: Tensor) -> Tensor:
    """Absolute error (L1) over the brain, with a little of the background."""
    return _mean((reconstruction - volumes).abs(), masks + BACKGROUND_WEIGHT * (~masks))


def dissimilarity(reconstruction: Tensor, volumes: Tensor, masks: Tensor, window: int = 7, stride: int = 3) -> Tensor:
    """1 - SSIM (Wang et al. 2004) over the brain, with uniform windows every `stride` voxels: as good a gradient as
    windows at every voxel, at a fraction of the cost."""

    def mean(x: Tensor) -> Tensor:
        return avg_pool3d(x, window, stride)

    a, b = reconstruction, volumes
    mean_a, mean_b = mean(a), mean(b)
    variance_a = mean(a * a) - mean_a.square()
    variance_b = mean(b * b) - mean_b.square()
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_a.square() + mean_b.square() + c1) * (variance_a + variance_b + c2))
    weights = mean(masks.to(a.dtype))
    return 1 - _mean(similarity, weights)


def gradient_error(reconstruction: Tensor, volumes: Tensor, masks: Tensor) -> Tensor:
    """Absolute error of the differences between neighbouring voxels in the brain (Mathieu et al. 2016,
    arXiv 1511.05440): blur costs more than a wrong level."""
    error, mask = reconstruction - volumes, masks.to(volumes.dtype)
    parts = []
    for axis in (2, 3, 4):
        both = mask.narrow(axis, 1, mask.shape[axis] - 1) * mask.narrow(axis, 0, mask.shape[axis] - 1)
        parts.append(_mean(error.diff(dim=axis).abs(), both))
    return torch.stack(parts).mean()


def fourier_error(reconstruction: Tensor, volumes: Tensor, masks: Tensor) -> Tensor:
    """Absolute error of the Fourier magnitudes of the masked brain, unitary transform (Tudosiu et al. 2022,
    arXiv 2209.03177)."""
    a, b = (torch.fft.rfftn(part * masks, dim=(2, 3, 4), norm="ortho").abs() for part in (reconstruction, volumes))
    return (a - b).abs().mean()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of each volume, averaged over volumes: a batch may be split over processes without a change."""
    return ((weights * values).flatten(1).sum(1) / weights.flatten(1).sum(1)).mean()


INTENSITY_LOSSES = {"charbonnier": charbonnier, "l1": absolute_error}


class Objective:
    """The loss that the options ask for, term by term."""

    def __init__(self, options: AutoencoderOptions) -> None:
        self.intensity = INTENSITY_LOSSES[options.intensity_loss]
        self.weights = {"intensity": 1, "dissimilarity": options.ssim_weight, "commitment": options.commitment_weight}
        further = {"gradient": options.gradient_weight, "fourier": options.fourier_weight}
        self.weights |= {name: weight for name, weight in further.items() if weight}

    def measure(self, reconstruction: Tensor, volumes: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """What training and validation both are told by."""
        return {
            "intensity": self.intensity(reconstruction, volumes, masks),
            "dissimilarity": dissimilarity(reconstruction, volumes, masks),
        }

    def __call__(self, reconstruction: Tensor, volumes: Tensor, masks: Tensor, commitment: Tensor) -> dict[str, Tensor]:
        """Each term, unweighted, and `loss`, their weighted sum."""
        terms = {**self.measure(reconstruction, volumes, masks), "commitment": commitment}
        for name, error in (("gradient", gradient_error), ("fourier", fourier_error)):
            if name in self.weights:
                terms[name] = error(reconstruction, volumes, masks)
        terms["loss"] = torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()
        return terms
