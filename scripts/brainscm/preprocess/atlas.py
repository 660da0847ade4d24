"""A label atlas in the template's space: regional volumes of a scan by warping the labels onto it."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from brainscm.config import AtlasOptions
from brainscm.errors import ConfigError
from brainscm.images import Image
from brainscm.preprocess.template import Template
from brainscm.regions import atlas_regions
from brainscm.resampling import sample

MIN_INSIDE = 0.7  # share of the labelled voxels that must lie in the template's brain


@dataclass(frozen=True)
class Atlas:
    """Labels (x, y, z) with their world affine, and the name of each label."""

    labels: Image
    names: dict[int, str]

    @classmethod
    def load(cls, options: AtlasOptions, template: Template) -> Atlas:
        """Read an atlas and make sure that it lies on the template.

        Raises:
            ConfigError: the label map or its table cannot be used, or the labels lie beside the template's brain.
        """
        names = atlas_regions(options)
        try:
            image = nib.load(options.path)
            data = np.squeeze(np.asanyarray(image.dataobj))
        except Exception as error:
            raise ConfigError(
                f"preprocess.atlas.path: {options.path} cannot be read as NIfTI; check the path"
            ) from error
        if data.ndim != 3 or not np.isin(list(names), data).any():
            raise ConfigError(
                f"preprocess.atlas.path: {options.path} must be one 3D label map that holds labels of {options.labels}"
            )
        labels = Image(np.where(np.isin(data, list(names)), data, 0).astype(np.float32), image.affine)
        points = apply_affine(np.linalg.inv(template.affine) @ image.affine, np.argwhere(labels.data > 0)).round()
        within = ((points >= 0) & (points < template.shape)).all(1)
        inside = template.brain_mask[tuple(points[within].astype(int).T)].sum() / len(points)
        if inside < MIN_INSIDE:
            raise ConfigError(
                f"preprocess.atlas.path: only {inside:.0%} of the labels of {options.path} lie in the brain of"
                f" {template.name}; give an atlas in that template's space"
            )
        return cls(_upright(labels), names)

    def volumes_ml(self, warped: Image) -> dict[str, float]:
        """Volume (ml) of each region of a label map that was warped onto a scan; 0 where a region is absent."""
        counts = np.bincount(warped.data.round().astype(int).ravel(), minlength=max(self.names) + 1)
        return {name: float(counts[label] * warped.voxel_ml) for label, name in self.names.items()}


def _upright(labels: Image) -> Image:
    """The labels on an axis-aligned 1 mm grid, which ANTs takes whatever the file's own orientation."""
    world = apply_affine(labels.affine, np.argwhere(labels.data > 0))
    low, high = np.floor(world.min(0)) - 1, np.ceil(world.max(0)) + 2
    affine = np.eye(4)
    affine[:3, 3] = low
    shape = tuple(int(n) for n in high - low)
    return Image(sample(labels, affine, shape, order=0), affine)
