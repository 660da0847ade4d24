"""Deformable alignment: registration and displacements."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from brainscm.alignment.displacement import align, inverse, resample, upsample, voxels
from brainscm.alignment.registration import STEP_VOXELS, Alignment, _minimise

SHAPE = (32, 32, 24)


def texture(seed: int = 0) -> Tensor:
    """A brain-like ball of tissue with structures a few voxels wide."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.8)
    distance = (voxels(SHAPE, torch.device("cpu")) - torch.tensor([16.0, 16, 12])[:, None, None, None]).norm(dim=0)
    ball = torch.sigmoid(1.5 * (9 - distance))
    return (ball * (0.7 + torch.from_numpy(noise / noise.std()) * 0.15)).float()


def smooth_displacement(seed: int, voxels_rms: float, width: float = 3.0) -> Tensor:
    """(3, x/2, y/2, z/2)."""
    half = [size // 2 for size in SHAPE]
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(3, *half)), (0, width, width, width))
    return torch.from_numpy(field / field.std() * voxels_rms).float()


def alignment_to(target: Tensor) -> Alignment:
    return Alignment(target, (target > 0.2).float(), voxel_mm=3.0)


@pytest.fixture
def alignment() -> Alignment:
    return alignment_to(texture())


def test_registration_brings_a_deformed_scan_back(alignment: Alignment) -> None:
    scan = 0.8 * align(texture(), smooth_displacement(1, 1.2)) + 0.05  # another gain and offset
    displacement = alignment.displacement(scan)
    inside = alignment.weight.bool()
    before, after = (
        np.corrcoef(volume[inside], alignment.target[inside])[0, 1] for volume in (scan, align(scan, displacement))
    )
    assert before < 0.8
    assert after > 0.95
    # What the registration found undoes what was done: there and back leaves every voxel within half a voxel.
    there = voxels(SHAPE, torch.device("cpu")) + upsample(displacement, SHAPE)
    done = upsample(smooth_displacement(1, 1.2), SHAPE)
    back = there + torch.stack([resample(axis, there) for axis in done])
    error = (back - voxels(SHAPE, torch.device("cpu"))).norm(dim=0)[inside]
    assert error.median() < 0.5


def test_the_way_downhill_is_that_of_torchs_adam() -> None:
    start = smooth_displacement(2, 1.0)
    steep = torch.linspace(0.1, 3, start.numel()).reshape(start.shape)

    def loss(at: Tensor) -> Tensor:
        return (steep * at.square()).sum() + at[0].sin().sum()

    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=STEP_VOXELS)
    for _ in range(25):
        optimiser.zero_grad()
        loss(theirs).backward()
        optimiser.step()
    assert torch.equal(_minimise(loss, start, 25), theirs.detach())


def test_a_scan_of_the_target_stays_where_it_is(alignment: Alignment) -> None:
    displacement = upsample(alignment.displacement(texture()), SHAPE)
    assert displacement[:, alignment.weight.bool()].abs().max() < 0.25


def test_inverse_finds_where_each_voxel_came_from() -> None:
    displacement = upsample(smooth_displacement(2, 1.0), SHAPE)
    points = inverse(displacement)
    arrived = points + torch.stack([resample(axis, points) for axis in displacement])
    inside = (slice(None), slice(6, -6), slice(6, -6), slice(6, -6))
    assert (arrived - voxels(SHAPE, torch.device("cpu")))[inside].abs().max() < 0.05
