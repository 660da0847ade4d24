"""Grey matter, white matter and CSF on the template's grid, and the volumes of regions made of them.

A segmentation finds the brightness of each tissue in a scan. Those levels are then held for every image that stands in
the scan's place: fitted anew to each, they would slide along with what moved and hide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from brainscm.images import Displacement, Mask, Volume
from brainscm.preprocess.template import Template
from brainscm.regions import REGIONS, TISSUE_LABELS, Geometry, Region
from brainscm.tissue_levels import TissueLevels, rise

MRF_WEIGHT = 1.5
SURE = 0.9  # posterior of a voxel that is taken for pure
MIN_MIDDLE = 20  # voxels that a median is taken over
MIN_CONTRAST = 0.02  # between neighbouring levels, as a share of white matter's


@dataclass(frozen=True)
class Tissues:
    """Shares of the voxels, or posterior probabilities: (x, y, z), float32, 1 in sum inside the mask and 0 outside."""

    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray

    def labels(self, mask: Mask) -> npt.NDArray[np.uint8]:
        """The tissue with the largest share inside a mask, by its number in `TISSUE_LABELS`; 0 outside."""
        maps = np.stack([getattr(self, tissue) for tissue in TISSUE_LABELS])
        numbers = np.array(list(TISSUE_LABELS.values()), np.uint8)
        return np.where(mask, numbers[maps.argmax(axis=0)], 0).astype(np.uint8)


def segment_tissues(volume: np.ndarray, mask: np.ndarray, template: Template, iterations: int = 20) -> Tissues:
    """Three Gaussians fitted by expectation-maximisation, with the template's tissue priors and a Markov random field.

    The model of Atropos (Avants et al. 2011, doi 10.1007/s12021-011-9109-y) with a mean-field neighbourhood term, on
    NumPy arrays: about a second where Atropos takes ten.

    Args:
        volume: (x, y, z) template-space intensities, white-matter peak at 1.
        mask: (x, y, z) bool, the voxels to share out.
    """
    box = _box(mask)
    inside = np.flatnonzero(mask[box])
    priors = template.blurred_priors[:, *box].reshape(3, -1)[:, inside]
    values = volume[box].astype(np.float32).reshape(-1)[inside]
    posterior = priors * _likelihood(values, np.array([0.72, 1.0, 0.3]), np.array([0.1, 0.07, 0.15]))
    posterior /= posterior.sum(0) + 1e-12
    weight = _neighbourhood(mask[box].astype(np.float32)).reshape(-1)[inside]
    two = np.zeros((2, *mask[box].shape), dtype=np.float32)  # the third is what these leave
    flat = two.reshape(2, -1)
    for _ in range(iterations):
        total = posterior.sum(1) + 1e-6
        mean = posterior @ values / total
        sd = np.sqrt((posterior * (values - mean[:, None]) ** 2).sum(1) / total)
        flat[0, inside], flat[1, inside] = posterior[:2]
        neighbours = _neighbourhood(two).reshape(2, -1).take(inside, axis=1) / weight
        neighbours = np.concatenate([neighbours, 1 - neighbours.sum(0, keepdims=True)])
        posterior = priors * _likelihood(values, mean, np.maximum(sd, 0.03)) * np.exp(MRF_WEIGHT * neighbours)
        posterior /= posterior.sum(0) + 1e-12
    whole = np.zeros((3, *mask.shape), dtype=np.float32)
    whole[:, mask] = posterior
    return Tissues(gm=whole[0], wm=whole[1], csf=whole[2])


def find_levels(volume: Volume, tissues: Tissues, template: Template) -> TissueLevels:
    """How bright the tissues of a scan, (x, y, z) in template space, are, from its own segmentation.

    Grey and white matter: means of their class. CSF: in the middle of the ventricles, since that of thin sulci is
    mixed with their walls, and the more so the thinner they are; that would hide atrophy.
    """
    gm, wm, csf = (_mean(volume, weights) for weights in (tissues.gm, tissues.wm, tissues.csf))
    fluid = (tissues.csf > SURE) & template.ventricles
    middle = volume[ndimage.binary_erosion(fluid)]
    if len(middle) >= MIN_MIDDLE:
        csf = float(np.median(middle))
    elif len(volume[fluid]) >= MIN_MIDDLE:
        csf = float(np.percentile(volume[fluid], 25))
    # A scan that is no T1w has other levels; it is measured badly, but with numbers.
    gm = min(gm, (1 - MIN_CONTRAST) * wm)
    return TissueLevels(csf=min(csf, gm - MIN_CONTRAST * wm), gm=gm, wm=wm)


def regions_of(template: Template, to_template: Displacement | None = None) -> dict[str, Volume]:
    """How far each voxel of a scan lies in each region that the template draws, (x, y, z), 0 to 1, by `Region.within`.

    Args:
        to_template: see `Geometry`.
    """
    drawn = {each.within: getattr(template, each.within).astype(np.float32) for each in REGIONS if each.within}
    if to_template is None:
        return drawn
    # A node lies in the middle of 2 × 2 × 2 voxels.
    displacement = [ndimage.zoom(along, 2, order=1, mode="nearest", grid_mode=True) for along in to_template]
    places = np.indices(template.shape, np.float32) + displacement
    return {name: ndimage.map_coordinates(weights, places, order=1) for name, weights in drawn.items()}


def tissue_shares(volume: Volume, levels: TissueLevels, mask: Mask, ventricles: Volume) -> Tissues:
    """Share out the voxels inside a mask: the border of two tissues lies half way between their levels.

    The wall of a ventricle is of grey and of white matter, and is taken to be as bright as their mean.

    Across a border the share rises linearly with brightness within a narrow window (`rise`), so that the change of a
    volume is a boundary shift integral (Freeborough and Fox 1997, doi 10.1109/42.640753): it follows a border within a
    voxel.

    Args:
        ventricles: (x, y, z), of `regions_of`.
    """
    wall = levels.gm + ventricles * (levels.wm - levels.gm) / 2
    brain = (mask * rise(volume, levels.csf, wall)).astype(np.float32)
    wm = (mask * rise(volume, levels.gm, levels.wm)).astype(np.float32)
    return Tissues(gm=brain - wm, wm=wm, csf=mask - brain)


@dataclass(frozen=True)
class TissueMeasure:
    """Measures regions with the levels and the geometry of one scan (see `regions.RegionMeasure`)."""

    template: Template
    levels: TissueLevels
    geometry: Geometry

    def volumes_ml(self, volume: Volume) -> dict[str, float]:
        return tissue_volumes(self.shares(volume), self._regions, self.voxel_ml)

    def shares(self, volume: Volume) -> Tissues:
        """The tissues' shares of each voxel."""
        return tissue_shares(volume, self.levels, self.geometry.mask, self._regions["ventricles"])

    @property
    def voxel_ml(self) -> float:
        """What a voxel of the template's grid is in the scan's own space."""
        return self.template.voxel_ml / self.geometry.head_size

    def at(self, geometry: Geometry) -> TissueMeasure:
        return replace(self, geometry=geometry)

    @cached_property
    def _regions(self) -> dict[str, Volume]:
        return regions_of(self.template, self.geometry.to_template)


@dataclass(frozen=True)
class MeasureTissues:
    """Makes the measure of a scan by finding the levels of its tissues (see `regions.MeasureRegions`)."""

    template: Template

    def __call__(self, factual: Volume, geometry: Geometry) -> TissueMeasure:
        tissues = segment_tissues(factual, geometry.mask, self.template)
        return TissueMeasure(self.template, find_levels(factual, tissues, self.template), geometry)


def tissue_volumes(tissues: Tissues, regions: Mapping[str, Volume], voxel_ml: float) -> dict[str, float]:
    """Volumes of `REGIONS`, ml.

    Args:
        regions: of `regions_of`.
        voxel_ml: what a voxel of the template's grid is in the scan's own space.
    """

    def volume(region: Region) -> float:
        maps = [getattr(tissues, tissue) for tissue in region.tissues]
        if region.within:
            maps = [tissue * regions[region.within] for tissue in maps]
        return sum(float(tissue.sum(dtype=np.float64)) for tissue in maps) * voxel_ml

    return {region.name: volume(region) for region in REGIONS}


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float((values * weights).sum(dtype=np.float64) / (weights.sum(dtype=np.float64) + 1e-6))


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around a mask: most of a grid is air."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(found[0]) if found else (slice(0, 0),) * 3


def _neighbourhood(maps: np.ndarray) -> np.ndarray:
    """Sums over 3 × 3 × 3 voxels of maps (..., x, y, z), nothing beyond their border."""
    for axis in (-3, -2, -1):
        along = np.moveaxis(maps, axis, 0)
        total = along.copy(order="K")
        total[1:] += along[:-1]
        total[:-1] += along[1:]
        maps = np.moveaxis(total, 0, axis)
    return maps


def _likelihood(values: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    mean, sd = mean[:, None].astype(np.float32), sd[:, None].astype(np.float32)
    return np.exp(-0.5 * np.square((values - mean) / sd)) / sd + np.float32(1e-6)
