"""A scan and a counterfactual of it, as the evaluation holds them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brainscm.images import Mask, Volume
from brainscm.regions import COMPARED, RegionMeasure
from brainscm.tissue_levels import TissueLevels


@dataclass(frozen=True)
class Scan:
    """One usable scan: volume and mask (x, y, z), latent (c, x', y', z'), and the measure of its regions.

    `levels`: see `EncodedScans.levels`; they are held for whatever stands in the scan's place.
    """

    volume: Volume
    mask: Mask
    latent: NDArray[np.float32]
    measure: RegionMeasure
    levels: Sequence[TissueLevels] = ()

    def regions_ml(self, volume: Volume) -> dict[str, float]:
        """The compared regions' volumes (ml) in the scan's own volume, or in one that stands in its place."""
        found = self.measure.volumes_ml(volume)
        return {region: found[region] for region in COMPARED}


@dataclass(frozen=True)
class Counterfactual:
    """A counterfactual volume of one scan and its signed difference from what it starts from, (x, y, z).

    It starts from the scan; under direct and quantised decoding from what the decoder makes of the scan.
    """

    volume: Volume
    difference: Volume

    @property
    def start(self) -> Volume:
        return self.volume - self.difference

    def masked(self, mask: Mask) -> Counterfactual:
        return Counterfactual(self.volume * mask, self.difference * mask)
