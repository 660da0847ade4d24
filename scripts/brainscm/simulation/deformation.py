"""Smooth, invertible maps of space: velocity fields, their exponentials, and sampling through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional


@dataclass(frozen=True)
class Lattice:
    """A regular grid in RAS millimetres: the position of its first node, its spacing and its shape."""

    origin_mm: tuple[float, float, float]
    spacing_mm: float
    shape: tuple[int, int, int]

    @classmethod
    def spanning(cls, low_mm: tuple[float, ...], high_mm: tuple[float, ...], spacing_mm: float) -> Lattice:
        """The lattice from corner `low_mm` to at least `high_mm`."""
        counts = [int(np.ceil((high - low) / spacing_mm)) + 1 for low, high in zip(low_mm, high_mm, strict=True)]
        return cls((low_mm[0], low_mm[1], low_mm[2]), spacing_mm, (counts[0], counts[1], counts[2]))

    def block(self, start: tuple[int, ...], stop: tuple[int, ...]) -> tuple[tuple[slice, ...], Lattice]:
        """The nodes from index `start` up to `stop`: as slices, and as a lattice of their own."""
        low = [o + self.spacing_mm * i for o, i in zip(self.origin_mm, start, strict=True)]
        counts = [b - a for a, b in zip(start, stop, strict=True)]
        lattice = Lattice((low[0], low[1], low[2]), self.spacing_mm, (counts[0], counts[1], counts[2]))
        return tuple(slice(a, b) for a, b in zip(start, stop, strict=True)), lattice

    def points(self) -> torch.Tensor:
        """Positions of all nodes in mm, shape (x, y, z, 3); each coordinate in one piece, which is faster to add to."""
        axes = [
            torch.arange(n, dtype=torch.float32) * self.spacing_mm + low
            for n, low in zip(self.shape, self.origin_mm, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).movedim(0, -1)

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Which `points` (..., 3) lie within the lattice."""
        low = torch.tensor(self.origin_mm)
        high = low + (torch.tensor(self.shape) - 1) * self.spacing_mm
        return ((points >= low) & (points <= high)).all(dim=-1)

    def sample(self, values: torch.Tensor, points: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """Interpolate `values` (c, x, y, z) linearly at `points` (..., 3) in mm; the border is extended.

        mode: "nearest" takes the nearest node's value instead.
        """
        half = (torch.tensor(self.shape) - 1) * self.spacing_mm / 2
        centre = torch.tensor(self.origin_mm) + half
        grid = (points - centre).div_(half).reshape(1, -1, 1, 1, 3)
        # grid_sample takes the last axis first: turn the volume, which is a view, and not the points, which is a copy.
        turned = values.permute(0, 3, 2, 1)[None]
        sampled = functional.grid_sample(turned, grid, mode, padding_mode="border", align_corners=True)
        return sampled.reshape(values.shape[0], *points.shape[:-1])


def among(points: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Those of `points` (..., 3) that are in `mask` (...), each coordinate in one piece, as in `Lattice.points`."""
    return points.movedim(-1, 0)[:, mask].movedim(0, -1)


def interleaved(channels: Iterable[torch.Tensor]) -> torch.Tensor:
    """Volumes (x, y, z) as (c, x, y, z), a node's values side by side: sampled together they take less time."""
    return torch.stack([*channels], dim=-1).movedim(-1, 0)


def greatest_speed(velocity: torch.Tensor) -> float:
    """The length of the longest vector of `velocity` (3, x, y, z)."""
    return float(velocity.square().sum(dim=0).max().sqrt())


def exponential(velocity: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """Displacement (3, x, y, z) in mm after flowing for unit time along `velocity` (3, x, y, z), in mm.

    Scaling and squaring (Arsigny et al., MICCAI 2006): the first step is at most a third of the spacing.
    """
    longest = max(greatest_speed(velocity), 1e-6)
    squarings = max(0, int(np.ceil(np.log2(longest / (lattice.spacing_mm / 3)))))
    displacement = velocity / 2**squarings
    nodes = lattice.points()
    for _ in range(squarings):
        displacement = displacement + lattice.sample(displacement, nodes + displacement.permute(1, 2, 3, 0))
    return displacement


def jacobian_determinant(displacement: torch.Tensor, spacing_mm: float) -> torch.Tensor:
    """Local volume factor (x, y, z) of the map x -> x + displacement(x)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (torch.gradient(d, spacing=spacing_mm) for d in displacement)
    xx, yy, zz = xx + 1, yy + 1, zz + 1
    return xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
