"""What shifts near one of a scan's latent make of the scan, from what that one has made of it: for draws of a model.

A shift that differs by little brings tissue to other places by little, and asks for other densities and another
appearance by little. So the counterfactual itself is moved on, and its borders as they answer to a small change of
density. What that takes is found once for all draws: nothing is decoded or inverted again, and no spline fitted. Where
nothing differs it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as functional
from torch import Tensor

from brainscm.alignment.displacement import NODE_VOXELS, interpolate, upsample, voxels
from brainscm.alignment.splines import halfway
from brainscm.encoding.density import (
    SmallChange,
    densities,
    density_at_nodes,
    density_slopes,
    log_odds,
    smooth_at_nodes,
)
from brainscm.tissue_levels import TissueLevels


@dataclass(frozen=True)
class Nearby:
    """A counterfactual (x, y, z) of an aligned scan, to be moved on.

    Attributes:
        inside: (x, y, z), where the scan is not empty; elsewhere nothing changes.
        template: (3, x, y, z), where each voxel of the counterfactual lies in the template, in voxels.
        levels: of the scan's tissues.
    """

    volume: Tensor
    inside: Tensor
    template: Tensor
    levels: TissueLevels
    voxel_mm: float

    def under(self, displacement: Tensor, density: Tensor, appearance: Tensor) -> Tensor:
        """The counterfactual (x, y, z) under a shift that differs.

        What lay at q comes to p with q + Δu(y) = p, y being the place of q in the template.

        Args:
            displacement: Δu, (3, x/2, y/2, z/2), voxels, at the template's nodes.
            density: of the log odds, (2, x/2, y/2, z/2), there.
            appearance: (1, x, y, z), at the template's voxels.
        """
        at_nodes = interpolate(torch.cat([displacement, density]), self._nodes)
        # Where tissue comes from, to the first order.
        differs = interpolate(at_nodes, self._lattice - at_nodes[:3] / NODE_VOXELS)
        step = self._pick(upsample(differs[:3], self.volume.shape))
        looks = interpolate(appearance, self._template_inside)[0, :, 0, 0]
        change = interpolate(self._finer, 2 * (self._places - step)[..., None, None])[0, :, 0, 0] - self._bright + looks
        if density.any():
            # Of the density, appearance has done a part already.
            done = self._lay(self.volume.new_zeros(2, *self.volume.shape), self._density_slopes * looks)
            asked = densities(log_odds(self._density) + differs[3:]) - self._density
            lack = upsample(asked - smooth_at_nodes(done, self.voxel_mm), self.volume.shape)
            change += self._borders(self._pick(lack))
        return self._lay(self.volume[None], (self._bright + change)[None])[0]

    @cached_property
    def _inside(self) -> Tensor:
        """The places of the voxels inside in a flat volume, (n,)."""
        return self.inside.flatten().nonzero()[:, 0]

    def _pick(self, maps: Tensor) -> Tensor:
        """Maps (c, x, y, z) at the voxels inside, (c, n)."""
        return maps.flatten(1).index_select(1, self._inside)

    def _lay(self, maps: Tensor, values: Tensor) -> Tensor:
        """Maps (c, x, y, z), but with these values (c, n) at the voxels inside."""
        return maps.flatten(1).index_copy(1, self._inside, values).reshape(maps.shape)

    @cached_property
    def _nodes(self) -> Tensor:
        """The places of the scan's nodes in the template, (3, x/2, y/2, z/2), in nodes of its lattice."""
        return (functional.avg_pool3d(self.template, 2) - 0.5) / NODE_VOXELS

    @cached_property
    def _template_inside(self) -> Tensor:
        """The places in the template of the voxels inside, (3, n, 1, 1)."""
        return self._pick(self.template)[..., None, None]

    @cached_property
    def _lattice(self) -> Tensor:
        return voxels(self._nodes.shape[1:], self.volume.device)

    @cached_property
    def _places(self) -> Tensor:
        """The voxels inside, (3, n)."""
        return self._pick(voxels(self.volume.shape, self.volume.device))

    @cached_property
    def _bright(self) -> Tensor:
        """How bright they are, (n,)."""
        return self._pick(self.volume[None])[0]

    @cached_property
    def _finer(self) -> Tensor:
        """The volume at every half voxel, (1, 2x - 1, 2y - 1, 2z - 1): there linear interpolation loses little."""
        return halfway(self.volume)[None]

    @cached_property
    def _density(self) -> Tensor:
        return density_at_nodes(self.volume, self.levels, self.voxel_mm)

    @cached_property
    def _density_slopes(self) -> Tensor:
        return density_slopes(self._bright, self.levels)

    @cached_property
    def _borders(self) -> SmallChange:
        return SmallChange.of(self.volume, self.inside, self.levels, self.voxel_mm)
