"""A tissue's density: what it says of a scan, and how a change of it moves the borders that the scan has."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from brainscm.encoding.density import log_odds_of_density, move_borders
from brainscm.tissue_levels import TissueLevels

LEVELS = TissueLevels(csf=0.3, gm=0.7, wm=1.0)
VOXEL_MM = 2.0
SHAPE = (40, 40, 32)


@lru_cache
def brain(sulcus: bool = True) -> Tensor:
    """White matter in 5 mm of grey matter in CSF, perhaps with a sulcus; 0 outside; the partial volume of 2 mm."""
    fine = np.indices([3 * size for size in SHAPE]) / 3 - np.array([19.5, 19.5, 15.5])[:, None, None, None]
    radius = np.sqrt((fine**2).sum(axis=0))
    tissue = np.where(radius < 9.5, LEVELS.wm, np.where(radius < 12, LEVELS.gm, LEVELS.csf))
    if sulcus:
        depth = (np.abs(fine[0]) < 0.75) & (fine[1] > 5) & (radius < 12)
        around = (np.abs(fine[0]) < 3.25) & (fine[1] > 2.5) & (radius < 12)
        tissue = np.where(depth, LEVELS.csf, np.where(around, LEVELS.gm, tissue))
    blocks = tissue.reshape(SHAPE[0], 3, SHAPE[1], 3, SHAPE[2], 3).mean(axis=(1, 3, 5))
    outside = radius[1::3, 1::3, 1::3] > 14.5
    return torch.from_numpy(np.where(outside, 0, blocks)).float()


def volumes(volume: Tensor) -> tuple[float, float]:
    """Voxels of brain and of white matter, by thresholds half way between the levels."""
    return float((volume > 0.5).sum()), float((volume > 0.85).sum())


def asked(brain_change: float = 0.0, wm_change: float = 0.0) -> Tensor:
    nodes = [size // 2 for size in SHAPE]
    return torch.stack([torch.full(nodes, brain_change), torch.full(nodes, wm_change)])


def density(volume: Tensor) -> Tensor:
    """(2, x/2, y/2, z/2), by an independent road."""
    shares = [np.clip(0.5 + (volume.numpy() - at) / width, 0, 1) for at, width in ((0.5, 0.1), (0.85, 0.075))]
    smooth = np.stack([ndimage.gaussian_filter(share, 3.4 / VOXEL_MM, mode="constant") for share in shares])
    return torch.nn.functional.avg_pool3d(torch.from_numpy(smooth).float(), 2)


def test_it_is_the_smoothed_share_of_each_tissue_as_log_odds() -> None:
    found = log_odds_of_density(brain(), LEVELS, VOXEL_MM)
    assert found.shape == (2, 20, 20, 16)
    expected = density(brain())
    torch.testing.assert_close(1.04 * torch.sigmoid(found) - 0.02, expected, rtol=0, atol=2e-3)
    assert found.isfinite().all()


@pytest.mark.parametrize("change", [-0.2, 0.2])
def test_borders_move_until_the_density_is_what_was_asked(change: float) -> None:
    """Of the brain alone: white matter keeps its volume."""
    scan = brain()
    moved = move_borders(scan, scan, LEVELS, asked(change), VOXEL_MM)
    odds = torch.logit(((density(scan) + 0.02) / 1.04).clip(1e-6, 1 - 1e-6)) + asked(change)
    goal = (1.04 * torch.sigmoid(odds) - 0.02).clip(0, 1)
    near = (density(scan)[0] > 0.05) & (density(scan)[0] < 0.95)
    wanted, made = (float((after - density(scan))[0][near].sum()) for after in (goal, density(moved)))
    assert 0.8 < made / wanted < 1.1
    (brain_before, wm_before), (brain_after, wm_after) = volumes(scan), volumes(moved)
    assert (brain_after - brain_before) * change > 0
    assert abs(wm_after - wm_before) < 0.3 * abs(brain_after - brain_before)


def test_a_sulcus_widens_where_the_participant_has_one() -> None:
    scan, smooth = brain(), brain(sulcus=False)
    place = (slice(16, 24), slice(26, 30), slice(12, 20))
    loss = {
        name: float((each[place] - move_borders(each, each, LEVELS, asked(-0.4), VOXEL_MM)[place]).sum())
        for name, each in (("with", scan), ("without", smooth))
    }
    assert loss["with"] > 3 * abs(loss["without"])


def test_the_border_of_white_matter_moves_without_the_brains() -> None:
    scan = brain()
    moved = move_borders(scan, scan, LEVELS, asked(wm_change=-0.4), VOXEL_MM)
    (brain_before, wm_before), (brain_after, wm_after) = volumes(scan), volumes(moved)
    assert wm_after < 0.97 * wm_before
    assert abs(brain_after - brain_before) < 0.2 * (wm_before - wm_after)


def test_what_was_done_already_is_not_done_again() -> None:
    """Moved to its goal and asked for the same once more, a volume stays about as it is."""
    scan = brain()
    once = move_borders(scan, scan, LEVELS, asked(-0.3), VOXEL_MM)
    again = move_borders(once, scan, LEVELS, asked(-0.3), VOXEL_MM)
    assert float((again - once).abs().sum()) < 0.35 * float((once - scan).abs().sum())


def test_nothing_moves_outside_the_brain_or_inside_one_tissue() -> None:
    scan = brain()
    moved = move_borders(scan, scan, LEVELS, asked(-0.6, -0.6), VOXEL_MM)
    assert torch.equal(moved[scan == 0], scan[scan == 0])
    core = (slice(18, 22), slice(15, 18), slice(14, 18))  # white matter, 10 mm from its borders
    torch.testing.assert_close(moved[core], scan[core], rtol=0, atol=5e-3)


def test_fluid_gets_no_darker_for_its_noise() -> None:
    """Two voxels from the border; a flow away from each dark spot would darken all of it."""
    place = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij"))
    radius = place.square().sum(0).sqrt()
    noise = 0.03 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    scan = torch.where(radius < 14, brain(sulcus=False) + noise, 0)
    moved = move_borders(scan, scan, LEVELS, asked(-0.6), VOXEL_MM)
    fluid = (radius > 13.2) & (radius < 14)
    assert (moved[fluid] >= scan[fluid].clip(max=LEVELS.csf)).all()
