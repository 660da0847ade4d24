"""How densely a place is filled with brain and with white matter, and how a change of that moves a scan's own borders.

Participants' sulci differ in number and course, so that the change of a voxel cannot be told from noise; that of a
tissue's density within some millimetres can. It is realised at the borders that a scan has: a sulcus widens where the
participant has one, also where the template has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

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
    box, at_nodes = _box(start != 0)
    moved, volume, start, by = volume.clone(), volume[box], start[box], by[:, *at_nodes]
    before = _smooth(_shares(start, levels), voxel_mm)
    nodes = functional.avg_pool3d(before, 2)
    change = densities(log_odds(nodes) + by) - nodes
    goal = before + functional.interpolate(change[None], size=start.shape, mode="trilinear", align_corners=False)[0]
    inside = start != 0
    for _ in range(ROUNDS):
        lack = goal - _smooth(_shares(volume, levels), voxel_mm)
        volume = _moved_by_a_round(volume, lack, inside, levels, voxel_mm)
    moved[box] = volume
    return moved


def move_borders_on(volume: Tensor, start: Tensor, levels: TissueLevels, change: Tensor, voxel_mm: float) -> Tensor:
    """As `move_borders`, in one round, by a small `change` of the densities of `start` themselves, (2, x, y, z)."""
    lack = _smooth(_shares(start, levels) - _shares(volume, levels), voxel_mm) + change
    return _moved_by_a_round(volume, lack, start != 0, levels, voxel_mm)


def _moved_by_a_round(volume: Tensor, lack: Tensor, inside: Tensor, levels: TissueLevels, voxel_mm: float) -> Tensor:
    """A volume whose densities lack less; `lack` (2, x, y, z)."""
    borders = Borders.of(volume, inside, levels)
    way = torch.where(lack > 0, borders.brighter, borders.darker)
    speed = lack / (_smooth(borders.swept * way, voxel_mm) + FEWEST_BORDERS)
    return torch.where(inside, borders.moved(speed, way), volume)


@dataclass(frozen=True)
class Borders:
    """The two borders of grey matter in a volume (x, y, z); tensors (2, …) are a border each.

    Attributes:
        brighter, darker: by how much brightness changes while a border moves by a voxel, (2, …).
        swept: how much of a voxel's density a border that lies in it sweeps for each unit of brightness, (2, …).
    """

    volume: Tensor
    brighter: Tensor
    darker: Tensor
    swept: Tensor
    levels: TissueLevels

    @classmethod
    def of(cls, volume: Tensor, inside: Tensor, levels: TissueLevels) -> Borders:
        places = (levels.csf + levels.gm) / 2, (levels.gm + levels.wm) / 2
        contrasts = levels.gm - levels.csf, levels.wm - levels.gm
        pure = torch.stack([(levels.gm - volume) / contrasts[0], (volume - levels.gm) / contrasts[1]]).clip_(0, 1)
        mixed = torch.stack([4 * size * (1 - share) * share for size, share in zip(contrasts, pure, strict=True)])
        passes = _passes(volume, places)
        pairs = zip(places, contrasts, strict=True)
        swept = torch.stack([((volume - at).abs() < size / 4) * inside * 2 / size for at, size in pairs])
        brighter, darker = (torch.addcmul(mixed, passes, slope) for slope in _slopes(volume))
        return cls(volume, brighter, darker, swept, levels)

    def moved(self, speed: Tensor, way: Tensor) -> Tensor:
        """The volume whose borders have moved by `speed` voxels, (2, …), along `way`, `brighter` or `darker`."""
        levels = self.levels
        step = speed.clip(-MOST_VOXELS, MOST_VOXELS) * way
        towards_wm = ((2 * self.volume - levels.csf - levels.gm) / (levels.wm - levels.csf)).clip_(0, 1)
        moved = self.volume + torch.lerp(step[0], step[1], towards_wm)
        return moved.clamp_(self.volume.clip(max=levels.csf), self.volume.clip(min=levels.wm))


def _box(inside: Tensor) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The box around a mask (x, y, z) and a node on each side, in voxels and in nodes; all of it, if it is empty."""
    box = []
    for axis in range(3):
        there = inside.flatten(1).any(1) if axis == 0 else inside.movedim(axis, 0).flatten(1).any(1)
        found = there.nonzero()[:, 0].tolist() or [0, len(there) - 1]
        box.append(slice(max(found[0] // 2 - 1, 0), min(found[-1] // 2 + 2, len(there) // 2)))
    return tuple(slice(2 * part.start, 2 * part.stop) for part in box), tuple(box)


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
    """By a Gaussian of `SIGMA_MM` along the last three axes of maps (c, x, y, z), nothing beyond the grid."""
    c, x, y, z = maps.shape
    of = [_gaussian(size, voxel_mm, maps.device) for size in (x, y, z)]
    maps = of[0] @ maps.reshape(c, x, y * z)
    maps = of[1] @ maps.reshape(c * x, y, z)
    return (maps.reshape(c * x * y, z) @ of[2]).reshape(c, x, y, z)


@lru_cache(maxsize=16)
def _gaussian(size: int, voxel_mm: float, device: torch.device) -> Tensor:
    """What a Gaussian of `SIGMA_MM` makes of the voxels of a line, (size, size)."""
    place = torch.arange(size, dtype=torch.float32, device=device) * (voxel_mm / SIGMA_MM)
    return torch.exp(-((place[:, None] - place) ** 2) / 2) * (voxel_mm / (SIGMA_MM * math.sqrt(2 * math.pi)))


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


def _slopes(volume: Tensor) -> tuple[Tensor, Tensor]:
    """How much brighter, and how much darker, per voxel it gets towards the neighbours, each axis's steeper side.

    So the walls of a sulcus part, where central differences would see none (upwind: Osher and Sethian 1988, Journal of
    Computational Physics 79).
    """
    brighter, darker = torch.zeros_like(volume), torch.zeros_like(volume)
    for axis in range(3):
        end = torch.zeros_like(volume.narrow(axis, 0, 1))
        steps = torch.cat([end, volume.diff(dim=axis), end], axis)
        before, after = (steps.narrow(axis, start, volume.shape[axis]) for start in (0, 1))
        rise, fall = torch.maximum(after, -before).clip_(min=0), torch.maximum(-after, before).clip_(min=0)
        brighter.addcmul_(rise, rise)
        darker.addcmul_(fall, fall)
    return brighter.sqrt_(), darker.sqrt_()
