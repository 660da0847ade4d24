"""Heads to simulate from, made of whole-head label maps of real people: numbers as FreeSurfer's, 500 and above outside
the brain as in the maps that SynthSeg (Billot et al., Medical Image Analysis 2023) was trained on.

A map is brought to the template's axes by a similarity of its own, which lays the centres of its deep structures on
their places in MNI space: the head then stands upright in the simulator's lattices, and keeps its proportions. Its size
is drawn with the participant. Sulci, ventricles, hippocampi and all that surrounds the brain are the map's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from scipy import ndimage

from brainscm.errors import BrainSCMError, one_line
from brainscm.images import Mask, Volume
from brainscm.landmarks import HIPPOCAMPUS_MM, MEDIAL_TEMPORAL_MM, distance_to_path
from brainscm.simulation.anatomy import (
    BRAIN_BOX_MM,
    BRAIN_LATTICE,
    FLOW_LATTICE,
    CanonicalHead,
    ageing_flows,
    coarsen,
    distance,
    refine,
)
from brainscm.simulation.deformation import Lattice, interleaved
from brainscm.simulation.exterior import HEAD_CHANNELS, HEAD_LATTICE, SKIN_MM, noise

COARSEST_MM = 1.6  # sulci are lost in larger voxels

LATERAL_VENTRICLES = (4, 43, 5, 44, 31, 63, 136, 137, 163, 164)  # with the choroid plexus
HIPPOCAMPI = (17, 53)
EXTRACEREBRAL = 500
# What the numbers stand for. Lesions (25, 57, 77) lie in white matter, where the simulator makes its own; what is
# called a vessel within the brain (30, 62) is fluid around one.
NUMBERS: dict[str, tuple[int, ...]] = {
    "wm": (2, 41, 7, 46, 16, 28, 60, 85, 25, 57, 77, 78, 79, 251, 252, 253, 254, 255),
    "gm": (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58, 19, 20, 55, 56, 80, 81, 82),
    "csf": (24, 15, 30, 62),
    "ventricles": (*LATERAL_VENTRICLES, 14, 72),
    "vessel": (502, 514),
    "muscle": (508, 509, 530),
    "fluid": (506,),
    "cord": (512,),
    "bone": (515,),
    "marrow": (516,),
    "soft": (507, 511),
}
KNOWN = tuple(number for numbers in NUMBERS.values() for number in numbers)
ORBIT = (506, 508, 530)
MOST = 1000  # greatest number
FLUID_REACHES_MM = 25.0  # from the brain
FLUID_MM = 7.0  # room for it between brain and box

# Centres of deep structures in MNI space: numbers left and right, position of the right one in mm.
LANDMARKS_MM = {
    (10, 49): (12.0, -18.0, 7.0),
    (11, 50): (13.5, 10.0, 11.0),
    (12, 51): (25.0, 2.0, 1.5),
    (13, 52): (20.0, -3.0, -0.5),
    (17, 53): (26.0, -21.5, -13.0),
    (18, 54): (21.5, -4.5, -18.0),
    (7, 46): (18.0, -47.0, -36.0),
}
MISPLACED_MM = 12.0

# Signal of deep structures beside that of grey and white matter as one, as a share of white matter's (T1w, 1.5-3 T).
SHADES = {
    0.12: (10, 49),
    0.16: (13, 52),
    0.03: (12, 51),
    -0.05: (16, 28, 60),
    -0.02: (8, 47),
    0.20: (31, 63, 136, 137, 163, 164),
    0.30: NUMBERS["vessel"],
}
DURA_SHADE = 0.28
TEXTURE_SHADE = {"gm": 0.03, "wm": 0.015}


@dataclass(frozen=True)
class LabelMap:
    """numbers: (x, y, z). affine: (4, 4), voxel to RAS millimetres of the template's axes."""

    numbers: NDArray[np.int16]
    affine: NDArray[np.float64]

    def positions(self, mask: Mask) -> NDArray[np.float64]:
        """Where the voxels of a mask lie, in mm: (n, 3)."""
        return nib.affines.apply_affine(self.affine, np.argwhere(mask))


@dataclass(frozen=True)
class Divided:
    """A label map with its cranial cavity, read at eight places around each node of a lattice.

    codes: (8, x, y, z), the number where it lies in the cavity, its negative where it lies outside, 0 in air.
    """

    codes: NDArray[np.int16]

    @classmethod
    def on(cls, lattice: Lattice, codes: NDArray[np.int16], affine: NDArray[np.float64]) -> Divided:
        """Read `codes` (x, y, z) on a lattice; beyond the map lies air."""
        back = torch.from_numpy(np.linalg.inv(affine)).float()
        points = lattice.points() @ back[:3, :3].T + back[:3, 3]
        padded = torch.from_numpy(np.pad(codes, 1)).reshape(-1)
        shape = torch.tensor(codes.shape) + 2
        steps = torch.tensor([int(shape[1] * shape[2]), int(shape[2]), 1])
        quarter = lattice.spacing_mm / 4
        read = []
        for corner in itertools.product((-quarter, quarter), repeat=3):
            index = (points + (back[:3, :3] @ torch.tensor(corner) + 1)).round_().long()
            index = torch.minimum(index.clamp_(min=0), shape - 1)
            read.append(padded[(index * steps).sum(dim=-1)])
        return cls(torch.stack(read).numpy())

    def share(self, inside: Iterable[int] = (), outside: Iterable[int] = ()) -> Volume:
        """The share of each node's surroundings that has one of these numbers in the cavity, or outside it."""
        return self.mean({**dict.fromkeys(inside, 1.0), **{-number: 1.0 for number in outside}})

    def mean(self, values: Mapping[int, float]) -> Volume:
        """The mean around each node of what the codes stand for; 0 for those that are not named."""
        table = np.zeros(2 * MOST + 1, dtype=np.float32)
        for code, value in values.items():
            table[code + MOST] = value
        return sum(table[codes + MOST] for codes in self.codes) / len(self.codes)


@lru_cache(maxsize=1)
def head_of_label_map(path: Path) -> CanonicalHead:
    """Prepare the head of a label map (about 15 s); the last one is kept.

    Raises BrainSCMError, in one sentence, for a map that cannot be simulated from.
    """
    label_map = _read(path)
    codes = _divide(label_map)
    brain = Divided.on(BRAIN_LATTICE, codes, label_map.affine)

    def seen(values: Mapping[int, float]) -> Volume:
        # What a voxel holds of two tissues is as in an image of 1 mm, and the steps of the labels' edges are gone.
        return ndimage.gaussian_filter(brain.mean(values), 0.6)

    share = seen(dict.fromkeys(range(1, MOST + 1), 1.0))
    wm, gm, ventricles = (seen(dict.fromkeys(NUMBERS[name], 1.0)) for name in ("wm", "gm", "ventricles"))
    csf = np.clip(share - wm - gm - ventricles, 0, 1)
    lateral = coarsen(seen(dict.fromkeys(LATERAL_VENTRICLES, 1.0))) > 0.5
    within = share > 0.5
    depth = ndimage.distance_transform_edt(within) - ndimage.distance_transform_edt(~within)
    depth = ndimage.gaussian_filter(depth, 0.7).astype(np.float32)
    to_hippocampus = _distance_to_hippocampus(label_map)
    temporal = refine(np.clip((MEDIAL_TEMPORAL_MM - to_hippocampus) / 3 + 0.5, 0, 1))

    shading = seen({number: shade for shade, numbers in SHADES.items() for number in numbers})
    shading += DURA_SHADE * csf * np.clip(1.6 - np.abs(depth), 0, 1)
    shading += noise(share.shape, 3.0, seed=3) * (TEXTURE_SHADE["gm"] * gm + TEXTURE_SHADE["wm"] * wm)
    ageing_first = wm * refine(np.exp(-distance(coarsen(ventricles) > 0.5) / 5))
    # Negative within the ventricles: the flow then starts at their middle, so that wide ones can also close.
    to_lateral = distance(lateral) - distance(~lateral)
    flows = ageing_flows(coarsen(csf), coarsen(ventricles), to_lateral, coarsen(depth), to_hippocampus)
    return CanonicalHead(
        tissues=interleaved(map(torch.from_numpy, (wm, csf, gm, ventricles, temporal))),
        appearance=torch.from_numpy(np.stack([shading, ageing_first]).astype(np.float32)),
        exterior=torch.from_numpy(_exterior(Divided.on(HEAD_LATTICE, codes, label_map.affine))),
        cavity=torch.from_numpy(np.clip(coarsen(share), 0, 1)),
        flows=flows,
        deep_nodes=_deep_nodes(ventricles, temporal),
    )


def _read(path: Path) -> LabelMap:
    """A label map in the template's axes."""
    where = f"simulation.anatomies: {path.name}"
    try:
        image = nib.as_closest_canonical(nib.load(path))
        values = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise BrainSCMError(f"{where} cannot be read ({one_line(error)}); replace it.") from None
    if values.ndim != 3 or min(values.shape) < 2:
        raise BrainSCMError(f"{where} has the shape {values.shape}; give one volume of labels.")
    voxel_mm = nib.affines.voxel_sizes(image.affine)
    if voxel_mm.max() > COARSEST_MM:
        raise BrainSCMError(
            f"{where} has voxels of {voxel_mm.max():.1f} mm, in which sulci are lost; give labels of 1 mm."
        )
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise BrainSCMError(f"{where} holds fractions; a label map holds whole numbers, one for each structure.")
    if values.min() < 0 or values.max() > MOST:
        raise BrainSCMError(f"{where} has numbers from {values.min():g} to {values.max():g}; they lie in 0 to {MOST}.")
    numbers = values.astype(np.int16)
    # What is not known in the brain, such as a rare lesion, lies in white matter most likely.
    numbers[(numbers > 0) & (numbers < EXTRACEREBRAL) & ~np.isin(numbers, KNOWN)] = NUMBERS["wm"][0]
    present = set(np.unique(numbers).tolist())
    for what, wanted in (
        ("lateral ventricles", (4, 43)),
        ("hippocampi", HIPPOCAMPI),
        ("cortex", (3, 42)),
        ("white matter", (2, 41)),
        ("cerebrospinal fluid", (24,)),
        *((f"structures {left} and {right}", (left, right)) for left, right in LANDMARKS_MM),
    ):
        if not present.issuperset(wanted):
            raise BrainSCMError(
                f"{where} has no {what} (FreeSurfer's numbers {', '.join(map(str, wanted))}); leave it out or label it."
            )
    if max(present) < EXTRACEREBRAL:
        raise BrainSCMError(
            f"{where} has no labels outside the brain ({EXTRACEREBRAL} and above: skull, skin, muscle), of which the "
            "head is made; leave it out or label them."
        )
    return _within_box(LabelMap(numbers, _to_template(numbers, image.affine, where) @ image.affine))


def _to_template(numbers: NDArray[np.int16], affine: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """The similarity (4, 4) that lays the deep structures on their places (Umeyama, IEEE PAMI 1991)."""
    wanted = np.array([((-x, y, z), (x, y, z)) for x, y, z in LANDMARKS_MM.values()]).reshape(-1, 3)
    boxes = ndimage.find_objects(numbers)
    centres = [_centre(numbers, number, boxes[number - 1]) for pair in LANDMARKS_MM for number in pair]
    found = nib.affines.apply_affine(affine, np.array(centres))
    ours, theirs = found - found.mean(axis=0), wanted - wanted.mean(axis=0)
    left, spread, right = np.linalg.svd(theirs.T @ ours)
    turn = np.diag([1, 1, np.sign(np.linalg.det(left @ right))])
    rotation = left @ turn @ right
    scale = float(np.trace(np.diag(spread) @ turn) / (ours**2).sum())
    misplaced = float(np.sqrt(((theirs - scale * ours @ rotation.T) ** 2).sum(axis=1).mean()))
    if misplaced > MISPLACED_MM:
        raise BrainSCMError(
            f"{where}: its deep structures lie {misplaced:.0f} mm from where a head has them; left and right may be "
            "exchanged in its affine, or the numbers are not FreeSurfer's."
        )
    similarity = np.eye(4)
    similarity[:3, :3] = scale * rotation
    similarity[:3, 3] = wanted.mean(axis=0) - scale * rotation @ found.mean(axis=0)
    return similarity


def _within_box(label_map: LabelMap) -> LabelMap:
    """The same map, shifted and made smaller where the brain would leave the simulator's box; it may do so below."""
    brain = label_map.positions(np.isin(label_map.numbers, (*NUMBERS["wm"], *NUMBERS["gm"])))
    low, high = np.array(BRAIN_BOX_MM[0]) + FLUID_MM, np.array(BRAIN_BOX_MM[1]) - FLUID_MM
    brain = brain[brain[:, 2] > low[2]]
    room, extent = high - low, np.percentile(brain, (0.01, 99.99), axis=0)
    shrink = min(1.0, float((room / np.ptp(extent, axis=0)).min()))
    centre = extent.mean(axis=0)
    extent = centre + shrink * (extent - centre)
    shift = np.maximum(low - extent[0], 0) + np.minimum(high - extent[1], 0)
    fit = np.diag([shrink, shrink, shrink, 1.0])
    fit[:3, 3] = (1 - shrink) * centre + shift
    return LabelMap(label_map.numbers, fit @ label_map.affine)


def _centre(numbers: NDArray[np.int16], number: int, box: tuple[slice, ...]) -> NDArray[np.float64]:
    """Centre of a structure in voxels."""
    return np.argwhere(numbers[box] == number).mean(axis=0) + [part.start for part in box]


def _divide(label_map: LabelMap) -> NDArray[np.int16]:
    """The numbers where they lie in the cranial cavity, their negatives where they lie outside it, 0 in air.

    The cavity is the brain with the fluid and the vessels around it, down to the brain's lowest point, or to where
    the simulator's box ends; gaps in it count as fluid. What floats beside the head is air.
    """
    numbers = np.where(_largest(label_map.numbers > 0), label_map.numbers, 0)
    brain = _largest(np.isin(numbers, (*NUMBERS["wm"], *NUMBERS["gm"], *NUMBERS["ventricles"])))
    (box,) = ndimage.find_objects(brain.astype(np.uint8))
    window = tuple(slice(max(part.start - 30, 0), part.stop + 30) for part in box)
    numbers_there, brain_there = numbers[window], brain[window]
    height = _height(label_map.affine, window, brain_there.shape)
    near = ndimage.distance_transform_edt(~brain_there, nib.affines.voxel_sizes(label_map.affine)) < FLUID_REACHES_MM
    around = np.isin(numbers_there, (*NUMBERS["csf"], *NUMBERS["vessel"])) & near
    lowest = max(float(height[brain_there].min()), BRAIN_BOX_MM[0][2] + 3)
    around &= height > lowest
    brain_there = brain_there & (height > lowest)
    closed = ndimage.binary_closing(np.pad(brain_there | around, 3), iterations=2)[(slice(3, -3),) * 3]
    closed &= ~np.isin(numbers_there, (*NUMBERS["bone"], *NUMBERS["marrow"]))
    # Opened, so that the canals of nerves and vessels are cut off.
    cavity = np.zeros_like(brain)
    cavity[window] = ndimage.binary_fill_holes(_largest(ndimage.binary_opening(closed) | brain_there))
    intracranial = ("wm", "gm", "ventricles", "csf", "vessel")
    gaps = cavity & ~np.isin(numbers, [number for name in intracranial for number in NUMBERS[name]])
    return np.where(cavity, np.where(gaps, NUMBERS["csf"][0], numbers), -numbers).astype(np.int16)


def _height(affine: NDArray[np.float64], window: tuple[slice, ...], shape: tuple[int, ...]) -> Volume:
    """Upward position in mm of the voxels of a window of a label map."""
    axes = [
        affine[2, axis] * (part.start + np.arange(n)) for axis, (part, n) in enumerate(zip(window, shape, strict=True))
    ]
    return (affine[2, 3] + axes[0][:, None, None] + axes[1][:, None] + axes[2]).astype(np.float32)


def _largest(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1 if count > 1 else mask


def _distance_to_hippocampus(label_map: LabelMap) -> Volume:
    """Distance in mm to the axes of the map's own hippocampi, on FLOW_LATTICE."""
    points = FLOW_LATTICE.points().numpy()
    return np.minimum(*(distance_to_path(points, axis) for axis in _hippocampal_axes(label_map))).astype(np.float32)


def _hippocampal_axes(label_map: LabelMap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axes of the left and the right hippocampus, front to back, as the centres of four stretches: (4, 3) in mm.

    One that is only half as large as the other was labelled in part: the mirror image of the other stands for it.
    """
    positions = [label_map.positions(label_map.numbers == number) for number in HIPPOCAMPI]
    along = np.array(HIPPOCAMPUS_MM[-1]) - np.array(HIPPOCAMPUS_MM[0])
    axes = []
    for sign, found in zip((-1, 1), positions, strict=True):
        order = np.argsort(found @ (along * (sign, 1, 1)))
        bounds = (np.array([0, 0.2, 0.5, 0.8, 1]) * len(order)).astype(int)
        axes.append(np.array([found[order[a:b]].mean(axis=0) for a, b in itertools.pairwise(bounds)]))
    sizes = np.array([len(found) for found in positions])
    if sizes.min() < 0.5 * sizes.max():
        whole = int(sizes.argmax())
        axes[1 - whole] = axes[whole] * (-1, 1, 1)
    return axes[0], axes[1]


def _deep_nodes(ventricles: Volume, temporal: Volume) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The block of FLOW_LATTICE that holds both, with 16 mm around it for what becomes wider."""
    (block,) = ndimage.find_objects(((ventricles > 0.1) | (temporal > 0)).astype(np.uint8))
    start = tuple(max(part.start // 2 - 8, 0) for part in block)
    stop = tuple(min(part.stop // 2 + 9, nodes - 1) for part, nodes in zip(block, FLOW_LATTICE.shape, strict=True))
    return start, stop


def _exterior(head: Divided) -> Volume:
    """Tissue fractions (channel, x, y, z) on HEAD_LATTICE, named by HEAD_CHANNELS; the rest is air or cranial cavity.

    The maps tell no fat from muscle: under the skin and in the orbits is fat, deeper muscle with streaks of fat.
    """
    # Fluid and brain out of the cavity are the spinal canal's.
    shares = {name: head.share(outside=numbers) for name, numbers in NUMBERS.items()}
    shares["fluid"] += shares["csf"] + shares["ventricles"]
    shares["cord"] += shares["wm"] + shares["gm"]
    soft = shares["soft"] + head.share(outside=set(range(EXTRACEREBRAL, MOST + 1)).difference(KNOWN))
    tissue = ndimage.binary_fill_holes(head.mean(dict.fromkeys((*range(-MOST, 0), *range(1, MOST + 1)), 1.0)) > 0.5)
    spacing = HEAD_LATTICE.spacing_mm
    depth = ndimage.distance_transform_edt(tissue) * spacing
    to_orbit = ndimage.distance_transform_edt(head.share(outside=ORBIT) < 0.3) * spacing
    texture, fine_texture = noise(depth.shape, 3.0, seed=1), noise(depth.shape, 1.3, seed=2)
    fat = np.clip((depth - SKIN_MM) / 1.6, 0, 1) * np.clip((6 + 1.5 * texture - depth) / 2, 0, 1)
    fat = np.maximum(fat, 0.7 * np.clip((texture + 0.5 * fine_texture - 1.1) / 0.4 + 0.5, 0, 1))
    fat = np.maximum(fat, np.clip((12 - to_orbit) / 3, 0, 1))
    shares["fat"] = soft * fat + 0.6 * shares["vessel"]
    shares["muscle"] = (shares["muscle"] + soft * (1 - fat)) * (1 + 0.12 * texture + 0.10 * fine_texture)
    shares["muscle"] += 0.4 * shares["vessel"]
    return np.stack([np.clip(shares[name], 0, 1.4) for name in HEAD_CHANNELS]).astype(np.float32)
