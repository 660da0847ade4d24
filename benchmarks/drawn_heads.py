"""Heads of every look, drawn from label maps of whole heads, whose intracranial space is known.

A label map holds FreeSurfer's numbers in the brain (24 is CSF) and 500 and above outside it, as the training label maps
of SynthSeg do (Billot et al. 2023, doi 10.1016/j.media.2023.102789). A head is painted from it with a T1w contrast at
random and then looks as scanners, ages and habits make it look: see `Traits`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainscm.images import Image
from brainscm.resampling import halve, sample

WHITE, CORTEX, VENTRICLES = (2, 41), (3, 42), (4, 43)
CEREBELLUM = (8, 47)
CSF, BRAIN_STEM = 24, 16
OUTSIDE = 500
EYES, SOFT, NOSE, SKIN, CORD, SINUSES, BONE, MARROW, ARTERIES = 506, 507, 509, 511, 512, 514, 515, 516, 502


SHARE = 0.2  # of heads that have a trait


@dataclass(frozen=True)
class Traits:
    """What is unusual about a head; each is drawn with a probability of its own."""

    bright_scalp: bool  # fat 1.6 to 3 times as bright as white matter
    thick_skull: bool  # 4 mm thicker
    thin_skull: bool
    tilted: bool  # pitched by 15 to 40 degrees
    cut_at_chin: bool
    cut_at_crown: bool  # the top 5 to 15 mm of the brain are missing
    neck: bool  # 60 mm more of it
    strong_bias: bool
    thick_slices: bool  # 4 to 5 mm
    noisy: bool
    ghosted: bool
    wide_ventricles: bool
    shrunken_cortex: bool
    defaced: bool
    contrast_agent: bool  # vessels and mucosa twice as bright as white matter
    child: bool  # a head of 85 to 90 % of the length

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Traits:
        return cls(*(bool(rng.random() < SHARE) for _ in fields(cls)))

    @property
    def names(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name)]


@dataclass(frozen=True)
class DrawnHead:
    """A drawn head and its true intracranial mask (boolean) on the same grid."""

    image: Image
    mask: Image
    traits: Traits


def draw_head(labels_path: Path, seed: int) -> DrawnHead:
    """Paint and scan a head of a label map.

    The intracranial space is brain, ventricles, CSF and the vessels among them, down to the foramen magnum: the lower
    end of the label map's brain stem or cerebellum.
    """
    rng = np.random.default_rng(seed)
    traits = Traits.draw(rng)
    labels = _read_labels(labels_path)
    inside = _intracranial(labels)
    data = _reshape(labels.data, inside, traits, rng)
    painted = labels.with_data(_paint(data, inside, traits, rng))
    affine, shape, world = _field_of_view(labels, inside, traits, rng)
    voxel_mm = np.sqrt((affine[:3, :3] ** 2).sum(0))
    blurred = painted.with_data(ndimage.gaussian_filter(painted.data, 0.4 * np.maximum(voxel_mm, 1)))
    image = np.clip(sample(blurred, affine, shape, world, order=1), 0, None)
    mask = sample(labels.with_data(inside), affine, shape, world, order=1) > 0.5
    image = _spoil(image, traits, rng)
    return DrawnHead(Image((image * rng.uniform(100, 2000)).astype(np.float32), affine), Image(mask, affine), traits)


def _read_labels(path: Path) -> Image:
    """Upright, at 1 mm, cut to the head."""
    nifti = nib.as_closest_canonical(nib.load(path))
    data = np.round(np.asarray(nifti.dataobj)).astype(np.int16)
    box = ndimage.find_objects((data > 0).astype(np.uint8))[0]
    affine = nifti.affine.astype(float)
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    return Image(data[box], affine)


def _intracranial(labels: Image) -> np.ndarray:
    data = labels.data
    brain = (data > 0) & (data < OUTSIDE)
    solid = np.isin(data, (BRAIN_STEM, *CEREBELLUM))
    brain[:, :, : np.flatnonzero(solid.any((0, 1)))[0]] = False
    closed = halve(labels.with_data(brain.astype(np.float32)))
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(3, 1), 2)
    small = ndimage.binary_fill_holes(ndimage.binary_closing(closed.data > 0.5, ball))
    close = sample(closed.with_data(small), labels.affine, data.shape, order=0) > 0.5
    vessels = np.isin(data, (SINUSES, ARTERIES)) & close
    return ndimage.binary_fill_holes(brain | vessels | (close & (data < OUTSIDE) & (data > 0)))


def _within(region: np.ndarray, mm: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~region) <= mm


def _reshape(data: np.ndarray, inside: np.ndarray, traits: Traits, rng: np.random.Generator) -> np.ndarray:
    """Other ventricles, cortex and skull, as labels."""
    data = data.copy()
    if traits.wide_ventricles:
        near = _within(np.isin(data, VENTRICLES), rng.uniform(3, 9)) & np.isin(data, WHITE)
        data[near] = VENTRICLES[0]
    if traits.shrunken_cortex:
        data[_within(data == CSF, rng.uniform(1, 2)) & np.isin(data, CORTEX)] = CSF
    if traits.thick_skull:
        bone = np.isin(data, (BONE, MARROW))
        data[_within(bone, 4) & (data == SOFT) & _within(inside, 18)] = BONE
    if traits.thin_skull:
        data[np.isin(data, (BONE, MARROW)) & _within(data == SOFT, 3) & ~_within(inside, 2)] = SOFT
    return data


def _paint(data: np.ndarray, inside: np.ndarray, traits: Traits, rng: np.random.Generator) -> np.ndarray:
    """Intensities (white matter is about 1)."""
    grey, csf = rng.uniform(0.6, 0.85), rng.uniform(0.1, 0.35)
    fat = rng.uniform(1.6, 3) if traits.bright_scalp else rng.uniform(0.5, 1.6)
    level = np.full(int(data.max()) + 1, grey, np.float32)
    level[0] = 0
    level[[2, 41, 7, 46, 16, 28, 60, 85]] = 1
    level[[10, 49, 13, 52]] = (1 + grey) / 2
    level[[4, 43, 5, 44, 14, 15, CSF]] = csf
    level[OUTSIDE:] = rng.uniform(0.3, 0.7)
    for label, low, high in ((EYES, 0.1, 0.3), (SKIN, 0.5, 1), (BONE, 0.03, 0.25), (MARROW, 0.2, 1.3)):
        level[label] = rng.uniform(low, high)
    level[CORD] = 0.95
    level[[NOSE, SINUSES, ARTERIES]] = rng.uniform(1.6, 2.4) if traits.contrast_agent else rng.uniform(0.3, 0.9)
    image = level[data]
    muscle = rng.uniform(0.45, 0.8)
    depth = ndimage.distance_transform_edt((data != 0) & (data != SKIN))
    patches = ndimage.zoom(rng.normal(size=[n // 8 + 2 for n in data.shape]).astype(np.float32), 8, order=1)
    patches = patches[tuple(slice(n) for n in data.shape)]
    is_fat = (depth < rng.uniform(3, 9)) | (patches > 0.5)
    image = np.where(data == SOFT, np.where(is_fat, fat, muscle), image)
    texture = ndimage.gaussian_filter(rng.normal(size=data.shape).astype(np.float32), 1.5)
    image = image * (1 + 0.04 * texture / texture.std())
    if traits.defaced:
        front = np.argwhere(inside)[:, 1].max()
        low = np.argwhere(inside)[:, 2].min()
        y, z = np.ogrid[: data.shape[1], : data.shape[2]]
        face = (y - front) + 0.9 * (low + 35 - z) > 0
        image = np.where(face & ~_within(inside, 6), 0, image)
    return image.astype(np.float32)


def _field_of_view(
    labels: Image, inside: np.ndarray, traits: Traits, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int], np.ndarray]:
    """The scan's grid (affine, shape), and the map (4, 4) from its world to the label map's."""
    pitch = rng.uniform(15, 40) * rng.choice([-1, 1]) if traits.tilted else rng.normal(0, 6)
    turn = Rotation.from_euler("xyz", [pitch, rng.normal(0, 4), rng.normal(0, 4)], degrees=True).as_matrix()
    size = rng.uniform(0.85, 0.9) if traits.child else rng.uniform(0.95, 1.05)
    centre = labels.affine[:3, :3] @ np.argwhere(inside).mean(0) + labels.affine[:3, 3]
    world = np.eye(4)
    world[:3, :3] = turn / size
    goes_to = rng.normal(0, 15, 3)
    world[:3, 3] = centre - world[:3, :3] @ goes_to
    back = np.linalg.inv(world @ np.eye(4))
    corners = np.argwhere(inside)[::97] @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    brain = corners @ back[:3, :3].T + back[:3, 3]
    low, high = brain.min(0) - np.array([25, 30, 0]), brain.max(0) + np.array([25, 45, 30])
    low[2] -= rng.uniform(8, 20) if traits.cut_at_chin else rng.uniform(60, 90) + 60 * traits.neck
    if traits.cut_at_crown:
        high[2] -= 30 + rng.uniform(5, 15)
    voxel_mm = np.full(3, rng.uniform(1, 3))
    if traits.thick_slices:
        voxel_mm = np.full(3, rng.uniform(0.9, 1.5))
        voxel_mm[rng.integers(3)] = rng.uniform(4, 5)
    shape = tuple(int(n) for n in np.ceil((high - low) / voxel_mm))
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = low
    return affine, (shape[0], shape[1], shape[2]), world


def _spoil(image: np.ndarray, traits: Traits, rng: np.random.Generator) -> np.ndarray:
    """Bias field, ghosts along the second axis, and Rician noise."""
    along = [
        np.linspace(-1, 1, n, dtype=np.float32).reshape([-1 if k == a else 1 for k in range(3)])
        for a, n in enumerate(image.shape)
    ]
    strength = rng.uniform(0.4, 0.8) if traits.strong_bias else 0.15
    linear, square = rng.normal(0, strength / 2, 3), rng.normal(0, strength / 2, 3)
    image = image * np.exp(sum(a * x + b * x * x for a, b, x in zip(linear, square, along, strict=True)))
    if traits.ghosted:
        image = image + rng.uniform(0.08, 0.2) * np.roll(image, image.shape[1] // 2, axis=1)
    sd = rng.uniform(0.08, 0.15) if traits.noisy else rng.uniform(0.01, 0.04)
    real, imaginary = rng.normal(0, sd, (2, *image.shape))
    return np.hypot(image + real, imaginary)
