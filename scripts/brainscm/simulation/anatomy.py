"""Heads to simulate from: tissue maps and the flows that age them; the embedded one is nilearn's ICBM152 2009a.

All positions are RAS millimetres of the template's space (Fonov et al., NeuroImage 2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from brainscm.errors import BrainSCMError
from brainscm.images import Mask, Volume
from brainscm.landmarks import MEDIAL_TEMPORAL_MM, distance_to_hippocampus
from brainscm.simulation.deformation import Lattice, interleaved
from brainscm.simulation.exterior import HEAD_LATTICE, build_exterior

BRAIN_BOX_MM = ((-80.0, -114.0, -74.0), (80.0, 80.0, 92.0))
BRAIN_LATTICE = Lattice.spanning(*BRAIN_BOX_MM, spacing_mm=1.0)
FLOW_LATTICE = Lattice.spanning(*BRAIN_BOX_MM, spacing_mm=2.0)
# Where the embedded head's ventricles and temporal region lie, however wide they become.
DEEP_NODES = ((12, 17, 14), (70, 87, 64))
TISSUES = ("wm", "csf", "gm", "ventricles", "temporal")
APPEARANCE = ("shading", "periventricular")


@dataclass(frozen=True, eq=False)
class CanonicalHead:
    """Maps and flows of a head that simulated participants are deformations of. It is compared by identity.

    tissues: (channel, x, y, z) on BRAIN_LATTICE, named by TISSUES: four tissue probabilities (csf leaves the ventricles
        out), and the membership of the medial temporal region.
    appearance: (channel, x, y, z) on BRAIN_LATTICE, named by APPEARANCE: the template's own variation within tissues as
        a share of white matter's signal, and the white matter that ages first.
    exterior: (channel, x, y, z) on HEAD_LATTICE, named by HEAD_CHANNELS; the rest is air or cranial cavity.
    cavity: (x, y, z) on FLOW_LATTICE, the share of each node that lies within the skull.
    flows: name -> velocity (3, x, y, z) on FLOW_LATTICE, in mm, from a point of the changed head to the canonical one.
    deep_nodes: the first node of FLOW_LATTICE, and the one after the last, of the block that the ventricles and the
        temporal region lie in.
    """

    tissues: torch.Tensor
    appearance: torch.Tensor
    exterior: torch.Tensor
    cavity: torch.Tensor
    flows: dict[str, torch.Tensor]
    deep_nodes: tuple[tuple[int, ...], tuple[int, ...]] = DEEP_NODES


@lru_cache(maxsize=1)
def embedded_head() -> CanonicalHead:
    """Build the head that the simulator brings along, once per process (6 s)."""
    t1 = _template_map("t1")
    depth = _cavity_depth(t1 > 0)
    exterior = build_exterior(_cavity_depth_around(depth))
    gm, wm, csf = _sharpened(_template_map("gm"), _template_map("wm"), np.clip(refine(depth) + 0.5, 0, 1))
    ventricles = csf * _ventricular_system(csf)
    csf = csf - ventricles
    to_ventricles = distance(coarsen(ventricles) > 0.5)
    to_hippocampus = distance_to_hippocampus(FLOW_LATTICE.points().numpy())
    temporal = refine(np.clip((MEDIAL_TEMPORAL_MM - to_hippocampus) / 3 + 0.5, 0, 1))
    appearance = (_shading(t1, gm, wm, csf + ventricles), wm * refine(np.exp(-to_ventricles / 5)))
    return CanonicalHead(
        tissues=interleaved(map(torch.from_numpy, (wm, csf, gm, ventricles, temporal))),
        appearance=torch.from_numpy(np.stack(appearance)),
        exterior=torch.from_numpy(exterior),
        cavity=torch.from_numpy(np.clip(depth + 0.5, 0, 1)),
        flows=ageing_flows(coarsen(csf), coarsen(ventricles), _to_lateral(ventricles), depth, to_hippocampus),
    )


def _to_lateral(ventricles: Volume) -> Volume:
    """Distance in mm to the embedded head's lateral ventricles, on FLOW_LATTICE."""
    side = np.abs(FLOW_LATTICE.points().numpy()[..., 0])
    return distance((coarsen(ventricles) > 0.5) & (side > 4))


def coarsen(volume: Volume) -> Volume:
    """From BRAIN_LATTICE to FLOW_LATTICE."""
    smooth = torch.from_numpy(ndimage.gaussian_filter(volume, 0.8))
    return BRAIN_LATTICE.sample(smooth[None], FLOW_LATTICE.points())[0].numpy()


def refine(volume: Volume) -> Volume:
    """From FLOW_LATTICE to BRAIN_LATTICE."""
    return FLOW_LATTICE.sample(torch.from_numpy(volume)[None], BRAIN_LATTICE.points())[0].numpy()


def distance(mask: Mask) -> Volume:
    """Distance to a mask on FLOW_LATTICE in mm."""
    return (ndimage.distance_transform_edt(~mask) * FLOW_LATTICE.spacing_mm).astype(np.float32)


def _template_map(name: str) -> Volume:
    """One of nilearn's three ICBM152 maps, scaled to [0, 1], on BRAIN_LATTICE."""
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise BrainSCMError("The simulator needs the template in nilearn's wheel; install nilearn.")
    path = Path(package.origin).parent / "datasets" / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.Nifti1Image.from_filename(path)
    first = np.array(BRAIN_LATTICE.origin_mm) - image.affine[:3, 3]
    window = tuple(slice(int(max(a, 0)), int(a) + n) for a, n in zip(first, BRAIN_LATTICE.shape, strict=True))
    values = np.asarray(image.dataobj[window], dtype=np.float32) / 255
    missing = [(int(max(-a, 0)), 0) for a in first]
    return np.pad(values, missing, mode="edge")


def _cavity_depth(brain: Mask) -> Volume:
    """Depth in mm below the wall of the cranial cavity on FLOW_LATTICE, negative outside.

    The cavity is the brain mask closed by 9 mm, with 1.4 mm of subarachnoid fluid around it.
    """
    margin = 6
    padded = np.pad(coarsen(brain.astype(np.float32)) > 0.5, margin)
    closed = distance(distance(padded) > 9) > 9
    depth = (distance(~closed) - distance(closed))[(slice(margin, -margin),) * 3]
    return ndimage.gaussian_filter(depth, 0.7) + 1.4


def _cavity_depth_around(depth_mm: Volume) -> Volume:
    """The same depth on HEAD_LATTICE, continued beyond FLOW_LATTICE by distance."""
    points = HEAD_LATTICE.points()
    inner = FLOW_LATTICE.sample(torch.from_numpy(depth_mm)[None], points)[0].numpy()
    beyond = ndimage.distance_transform_edt(~FLOW_LATTICE.contains(points).numpy()) * HEAD_LATTICE.spacing_mm
    return np.minimum(inner, inner - beyond).astype(np.float32)


def _sharpened(gm: Volume, wm: Volume, cavity: Volume) -> tuple[Volume, Volume, Volume]:
    """Tissue probabilities with edges as in one participant: the average over many has blurred them.

    Its sulci are ridges of a small probability of fluid, which are raised first.
    """
    csf = np.clip(cavity - gm - wm, 0, 1)
    csf = np.clip(csf + 2.5 * np.clip(csf - ndimage.gaussian_filter(csf, 2.5), 0, 1), 0, 1)
    gm, wm, csf = gm * gm * gm, wm * wm * wm, 2.2 * csf * csf * csf
    share = cavity / np.maximum(gm + wm + csf, 1e-6)
    return gm * share, wm * share, csf * share


def _ventricular_system(csf: Volume) -> Mask:
    """Membership of the lateral and third ventricles; cisterns that touch them are kept out by position."""
    x, y, z = np.moveaxis(BRAIN_LATTICE.points().numpy(), -1, 0)
    side = np.abs(x)
    cisterns = (y < -24) & (side < 13) & (z < 15) | (y < -27) & (side < 4)
    bodies = (side < 40) & (y > -62) & (y < 38) & (z > -8) & (z < 36) & ~cisterns
    labels, _ = ndimage.label((csf > 0.4) & bodies)
    lateral = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    inferior_horns = (csf > 0.4) & (np.abs(side - 28) < 11) & (y > -18) & (y < -4) & (z > -25) & (z < -12)
    return ndimage.binary_dilation(lateral | inferior_horns, iterations=2) & ~cisterns


def _shading(t1: Volume, gm: Volume, wm: Volume, csf: Volume) -> Volume:
    """How the template's signal differs from one value per tissue (bright thalamus, dim visual cortex), smoothed."""
    tissue = gm + wm
    white = float(np.median(t1[wm > 0.95]))
    expected = gm * np.median(t1[gm > 0.95]) + wm * white
    residual = np.where(tissue > 0.6, t1 - expected - csf * 0.3, 0) / white
    weight = (tissue > 0.6).astype(np.float32)
    smoothed = ndimage.gaussian_filter(residual, 1.5) / np.maximum(ndimage.gaussian_filter(weight, 1.5), 0.2)
    return np.clip(smoothed, -0.15, 0.15) * tissue


def ageing_flows(
    csf: Volume, ventricles: Volume, to_lateral: Volume, depth_mm: Volume, to_hippocampus: Volume
) -> dict[str, torch.Tensor]:
    """The flows of ageing: each moves a point of the changed head towards where its tissue lies in the canonical one.

    ventricles: towards the lateral ventricles, which therefore widen, fading over 20 mm of tissue; the medial temporal
        lobe is left out.
    sulci: towards the nearest sulcal fluid, about 1 mm per unit at the surface of the cortex.
    temporal: away from the hippocampal axis, which therefore shrinks, with wider fissures around it.
    All vanish at the inner table of the skull, and all volumes lie on FLOW_LATTICE.

    to_lateral: distance in mm to the lateral ventricles. Where it is negative within them, they can also close.
    """
    inside = np.clip(depth_mm / 6, 0, 1)
    reach = np.exp(-np.maximum(to_lateral, 0) / 20) * (1 - 0.85 * np.exp(-0.5 * (to_hippocampus / 14) ** 2)) * inside
    widening = -2 * _direction(ndimage.gaussian_filter(to_lateral, 2.6), 1.5) * reach

    # Fluid continues beyond the skull, so that the outer surface of the brain, too, draws back from it.
    fluid = np.where(depth_mm < 0.5, 1, csf + 0.5 * ventricles)
    sulci = _direction(ndimage.gaussian_filter(fluid, 0.8), 0.02) * np.clip(depth_mm / 3, 0, 1)
    sulci = sulci * (1 - 0.7 * ndimage.gaussian_filter(csf, 2.0))

    away = _direction(ndimage.gaussian_filter(to_hippocampus, 1.0), 0.3)
    fissures = _direction(ndimage.gaussian_filter(csf + ventricles, 0.9), 0.04)
    shrinking = away * (to_hippocampus / 8 * np.exp(0.5 - 0.5 * (to_hippocampus / 8) ** 2))
    temporal = (shrinking + 0.8 * fissures * np.exp(-0.5 * (to_hippocampus / 16) ** 2)) * inside
    fields = {"ventricles": widening, "sulci": sulci, "temporal": temporal}
    smooth = {name: ndimage.gaussian_filter(field, (0, 0.6, 0.6, 0.6)) for name, field in fields.items()}
    return {name: torch.from_numpy(field.astype(np.float32)) for name, field in smooth.items()}


def _direction(potential: Volume, softening: float) -> Volume:
    """Unit vectors (3, x, y, z) up a potential's slope per mm, fading to zero where the slope is below `softening`."""
    gradient = np.stack(np.gradient(potential, FLOW_LATTICE.spacing_mm))
    return gradient / np.sqrt((gradient**2).sum(axis=0) + softening**2)
