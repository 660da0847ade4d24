"""A head in the scanner: the image it stores, and the true labels and volumes behind it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from brainscm.simulation.anatomy import APPEARANCE, BRAIN_LATTICE, FLOW_LATTICE, TISSUES, CanonicalHead
from brainscm.simulation.causal_model import Nodes
from brainscm.simulation.deformation import among, interleaved
from brainscm.simulation.exterior import HEAD_CHANNELS, HEAD_LATTICE
from brainscm.simulation.participant import PARTICIPANT_LATTICE, Anatomy, ageing_displacement
from brainscm.simulation.scanner import SITE_SETTINGS, Acquisition, receive, voxel_positions

HEAD_CENTRE_MM = (0.0, -8.0, -14.0)
LABELS = {1: "csf", 2: "gm", 3: "wm", 4: "ventricles", 5: "medial_temporal_gm"}


@dataclass(frozen=True)
class Head:
    """A head on the scanner's grid: stored image, true labels (see LABELS), true volumes in native ml.

    In the volumes gm includes medial_temporal_gm, csf leaves the ventricles out, and brain is gm + wm.
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    volumes_ml: dict[str, float]


class HeadInScanner:
    """A participant in one session. `read` gives the scan for any value of their nodes, same noise and grid."""

    def __init__(self, anatomy: Anatomy, acquisition: Acquisition) -> None:
        self._anatomy = anatomy
        self._acquisition = acquisition
        points = voxel_positions(acquisition) / anatomy.scale + torch.tensor(HEAD_CENTRE_MM)
        points = points + PARTICIPANT_LATTICE.sample(anatomy.displacement, points).movedim(0, -1)
        self._brain, exterior = _as_voxels_see(anatomy.head, acquisition.voxel_mm)
        self._around_brain = (
            HEAD_LATTICE.sample(_near_exterior(anatomy.head, acquisition.voxel_mm), points, "nearest")[0] > 0
        )
        fractions = HEAD_LATTICE.sample(exterior, among(points, self._around_brain))
        self._exterior = dict(zip(HEAD_CHANNELS, fractions, strict=True))
        in_box = BRAIN_LATTICE.contains(points)
        self._in_brain = torch.zeros_like(in_box)
        self._in_brain[in_box] = FLOW_LATTICE.sample(_near_brain(anatomy.head), among(points, in_box))[0] > 0
        self._brain_points = among(points, self._in_brain)

    def read(self, nodes: Nodes) -> Head:
        """Scan the head that these nodes make. Raises BrainSCMError if no smooth change of this head has them."""
        points = self._brain_points
        points = points + FLOW_LATTICE.sample(ageing_displacement(self._anatomy, nodes), points).movedim(0, -1)
        labels, volumes = self._label(points)
        return Head(receive(self._signal(points, nodes), self._acquisition, nodes.site), labels, volumes)

    def _signal(self, points: torch.Tensor, nodes: Nodes) -> torch.Tensor:
        """Clean signal (x, y, z), white matter 1; `points` are the brain's voxels in the canonical head."""
        site = SITE_SETTINGS[nodes.site]
        grey = 1 - site.grey_contrast * nodes.grey_white_contrast
        seen = dict(zip((*TISSUES[:4], *APPEARANCE), BRAIN_LATTICE.sample(self._brain, points), strict=True))
        lesions = (seen["periventricular"] * nodes.white_matter_lesions).clamp(max=1)
        brain = seen["wm"] + grey * seen["gm"] + site.fluid * (seen["csf"] + seen["ventricles"])
        exterior = site.cord * self._exterior["cord"]
        for tissue in ("bone", "marrow", "fat", "muscle", "fluid"):
            exterior = exterior + getattr(site, tissue) * self._exterior[tissue]
        signal = torch.zeros(self._in_brain.shape)
        signal[self._around_brain] = exterior
        signal[self._in_brain] += brain + seen["shading"] - (1 - grey) * lesions
        return signal

    def _label(self, points: torch.Tensor) -> tuple[NDArray[np.uint8], dict[str, float]]:
        """Labels and volumes, by the tissue at each voxel's centre."""
        wm, csf, gm, ventricles, temporal = BRAIN_LATTICE.sample(self._anatomy.head.tissues, points)
        fractions = torch.stack([csf, gm, wm, ventricles])
        highest, label = csf, torch.ones(csf.shape, dtype=torch.uint8)
        for number, fraction in enumerate(fractions[1:], start=2):
            label[fraction > highest] = number
            highest = torch.maximum(highest, fraction)
        label = torch.where((label == 2) & (temporal > 0.5), 5, label)
        labels = torch.zeros(self._in_brain.shape, dtype=torch.uint8)
        labels[self._in_brain] = torch.where(fractions.sum(dim=0) > 0.5, label, 0)
        regions = {"gm": gm, "wm": wm, "csf": csf, "ventricles": ventricles, "medial_temporal_gm": gm * temporal}
        voxel_ml = float(abs(np.linalg.det(self._acquisition.affine))) / 1000
        volumes = {name: float(fraction.double().sum()) * voxel_ml for name, fraction in regions.items()}
        volumes["brain"] = volumes["gm"] + volumes["wm"]
        return labels.numpy(), volumes


@lru_cache(maxsize=1)
def _near_brain(head: CanonicalHead) -> torch.Tensor:
    """1 where there may be brain or its fluid, also in a large voxel's neighbourhood, else 0: (1, x, y, z)."""
    near = ndimage.binary_dilation(head.cavity.numpy() > 0, iterations=5)
    return torch.from_numpy(near.astype(np.float32))[None]


@lru_cache(maxsize=1)
def _near_exterior(head: CanonicalHead, voxel_mm: float) -> torch.Tensor:
    """1 where a node or one beside it has some exterior, else 0: (1, x, y, z) on HEAD_LATTICE.

    Around a node with 0, interpolation would give exactly 0.
    """
    _, exterior = _as_voxels_see(head, voxel_mm)
    near = ndimage.binary_dilation((exterior > 0).any(dim=0).numpy(), np.ones((3, 3, 3)))
    return torch.from_numpy(near.astype(np.float32))[None]


@lru_cache(maxsize=1)
def _as_voxels_see(head: CanonicalHead, voxel_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Canonical tissues and appearance, and the canonical exterior, smoothed so that sampling does not alias."""
    seen = []
    for maps, own_width_mm, lattice in (
        (interleaved([*head.tissues[:4], *head.appearance]), 0.35, BRAIN_LATTICE),
        (interleaved(head.exterior), 0.7, HEAD_LATTICE),
    ):
        sigma = np.sqrt(max((0.35 * voxel_mm) ** 2 - own_width_mm**2, 0)) / lattice.spacing_mm
        for channel in maps.numpy():
            ndimage.gaussian_filter(channel, sigma, output=channel)
        seen.append(maps)
    return seen[0], seen[1]
