"""How densely a place is filled with brain and with white matter, and how a change of that moves a scan's own borders.

Participants' sulci differ in number and course, so that the change of a voxel cannot be told from noise; that of a
tissue's density within some millimetres can. It is realised at the borders that a scan has: a sulcus widens where the
participant has one, also where the template has none.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from brainscm.tissue_levels import TissueLevels, rise

SIGMA_MM = 3.4  # of the Gaussian that a density is a mean over; 8 mm at half its height
# Added to both sides of a density's odds: in a place with no brain or with nothing else, noise is not all there is.
ODDS_FLOOR = 0.02
ROUNDS = 8  # of moving the borders
MOST_VOXELS = 0.5  # by which a round moves them
FEWEST_BORDERS = 0.003  # share of a voxel that a border sweeps for each voxel of its way, where there is hardly any


def log_odds_of_density(volume: Tensor, levels: TissueLevels, voxel_mm: float) -> Tensor:
    """Of brain and of white matter, (2, x/2, y/2, z/2), of a scan (x, y, z).

    On this scale an effect is the same for everyone: where a participant has more of a border, more is moved, and
    where everything is of one tissue, nothing. A density never leaves 0 to 1.
    """
    return log_odds(density_at_nodes(volume, levels, voxel_mm))


def density_at_nodes(volume: Tensor, levels: TissueLevels, voxel_mm: float) -> Tensor:
    """Of brain and of white matter, (2, x/2, y/2, z/2), of a volume (x, y, z)."""
    return functional.avg_pool3d(_smooth(_shares(volume, levels), voxel_mm), 2)


def move_borders(volume: Tensor, start: Tensor, levels: TissueLevels, by: Tensor, voxel_mm: float) -> Tensor:
    """A volume whose densities are those of `start` but for a change of their log odds.

    The two borders of grey matter, with CSF and with white matter, are moved along their own normals, as level sets
    are: brightness flows along its gradient, as fast as the density around it asks for. Where partial volume hides a
    border, as in a narrow sulcus, brightness itself changes. Where a participant has no border, nothing can move, and
    nothing gets darker than CSF or brighter than white matter.

    Args:
        volume: (x, y, z), to be moved.
        start: (x, y, z), the scan, 0 outside the brain, where nothing is moved.
        by: (2, x/2, y/2, z/2), the change of the log odds, of brain and of white matter.
    """
    before = _smooth(_shares(start, levels), voxel_mm)
    nodes = functional.avg_pool3d(before, 2)
    change = densities(log_odds(nodes) + by) - nodes
    goal = before + functional.interpolate(change[None], size=start.shape, mode="trilinear", align_corners=False)[0]
    inside = start != 0
    for _ in range(ROUNDS):
        lack = goal - _smooth(_shares(volume, levels), voxel_mm)
        volume = _nudged(volume, lack, inside, levels, voxel_mm)
    return volume


def move_borders_on(volume: Tensor, start: Tensor, levels: TissueLevels, change: Tensor, voxel_mm: float) -> Tensor:
    """As `move_borders`, in one round, by a small `change` of the densities of `start` themselves, (2, x, y, z)."""
    lack = _smooth(_shares(start, levels) - _shares(volume, levels), voxel_mm) + change
    return _nudged(volume, lack, start != 0, levels, voxel_mm)


def _nudged(volume: Tensor, lack: Tensor, inside: Tensor, levels: TissueLevels, voxel_mm: float) -> Tensor:
    """A volume whose densities lack less; `lack` (2, x, y, z)."""
    csf_border, wm_border = (levels.csf + levels.gm) / 2, (levels.gm + levels.wm) / 2
    contrast = (levels.gm - levels.csf, levels.wm - levels.gm)
    pure = torch.stack([(levels.gm - volume) / contrast[0], (volume - levels.gm) / contrast[1]]).clip(0, 1)
    way = torch.where(lack > 0, _slope(volume, rising=True), _slope(volume, rising=False))
    way *= _passes(volume, (csf_border, wm_border))
    way += torch.stack([4 * size * (1 - share) * share for size, share in zip(contrast, pure, strict=True)])
    swept = torch.stack(
        [
            ((volume - border).abs() < size / 4) * inside * 2 / size
            for border, size in zip((csf_border, wm_border), contrast, strict=True)
        ]
    )
    speed = lack / (_smooth(swept * way, voxel_mm) + FEWEST_BORDERS)
    step = speed.clip(-MOST_VOXELS, MOST_VOXELS) * way
    towards_wm = ((volume - csf_border) / (wm_border - csf_border)).clip(0, 1)
    moved = volume + torch.lerp(step[0], step[1], towards_wm)
    moved = moved.clamp(volume.clip(max=levels.csf), volume.clip(min=levels.wm))
    return torch.where(inside, moved, volume)


def _shares(volume: Tensor, levels: TissueLevels) -> Tensor:
    """(2, x, y, z): how much of a voxel is brain, and how much white matter."""
    return torch.stack([rise(volume, levels.csf, levels.gm), rise(volume, levels.gm, levels.wm)])


def log_odds(density: Tensor) -> Tensor:
    """Of a density, 0 to 1; never infinite."""
    return torch.log((density + ODDS_FLOOR) / (1 - density + ODDS_FLOOR))


def densities(log_odds: Tensor) -> Tensor:
    """Of which `log_odds` made these."""
    return ((1 + 2 * ODDS_FLOOR) * torch.sigmoid(log_odds) - ODDS_FLOOR).clip(0, 1)


def _smooth(maps: Tensor, voxel_mm: float) -> Tensor:
    """By a Gaussian of `SIGMA_MM` along the last three axes, nothing beyond the grid."""
    for axis in (-3, -2, -1):
        place = torch.arange(maps.shape[axis], dtype=maps.dtype, device=maps.device) * (voxel_mm / SIGMA_MM)
        kernel = torch.exp(-((place[:, None] - place) ** 2) / 2) * (voxel_mm / (SIGMA_MM * math.sqrt(2 * math.pi)))
        maps = (maps.movedim(axis, -1) @ kernel).movedim(-1, axis)
    return maps


def _passes(volume: Tensor, borders: tuple[float, float]) -> Tensor:
    """Whether each border lies within a voxel, (2, x, y, z): elsewhere a slope is noise, and would flow away from its
    own dark spots."""
    brightest, darkest = _highest_near(volume), -_highest_near(-volume)
    return torch.stack([(darkest < border) & (border < brightest) for border in borders])


def _highest_near(volume: Tensor) -> Tensor:
    """The maximum of 3 × 3 × 3 voxels, axis by axis: in a seventh of the time of `max_pool3d`."""
    for axis in range(3):
        low, high = (volume.narrow(axis, start, volume.shape[axis] - 1) for start in (0, 1))
        pairs = torch.maximum(low, high)
        ends = volume.narrow(axis, 0, 1), volume.narrow(axis, -1, 1)
        volume = torch.maximum(torch.cat([ends[0], pairs], axis), torch.cat([pairs, ends[1]], axis))
    return volume


def _slope(volume: Tensor, rising: bool) -> Tensor:
    """How much brighter (or darker) per voxel it gets towards the neighbours, along each axis the steeper side's.

    So the walls of a sulcus part, where central differences would see none (upwind: Osher and Sethian 1988, Journal of
    Computational Physics 79).
    """
    total = torch.zeros_like(volume)
    for axis in range(3):
        step = volume.diff(dim=axis) * (1 if rising else -1)
        end = torch.zeros_like(volume.narrow(axis, 0, 1))
        total += torch.maximum(torch.cat([step, end], axis), torch.cat([end, -step], axis)).clip(min=0).square()
    return total.sqrt()
