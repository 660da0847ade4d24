"""Deformable alignment: where a scan's anatomy lies relative to the template, as a displacement field.

An average over people whose edges do not lie on top of each other is blurred, and a linear effect on intensities fades
edges where age moves them. Here a scan becomes its displacement to the template, and its intensities as they lie there.

Positions are voxels of the common grid; a displacement u takes a template voxel y to y + u(y) in the scan.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from brainscm.alignment.displacement import interpolate, upsample, voxels

COARSEST_MM = 6.0  # of the levels at which scans are aligned, coarse to fine
STEPS = {"coarse": 40, "full": 25}
STEP_VOXELS = 0.3
WINDOW = 5  # voxels, of the local correlation
# Weight of the mean squared strain. Chosen on simulated people for the correlation of predicted and true change.
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
        self.kept_in: Path | None = None

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

    def displacement(self, volume: Tensor) -> Tensor:
        """Displacement (3, x/2, y/2, z/2) of a scan (x, y, z); read from `kept_in` if it was found there before."""
        if self.kept_in is None:
            return self._register(volume)
        digest = sha256(self._identity())
        digest.update(volume.detach().cpu().numpy().tobytes())
        path = self.kept_in / f"{digest.hexdigest()[:24]}.npy"
        if path.exists():
            return torch.from_numpy(np.load(path)).to(volume.device)
        found = self._register(volume)
        self.kept_in.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.stem}.{os.getpid()}.npy")
        np.save(unfinished, found.cpu().numpy())
        os.replace(unfinished, path)
        return found

    def _identity(self) -> bytes:
        """Of all but the scan that a displacement depends on: this file, the voxels and the target."""
        return Path(__file__).read_bytes() + repr(self.voxel_mm).encode() + self.target.cpu().numpy().tobytes()

    @torch.enable_grad()
    @torch.inference_mode(False)
    def _register(self, volume: Tensor) -> Tensor:
        scan, target, weight = volume.detach().clone()[None], self.target.clone()[None], self.weight.clone()[None]
        scales = [1]
        while 2 * scales[0] * self.voxel_mm <= COARSEST_MM and min(self.target.shape) >= 4 * scales[0] * WINDOW:
            scales.insert(0, 2 * scales[0])
        found = torch.zeros(3, *self.shape, device=scan.device, requires_grad=True)
        for scale in scales:
            moving, fixed, inside = (functional.avg_pool3d(each, scale) for each in (scan, target, weight))
            nodes = voxels(fixed.shape[1:], scan.device)
            statistics = functional.avg_pool3d(torch.stack([fixed, fixed.square(), inside]), WINDOW, stride=2)[:, 0]
            optimiser = torch.optim.Adam([found], lr=STEP_VOXELS)
            for _ in range(STEPS["full" if scale == 1 else "coarse"]):
                moved = interpolate(moving, nodes + upsample(found, fixed.shape[1:]) / scale)
                dissimilarity = 1 - _local_correlation(moved, fixed, statistics)
                strain = sum(found.diff(dim=axis).square().mean() for axis in (1, 2, 3))
                optimiser.zero_grad()
                (dissimilarity + STIFFNESS * strain).backward()
                optimiser.step()
        return found.detach()


def _local_correlation(moved: Tensor, fixed: Tensor, of_fixed: Tensor) -> Tensor:
    """Mean over the brain of the squared correlation in windows; `of_fixed`: window means of fixed, fixed², weight."""
    means = functional.avg_pool3d(torch.stack([moved, moved.square(), moved * fixed]), WINDOW, stride=2)[:, 0]
    mean, square, inside = of_fixed
    covariance = means[2] - means[0] * mean
    variances = (means[1] - means[0].square() + NOISE) * (square - mean.square() + NOISE)
    return (covariance.square() / variances * inside).sum() / inside.sum()
