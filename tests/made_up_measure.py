"""A measure of regions that any function of a volume, a mask and a head size can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from brainscm.images import Mask, Volume

Volumes = Callable[[Volume, Mask, float], dict[str, float]]


@dataclass(frozen=True)
class MadeUpMeasure:
    """Of one scan; nothing of its brightness is held."""

    volumes: Volumes
    mask: Mask
    head_size: float

    def volumes_ml(self, volume: Volume) -> dict[str, float]:
        return self.volumes(volume, self.mask, self.head_size)

    def at(self, mask: Mask, head_size: float) -> MadeUpMeasure:
        return replace(self, mask=mask, head_size=head_size)


def measured_by(volumes: Volumes) -> Callable[..., MadeUpMeasure]:
    """What the stages take as `MeasureRegions`."""
    return lambda factual, mask, head_size=1.0: MadeUpMeasure(volumes, mask, head_size)
