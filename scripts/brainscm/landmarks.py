"""Where the medial temporal lobe lies in MNI coordinates: one definition for simulated heads and preprocessing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Axis of the right hippocampus, front to back; the left one is its mirror image.
HIPPOCAMPUS_MM = ((22.0, -6.0, -22.0), (27.0, -16.0, -19.0), (30.0, -26.0, -13.0), (26.0, -36.0, -5.0))
MEDIAL_TEMPORAL_MM = 13.0  # from that axis: hippocampus, amygdala and the parahippocampal cortex


def distance_to_hippocampus(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Distance in mm of MNI `points` (..., 3) to the axis of the hippocampus on their side."""
    points = np.concatenate([np.abs(points[..., :1]), points[..., 1:]], axis=-1)
    return distance_to_path(points, np.array(HIPPOCAMPUS_MM, dtype=np.float32))


def distance_to_path(points: NDArray[np.floating], path: NDArray[np.floating]) -> NDArray[np.float32]:
    """Distance of `points` (..., 3) to a chain of straight lines through `path` (n, 3)."""
    nearest = np.full(points.shape[:-1], np.inf, dtype=np.float32)
    for start, end in pairwise(path):
        axis = end - start
        along = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(points - start - along[..., None] * axis, axis=-1))
    return nearest
