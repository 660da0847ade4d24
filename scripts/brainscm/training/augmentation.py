"""Small random changes of training volumes that keep them plausible brains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

CONTROL_POINTS = 5  # along each axis of the random warps: bumps as wide as a quarter of the head


def augment(
    volume: Tensor, mask: Tensor, rng: np.random.Generator, deformation_voxels: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Flip one volume (1, x, y, z) left-right half of the times, and change contrast and brightness by 10 and 5 %.

    With `deformation_voxels`, also warp it smoothly by so much (root mean square).
    """
    flip, gamma, scale = rng.random() < 0.5, rng.uniform(0.9, 1.1), rng.uniform(0.95, 1.05)
    if flip:
        volume, mask = volume.flip(1), mask.flip(1)
    if deformation_voxels:
        grid = _random_warp(volume, rng, deformation_voxels)
        volume = grid_sample(volume[None], grid, padding_mode="border", align_corners=True)[0]
        mask = grid_sample(mask[None].to(volume.dtype), grid, mode="nearest", align_corners=True)[0] > 0.5
    return volume.clamp_min(0).pow(gamma) * scale, mask


def _random_warp(volume: Tensor, rng: np.random.Generator, deformation_voxels: float) -> Tensor:
    """Where each voxel of the warped volume comes from, in grid_sample's coordinates: (1, x, y, z, 3)."""
    shape = volume.shape[1:]
    bumps = torch.from_numpy(rng.standard_normal((1, 3, *[CONTROL_POINTS] * 3)).astype(np.float32)).to(volume.device)
    field = interpolate(bumps, shape, mode="trilinear", align_corners=True)
    field *= deformation_voxels / field.square().mean().sqrt()
    voxels = torch.tensor(shape[::-1], device=volume.device)  # grid_sample names the last axis first
    identity = affine_grid(torch.eye(3, 4, device=volume.device)[None], [1, 1, *shape], align_corners=True)
    return identity + field.movedim(1, -1) * 2 / (voxels - 1)
