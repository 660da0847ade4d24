"""Where an effect map is large: its connected parts beyond a threshold, each with the named regions that it lies in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainscm.config import AtlasOptions
from brainscm.images import Volume
from brainscm.preprocess.atlas import Atlas
from brainscm.regions import region_label
from brainscm.resampling import sample

if TYPE_CHECKING:
    from brainscm.preprocess.template import Template

NAMED = 2  # regions of a cluster
LEAST_SHARE = 0.15  # of a cluster's voxels that lie in a region that is named


@dataclass(frozen=True)
class Cluster:
    """A connected part (by faces) of one sign.

    Attributes:
        peak: the value furthest from 0. peak_mm: where it lies, RAS+. regions: (name, share of the voxels).
    """

    volume_ml: float
    peak: float
    peak_mm: tuple[float, float, float]
    regions: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class NamedRegions:
    """A label (x, y, z) for each voxel of the template's brain, and its words; 0 is outside of all."""

    labels: NDArray[np.int32]
    names: Mapping[int, str]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, template: Template, atlas: AtlasOptions | None) -> NamedRegions:
        """The regions of the study's atlas and, where it has none, the tissues and regions of the template, by side."""
        tissues = np.stack([template.gm, template.wm, template.csf]).argmax(0)
        kinds = ["gm", "wm", "csf", "ventricles", "medial_temporal_gm"]
        kind = np.where((tissues == 2) & (template.ventricles > 0), 3, tissues)
        kind = np.where((tissues == 0) & (template.medial_temporal > 0), 4, kind)
        affine = np.asarray(template.affine, np.float64)
        x_mm = affine[0, 3] + affine[0, 0] * np.arange(template.shape[0])
        is_right = np.broadcast_to((x_mm > 0)[:, None, None], template.shape)
        labels = np.where(template.brain_mask, 1 + 2 * kind + is_right, 0)
        names = {
            1 + 2 * place + side: f"{word} {region_label(name)}"
            for place, name in enumerate(kinds)
            for side, word in enumerate(("left", "right"))
        }
        if atlas is not None:
            found = Atlas.load(atlas, template)
            own = sample(found.labels, affine, template.shape, order=0).round().astype(int)
            labels = np.where(own > 0, own + len(names), labels)
            names |= {label + len(names): region_label(name) for label, name in found.names.items()}
        return cls(labels.astype(np.int32), names, affine)

    def clusters(self, effect: Volume, threshold: float) -> list[Cluster]:
        """The parts of a map (x, y, z) whose values are `threshold` or further from 0, the largest first."""
        voxel_ml = abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000
        found = []
        for sign in (1, -1):
            parts, count = ndimage.label((sign * effect >= threshold) & (self.labels > 0))
            for part, box in enumerate(ndimage.find_objects(parts, count), start=1):
                inside = parts[box] == part
                values = np.where(inside, sign * effect[box], -np.inf)
                peak = np.unravel_index(int(values.argmax()), values.shape)
                voxel = [start.start + place for start, place in zip(box, peak, strict=True)]
                x, y, z = self.affine[:3, :3] @ voxel + self.affine[:3, 3]
                volume_ml = float(inside.sum()) * voxel_ml
                regions = self._shares(self.labels[box][inside])
                found.append(Cluster(volume_ml, sign * float(values.max()), (float(x), float(y), float(z)), regions))
        return sorted(found, key=lambda cluster: -cluster.volume_ml)

    def _shares(self, labels: NDArray[np.int32]) -> list[tuple[str, float]]:
        counts = np.bincount(labels)
        largest = [label for label in np.argsort(-counts)[:NAMED] if counts[label] >= LEAST_SHARE * len(labels)]
        return [(self.names[int(label)], float(counts[label] / len(labels))) for label in largest]
