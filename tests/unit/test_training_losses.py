"""The losses against values known by hand, and the random changes of training volumes."""

import numpy as np
import pytest
import torch

from brainscm.training.augmentation import augment
from brainscm.training.losses import absolute_error, charbonnier, dissimilarity, fourier_error, gradient_error

LOSSES = [charbonnier, absolute_error, dissimilarity, gradient_error, fourier_error]
VOLUMES = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(2, 1, 16, 16, 16, dtype=torch.bool)
MASKS[0, :, 2:14, 2:14, 2:14] = True
MASKS[1, :, 4:9, 4:14, 4:14] = True


@pytest.mark.parametrize("loss", LOSSES)
def test_a_perfect_reconstruction_costs_nothing_and_noise_does(loss):
    noisy = VOLUMES + 0.1 * torch.randn(VOLUMES.shape, generator=torch.Generator().manual_seed(1))
    assert float(loss(VOLUMES, VOLUMES, MASKS)) == pytest.approx(0, abs=1e-5)
    assert float(loss(noisy, VOLUMES, MASKS)) > 0.005


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_costs_the_mean_of_its_volumes(loss):
    noisy = VOLUMES + 0.1
    noisy[1] += 0.3 * torch.rand(noisy[1].shape, generator=torch.Generator().manual_seed(1))
    each = [loss(noisy[[i]], VOLUMES[[i]], MASKS[[i]]) for i in (0, 1)]
    torch.testing.assert_close(loss(noisy, VOLUMES, MASKS), torch.stack(each).mean())


def test_an_error_outside_the_brain_costs_a_tenth_of_one_inside():
    inside, outside = (VOLUMES[:1] + 0.5 * mask for mask in (MASKS[:1], ~MASKS[:1]))
    brain, background = int(MASKS[0].sum()), int((~MASKS[0]).sum())
    costs = [float(absolute_error(volumes, VOLUMES[:1], MASKS[:1])) for volumes in (inside, outside)]
    weight = brain + 0.1 * background
    assert costs == pytest.approx([0.5 * brain / weight, 0.5 * 0.1 * background / weight], rel=1e-5)


def test_the_gradient_error_sees_edges_and_not_levels():
    assert float(gradient_error(VOLUMES + 0.5, VOLUMES, MASKS)) == pytest.approx(0, abs=1e-6)
    ramp = 0.2 * torch.arange(16.0)[:, None, None]
    assert float(gradient_error(VOLUMES + ramp, VOLUMES, MASKS)) == pytest.approx(0.2 / 3, rel=1e-5)


def test_the_fourier_error_does_not_see_where_the_brain_lies():
    rolled = [torch.roll(part, 2, dims=2) for part in (VOLUMES[:1] * MASKS[:1], MASKS[:1])]
    everywhere = torch.ones_like(MASKS[:1])
    assert float(fourier_error(rolled[0], VOLUMES[:1] * MASKS[:1], everywhere)) == pytest.approx(0, abs=1e-6)
    assert float(charbonnier(rolled[0], VOLUMES[:1] * MASKS[:1], everywhere)) > 0.05


def smooth_ball() -> tuple[torch.Tensor, torch.Tensor]:
    distance = torch.from_numpy(
        np.linalg.norm(np.indices((24, 32, 28)) - np.array([11.5, 15.5, 13.5]).reshape(3, 1, 1, 1), axis=0)
    )
    volume = (9 - distance).clamp(0, 1).float()[None]
    return volume, volume > 0.5


def test_a_warp_moves_volume_and_mask_together_by_the_size_asked_for():
    volume, mask = smooth_ball()
    moved = []
    for seed in range(6):
        warped, warped_mask = augment(volume, mask, np.random.default_rng(seed), deformation_voxels=1.0)
        assert warped.shape == volume.shape
        assert warped_mask.dtype == torch.bool
        disagreement = (warped > 0.5) ^ warped_mask
        assert disagreement.float().mean() < 0.02
        moved.append(float((warped_mask ^ mask).float().mean()))
    unchanged = augment(volume, mask, np.random.default_rng(0))[1]
    assert torch.equal(unchanged, mask)
    surface = 4 * np.pi * 8.5**2 / mask.numel()
    assert 0.1 * surface < np.mean(moved) < 1.2 * surface  # the surface moves by a part of a voxel


def test_the_same_generator_gives_the_same_change():
    volume, mask = smooth_ball()
    first, second = (augment(volume, mask, np.random.default_rng(3), 1.0)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(volume, mask, np.random.default_rng(4), 1.0)[0])


def test_half_of_the_volumes_are_mirrored_with_their_masks_and_all_change_a_little_in_contrast_and_brightness():
    volume = torch.linspace(0, 1, 4 * 5 * 6).reshape(1, 4, 5, 6)
    mask = volume > 0.6
    mirrored, gammas, scales = 0, [], []
    for seed in range(200):
        changed, changed_mask = augment(volume, mask, np.random.default_rng(seed))
        if changed[0, 0, 0, 0] > changed[0, -1, 0, 0]:
            mirrored += 1
            changed, changed_mask = changed.flip(1), changed_mask.flip(1)
        assert torch.equal(changed_mask, mask)
        scales.append(float(changed.max()))
        middle = (changed / changed.max()).flatten()[60]
        gammas.append(float(torch.log(middle) / torch.log(volume.flatten()[60])))
    assert 80 < mirrored < 120
    assert 0.9 <= min(gammas) < 0.92 < 1.08 < max(gammas) <= 1.1 + 1e-4
    assert 0.95 <= min(scales) < 0.96 < 1.04 < max(scales) <= 1.05
