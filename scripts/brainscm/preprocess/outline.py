"""Lay the template's brain mask on the outline of a brain, which says where the brain is, how large, and how tilted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainscm.images import Image
from brainscm.preprocess.register import about, centre_of
from brainscm.resampling import sample

PITCHES = (-40, -20, 0, 20, 40)  # degrees
STEPS = 15  # of Gauss and Newton, for the similarity and again for the affine
FAR_MM = 30.0  # distances beyond this say no more
UNUSUAL_MM = 4.0  # points farther off than this, as where the brain is cut off or its shape its own, count less
STIFFNESS = 2.0  # of the affine against shear and uneven size, mm² a unit of its matrix


def fit_outline(mask: Image, surface: Image) -> np.ndarray:
    """The affine map (4, 4) from the template to the scan that lays the mask's surface on a brain's.

    Squared distances of the mask's surface points to the outline, weighted as Cauchy's distribution has it (points far
    off count little), are lowered by Gauss and Newton's method: a similarity from several pitches, whose best is
    refined to an affine. Points beyond the scan's field of view have no say. (Fitzgibbon 2003,
    doi 10.1016/j.imavis.2003.09.004.)

    Args:
        mask: the template's.
        surface: signed distance (mm, positive inside) to the outline of the brain.
    """
    inside, within = mask.data > 0.5, surface.data > 0
    rim = inside & ~ndimage.binary_erosion(inside)
    points = np.argwhere(rim) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    centre = centre_of(inside, mask.affine)
    distances = _Distances(surface, depth=mask.voxel_mm[0] / 2)
    size = (within.sum() * surface.voxel_ml / (inside.sum() * mask.voxel_ml)) ** (1 / 3)
    place = centre_of(within, surface.affine)
    turns = [Rotation.from_euler("x", pitch, degrees=True).as_matrix() for pitch in PITCHES]
    starts = [about(turn * size, centre, place) for turn in turns]
    similar = [_refine(distances, points, centre, start, _similar_step) for start in starts]
    best = min(similar, key=lambda matrix: distances.mean(_apply(matrix, points)))
    return _refine(distances, points, centre, best, _affine_step)


def fitted_share(mask: Image, matrix: np.ndarray, surface: Image) -> float:
    """Dice of the template's mask, brought to the scan by `matrix`, and the outline."""
    laid = sample(mask, surface.affine, surface.data.shape, np.linalg.inv(matrix), order=1) > 0.5
    return dice(laid, surface.data > 0)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks; 0 where both are empty."""
    return 2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


class _Distances:
    """How far points (n, 3) in world coordinates lie inside an outline, and the gradient of that."""

    def __init__(self, surface: Image, depth: float) -> None:
        self.clipped = np.clip(surface.data, -FAR_MM, FAR_MM)
        self.slopes = [slope / surface.voxel_mm[0] for slope in np.gradient(self.clipped)]
        self.to_voxel = np.linalg.inv(surface.affine)
        self.depth = depth  # of the points in the template's own mask

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances (n,) in mm beyond the points' own depth, gradients (n, 3), weights (n,)."""
        at = points @ self.to_voxel[:3, :3].T + self.to_voxel[:3, 3]
        is_seen = ((at >= 0) & (at <= np.array(self.clipped.shape) - 1)).all(1)
        distance = ndimage.map_coordinates(self.clipped, at.T, order=1) - self.depth
        slopes = np.stack([ndimage.map_coordinates(slope, at.T, order=1) for slope in self.slopes], axis=1)
        return distance, slopes, is_seen / (1 + (distance / UNUSUAL_MM) ** 2)

    def mean(self, points: np.ndarray) -> float:
        distance, _, weight = self(points)
        is_seen = weight > 0
        return float(np.minimum(abs(distance[is_seen]), 4 * UNUSUAL_MM).mean()) if is_seen.any() else np.inf


Step = Callable[..., np.ndarray]  # the next matrix, from the last, the centre, and what the points say


def _refine(
    distances: _Distances, points: np.ndarray, centre: np.ndarray, matrix: np.ndarray, step: Step
) -> np.ndarray:
    for _ in range(STEPS):
        matrix = step(matrix, centre, points - centre, *distances(_apply(matrix, points)))
    return matrix


def _similar_step(
    matrix: np.ndarray,
    centre: np.ndarray,
    arms: np.ndarray,
    distance: np.ndarray,
    slope: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Turn (radians), size (log) and shift (mm) that lower the distances."""
    turned = arms @ matrix[:3, :3].T
    jacobian = np.c_[slope, np.cross(turned, slope), (slope * turned).sum(1)]
    change = _solve(jacobian, distance, weight, np.zeros(7))
    turn = Rotation.from_rotvec(np.clip(change[3:6], -0.3, 0.3)).as_matrix()
    linear = turn @ matrix[:3, :3] * np.exp(np.clip(change[6], -0.2, 0.2))
    return about(linear, centre, _apply(matrix, centre) + change[:3])


def _affine_step(
    matrix: np.ndarray,
    centre: np.ndarray,
    arms: np.ndarray,
    distance: np.ndarray,
    slope: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    jacobian = np.c_[slope, (slope[:, :, None] * arms[:, None, :]).reshape(-1, 9)]
    change = _solve(jacobian, distance, weight, np.r_[np.zeros(3), np.full(9, STIFFNESS * weight.sum())])
    return about(matrix[:3, :3] + change[3:].reshape(3, 3), centre, _apply(matrix, centre) + change[:3])


def _solve(jacobian: np.ndarray, distance: np.ndarray, weight: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
    weighted = jacobian * weight[:, None]
    normal = weighted.T @ jacobian
    normal[np.diag_indices(len(normal))] = normal.diagonal() * 1.001 + stiffness + 1e-9
    return -np.linalg.solve(normal, weighted.T @ distance)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
