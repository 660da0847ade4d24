"""A measure of regions that any function of a volume, a mask and a head size can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from brainscm.images import Mask, Volume
from brainscm.regions import Geometry

Volumes = Callable[[Volume, Mask, float], dict[str, float]]


@dataclass(frozen=True)
class MadeUpMeasure:
    """Of one scan; nothing of its brightness is held."""

    volumes: Volumes
    geometry: Geometry

    def volumes_ml(self, volume: Volume) -> dict[str, float]:
        return self.volumes(volume, self.geometry.mask, self.geometry.head_size)

    def at(self, geometry: Geometry) -> MadeUpMeasure:
        return replace(self, geometry=geometry)


def measured_by(volumes: Volumes) -> Callable[..., MadeUpMeasure]:
    """What the stages take as `MeasureRegions`."""
    return lambda factual, geometry: MadeUpMeasure(volumes, geometry)
