"""The way to ANTs and back: images, and transforms as ITK keeps them (LPS) against NIfTI's RAS+."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy.io import loadmat

from brainscm.images import LPS, Image

# Parts of ANTs that nothing here asks for. They load matplotlib, statsmodels and scikit-learn: three seconds of each
# scan's job, of which ANTs itself takes two tenths.
LEFT_OUT = ("ants.deeplearn", "ants.learn", "ants.math", "ants.plotting")


def load_ants() -> Any:
    """ANTs with its images, transforms, registration and bias correction, without `LEFT_OUT`."""
    if "ants" not in sys.modules:
        sys.modules.update({name: ModuleType(name) for name in LEFT_OUT})
    import ants

    return ants


def to_ants(image: Image) -> Any:
    """An ANTs image of an axis-aligned or rotated (not sheared) one."""
    spacing = image.voxel_mm
    return load_ants().from_numpy(
        np.ascontiguousarray(image.data, dtype=np.float32),
        origin=(LPS @ image.affine[:3, 3]).tolist(),
        spacing=spacing.tolist(),
        direction=LPS @ (image.affine[:3, :3] / spacing),
    )


def write_matrix(matrix: np.ndarray, path: Path) -> None:
    """Write a RAS+ world map as an ITK affine (LPS), readable by ANTs and by `nitransforms`."""
    ants = load_ants()
    transform = ants.create_ants_transform(
        transform_type="AffineTransform",
        precision="double",
        dimension=3,
        matrix=LPS @ matrix[:3, :3] @ LPS,
        translation=LPS @ matrix[:3, 3],
    )
    ants.write_transform(transform, str(path))


def read_matrix(path: Path) -> np.ndarray:
    """Read an ITK affine (LPS) as a RAS+ world map (4, 4).

    Without ANTs: ITK's file is a MATLAB one (version 4) of two vectors, the parameters under the transform's name and
    the centre of rotation.
    """
    vectors = {name: vector.ravel() for name, vector in loadmat(path).items() if not name.startswith("__")}
    centre = vectors.pop("fixed")
    (parameters,) = vectors.values()
    linear = parameters[:9].reshape(3, 3)
    shift = parameters[9:] + centre - linear @ centre
    matrix = np.eye(4)
    matrix[:3, :3] = LPS @ linear @ LPS
    matrix[:3, 3] = LPS @ shift
    return matrix
