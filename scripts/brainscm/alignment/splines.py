"""Cubic B-splines on whatever device a volume lies: what `scipy.ndimage.map_coordinates` does, without leaving it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def sample_cubic(coefficients: Tensor, points: Tensor) -> Tensor:
    """The spline with these coefficients (x, y, z) at points (3, …) in voxels, 0 outside, in float32.

    As SciPy's with `order=3, mode="constant"`: the spline is mirrored at the outermost voxels (Unser et al. 1993).
    """
    shape, coefficients = coefficients.shape, coefficients.flatten()
    inside = torch.stack([(p >= 0) & (p <= n - 1) for p, n in zip(points, shape, strict=True)]).all(0)
    indices, weights = zip(*(_taps(p, n) for p, n in zip(points, shape, strict=True)), strict=True)
    found = torch.zeros_like(points[0])
    for i in range(4):
        for j in range(4):
            plane = (indices[0][i] * shape[1] + indices[1][j]) * shape[2]
            weight = weights[0][i] * weights[1][j]
            for k in range(4):
                found += weight * weights[2][k] * coefficients[plane + indices[2][k]]
    return torch.where(inside, found, 0)


def cubic_coefficients(volume: Tensor) -> Tensor:
    """Of the spline that goes through all voxels of a volume (x, y, z), in float32."""
    volume = volume.float()
    for axis in range(3):
        solve = _solution(volume.shape[axis], str(volume.device))
        volume = torch.tensordot(volume, solve, dims=([axis], [1])).movedim(-1, axis)
    return volume


@lru_cache(maxsize=16)
def _solution(size: int, device: str) -> Tensor:
    """The inverse of what a spline's coefficients along a line become at its voxels, (size, size)."""
    matrix = torch.eye(size, dtype=torch.float64, device=device) * 4 / 6
    neighbours = torch.full((size - 1,), 1 / 6, dtype=torch.float64, device=device)
    matrix += neighbours.diag(1) + neighbours.diag(-1)
    matrix[0, 1] = matrix[-1, -2] = 2 / 6  # the mirrored neighbour counts as well
    return torch.linalg.inv(matrix).float()


def _taps(positions: Tensor, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Indices of the four coefficients around each position on a line, and their weights."""
    first = positions.floor()
    t = positions - first
    weights = [(1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6]
    last = size - 1
    indices = [(first.long() + offset).abs() for offset in (-1, 0, 1, 2)]
    indices = [torch.where(index > last, 2 * last - index, index).clamp(0, last) for index in indices]
    return indices, weights
