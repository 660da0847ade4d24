"""Heads whose boundaries were moved by a known distance, rendered with partial volume: the truth of a measured change.

Nothing here knows how a change is measured: labels are moved at 1 mm as signed distances, and seen in larger voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainscm.images import Image, Mask, Volume
from brainscm.preprocess.register import match_masks, register_brain
from brainscm.preprocess.template import Template
from brainscm.resampling import crop, gaussian_for_voxels, halve, sample

# FreeSurfer's numbers, left and right.
GREY = (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58)
VENTRICLES = (4, 43, 5, 44, 14, 15, 72)
SULCAL = 24
EXTRACEREBRAL = 500  # and above
AROUND_MM = 4.0  # CSF farther from the brain than this is not in the intracranial mask
BOUNDARIES = ("pial", "ventricular", "grey/white")


@dataclass(frozen=True)
class Tissue:
    """Shares of a voxel, (x, y, z), 1 mm; CSF includes the ventricles."""

    gm: Volume
    wm: Volume
    csf: Volume
    ventricles: Volume

    def volumes_ml(self) -> dict[str, float]:
        return {part.name: float(getattr(self, part.name).sum(dtype=np.float64)) / 1000 for part in fields(self)}


@dataclass(frozen=True)
class Anatomy:
    """A label map's boundaries as signed distances in mm, positive inside, (x, y, z) at 1 mm.

    Attributes:
        brain: of grey and white matter together. white: of white matter. skull: of the intracranial mask.
        sulcal: 1 where the nearest CSF is a sulcus's, 0 where it is a ventricle's.
        affine: voxel to world.
    """

    brain: Volume
    white: Volume
    skull: Volume
    sulcal: Volume
    affine: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Anatomy:
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(image.dataobj).astype(np.int16)
        fluid = np.isin(labels, (SULCAL, *VENTRICLES))
        whole = Image(labels, image.affine)
        cut = crop(whole, (labels > 0) & (labels < EXTRACEREBRAL) & ~fluid, 10)
        labels, fluid = cut.data, np.isin(cut.data, (SULCAL, *VENTRICLES))
        brain = (labels > 0) & (labels < EXTRACEREBRAL) & ~fluid
        near = ndimage.distance_transform_edt(~brain) <= AROUND_MM
        inside = ndimage.binary_fill_holes(brain | fluid & near)
        to_sulcus = ndimage.distance_transform_edt(labels != SULCAL)
        to_ventricle = ndimage.distance_transform_edt(~np.isin(labels, VENTRICLES))
        return cls(
            brain=_distance(brain),
            white=_distance(brain & ~np.isin(labels, GREY)),
            skull=_distance(inside),
            sulcal=ndimage.gaussian_filter((to_sulcus < to_ventricle).astype(np.float32), 1.0),
            affine=cut.affine,
        )

    def moved(self, boundary: str = "pial", by_mm: float = 0.0) -> Tissue:
        """The tissues after a boundary was moved: towards the brain, and the grey / white one towards the cortex."""
        brain, white = self.brain, self.white
        if boundary == "pial":
            brain = brain - by_mm * self.sulcal
        elif boundary == "ventricular":
            brain = brain - by_mm * (1 - self.sulcal)
        else:
            white = white + by_mm
        inside, solid = _share(self.skull), _share(brain)
        solid = np.minimum(solid, inside)
        wm = np.minimum(_share(white), solid)
        csf = inside - solid
        return Tissue(gm=solid - wm, wm=wm, csf=csf, ventricles=csf * (self.sulcal < 0.5))


def _distance(mask: Mask) -> Volume:
    """Signed distance (mm, 1 mm voxels), smoothed by half a voxel so that steps do not show."""
    signed = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    signed -= np.where(mask, 0.5, -0.5)
    return ndimage.gaussian_filter(signed.astype(np.float32), 0.5)


def _share(distance: Volume) -> Volume:
    """The share of a 1 mm voxel that lies inside."""
    return np.clip(0.5 + distance, 0, 1)


def place(anatomy: Anatomy, template: Template) -> np.ndarray:
    """(4, 4) map from template to anatomy: its brain, drawn as a T1w, registered by an affine at 4 mm."""
    inside = Image(anatomy.skull > 0, anatomy.affine)
    clean = Image(signal(anatomy.moved()) * inside.data, anatomy.affine)
    start = match_masks(template.mask_volume, inside)
    return register_brain(halve(template.brain_volume), halve(halve(clean)), start, "affine", seed=1)


def signal(tissue: Tissue) -> Volume:
    """A T1w without noise: white matter 1, grey 0.77, CSF 0.36 (the medians of IXI), skull 0.1."""
    rest = 1 - tissue.gm - tissue.wm - tissue.csf
    return 0.77 * tissue.gm + tissue.wm + 0.36 * tissue.csf + 0.1 * rest


def seen(clean: Volume, anatomy: Anatomy, template: Template, to_anatomy: np.ndarray) -> Volume:
    """A 1 mm volume in the template's voxels, with partial volume."""
    blurred = gaussian_for_voxels(Image(clean, anatomy.affine), template.voxel_mm)
    return sample(blurred, template.affine, template.shape, to_anatomy, order=1)
