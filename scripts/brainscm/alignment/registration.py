"""Deformable alignment: where a scan's anatomy lies relative to the template, as a displacement field.

An average over participants whose edges do not lie on top of each other is blurred, and a linear effect on intensities
fades edges where age moves them. Here a scan becomes its displacement to the template, and its intensities as they lie
there.

Positions are voxels of the common grid; a displacement u takes a template voxel y to y + u(y) in the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from brainscm.alignment.displacement import interpolate, upsample, voxels
from brainscm.preprocess.template import Template

COARSEST_MM = 6.0  # of the levels at which scans are aligned, coarse to fine
STEPS = {"coarse": 40, "full": 25}
STEP_VOXELS = 0.3
DECAY = 0.9, 0.999  # of the running means of the gradient and of its square
WINDOW = 5  # voxels, of the local correlation
# Weight of the mean squared strain. Chosen on simulated participants for the correlation of predicted and true change.
STIFFNESS = 1.0
NOISE = 1e-3  # variance (white matter is 1) below which a window counts as flat
ASYMMETRY = 0.01  # share of the target's variance by which it may differ from its mirror image


class Alignment(nn.Module):
    """Registration of preprocessed scans (x, y, z) to a target brain by local correlation and a smooth displacement.

    The squared correlation in windows (Avants et al. 2008, Medical Image Analysis 12) needs no common intensities.
    Displacements live on every second voxel, and a penalty on their strain keeps them smooth; Adam finds them, at
    halved resolutions first. A scan's displacement depends on nothing but the scan and the target.
    """

    target: Tensor  # (x, y, z)
    weight: Tensor  # (x, y, z), 1 in the target's brain

    def __init__(self, target: Tensor, weight: Tensor, voxel_mm: float) -> None:
        super().__init__()
        self.register_buffer("target", target.float())
        self.register_buffer("weight", weight.float())
        self.voxel_mm = voxel_mm

    @classmethod
    def onto(cls, template: Template) -> Alignment:
        """To a template's brain, on its grid."""
        brain, mask = (torch.from_numpy(each.astype(np.float32)) for each in (template.brain, template.brain_mask))
        return cls(brain, mask, template.voxel_mm)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a displacement's grid: every second voxel."""
        x, y, z = self.target.shape
        return (x // 2, y // 2, z // 2)

    @property
    def target_is_symmetric(self) -> bool:
        """Whether the target's brain is its own mirror image about the middle of the grid's x axis."""
        inside = self.weight > 0
        if self.target.shape[0] % 2 or not torch.equal(inside, inside.flip(0)):
            return False
        brain, mirrored = self.target[inside], self.target.flip(0)[inside]
        return bool((brain - mirrored).square().mean() < ASYMMETRY * brain.var())

    @torch.enable_grad()
    @torch.inference_mode(False)
    def displacement(self, volume: Tensor) -> Tensor:
        """Displacement (3, x/2, y/2, z/2) of a scan (x, y, z)."""
        scan, target, weight = volume.detach().clone()[None], self.target.clone()[None], self.weight.clone()[None]
        scales = [1]
        while 2 * scales[0] * self.voxel_mm <= COARSEST_MM and min(self.target.shape) >= 4 * scales[0] * WINDOW:
            scales.insert(0, 2 * scales[0])
        found = torch.zeros(3, *self.shape, device=scan.device)
        for scale in scales:
            moving, fixed, inside = (functional.avg_pool3d(each, scale) for each in (scan, target, weight))
            mismatch = partial(_mismatch, moving, fixed, _window_means(fixed, fixed.square(), inside), scale)
            found = _minimise(mismatch, found, STEPS["full" if scale == 1 else "coarse"])
        return found

    def quality(self, volume: Tensor, displacement: Tensor) -> dict[str, float]:
        """How well a scan (x, y, z) and the target agree under a displacement, and the strain that this takes.

        The correlation over the whole brain, unlike that in windows, does not depend on the size of the voxels.
        """
        points = voxels(self.target.shape, volume.device) + upsample(displacement, self.target.shape)
        inside = self.weight > 0
        pair = torch.stack([interpolate(volume[None], points)[0][inside], self.target[inside]])
        return {
            "alignment_similarity": float(torch.corrcoef(pair)[0, 1]),
            "alignment_strain": float(_strain(displacement)),
        }


def _mismatch(moving: Tensor, fixed: Tensor, of_fixed: Tensor, scale: int, displacement: Tensor) -> Tensor:
    """How badly two volumes (1, x, y, z) agree under a displacement, and what it costs.

    `of_fixed`: window means of fixed, fixed², weight. `scale`: voxels of the full grid along the edge of one of theirs.
    """
    shape = fixed.shape[1:]
    moved = interpolate(moving, voxels(shape, moving.device) + upsample(displacement, shape) / scale)
    return 1 - _local_correlation(moved, fixed, of_fixed) + STIFFNESS * _strain(displacement)


def _minimise(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Where so many steps of Adam lead downhill (Kingma and Ba 2015, arXiv 1412.6980).

    The same numbers as torch.optim's, which loads 800 modules for its first step: a second of each scan's job.
    """
    at, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, steps + 1):
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at), at)
        mean.lerp_(gradient, 1 - DECAY[0])
        square.mul_(DECAY[1]).addcmul_(gradient, gradient, value=1 - DECAY[1])
        size = (square.sqrt() / (1 - DECAY[1] ** step) ** 0.5).add_(1e-8)
        at = at.detach().addcdiv(mean, size, value=-STEP_VOXELS / (1 - DECAY[0] ** step))
    return at


def _window_means(*volumes: Tensor) -> Tensor:
    """Means in windows of volumes (1, x, y, z), one after the other in the first axis."""
    return functional.avg_pool3d(torch.stack(volumes), WINDOW, stride=2)[:, 0]


def _local_correlation(moved: Tensor, fixed: Tensor, of_fixed: Tensor) -> Tensor:
    """Mean over the brain of the squared correlation in windows; `of_fixed`: window means of fixed, fixed², weight."""
    means = _window_means(moved, moved.square(), moved * fixed)
    mean, square, inside = of_fixed
    covariance = means[2] - means[0] * mean
    variances = (means[1] - means[0].square() + NOISE) * (square - mean.square() + NOISE)
    return (covariance.square() / variances * inside).sum() / inside.sum()


def _strain(displacement: Tensor) -> Tensor:
    """Sum over the axes of the mean squared difference between neighbouring nodes, which lie two voxels apart."""
    x, y, z = (displacement.diff(dim=axis).square().mean() for axis in (1, 2, 3))
    return x + y + z
