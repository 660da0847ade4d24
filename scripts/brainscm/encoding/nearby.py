"""What shifts near one of a scan's latent make of the scan, from what that one has made of it: for draws of a model.

A shift that differs by little brings tissue to other places by little, and asks for other densities and another
appearance by little. So the counterfactual itself is moved on, and its borders by one round more; nothing is decoded
or inverted again. Where nothing differs it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as functional
from torch import Tensor

from brainscm.alignment.displacement import NODE_VOXELS, Spline, interpolate, upsample, voxels
from brainscm.encoding.density import densities, density_at_nodes, log_odds, move_borders_on
from brainscm.tissue_levels import TissueLevels

STEPS = 2  # of finding where tissue comes from


@dataclass(frozen=True)
class Nearby:
    """A counterfactual (x, y, z) of an aligned scan, to be moved on.

    Attributes:
        inside: (x, y, z), where the scan is not empty; elsewhere nothing is made.
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
        differs = at_nodes
        for _ in range(STEPS):
            differs = interpolate(at_nodes, self._lattice - differs[:3] / NODE_VOXELS)
        step = upsample(differs[:3], self.volume.shape)[:, self.inside]
        moved = torch.zeros_like(self.volume)
        moved[self.inside] = self._spline.at(self._places - step)
        volume = moved.clone()
        volume[self.inside] += interpolate(appearance, self._template_inside)[0, :, 0, 0]
        if not density.any():
            return volume
        change = upsample(densities(log_odds(self._density) + differs[3:]) - self._density, moved.shape)
        return move_borders_on(volume, moved, self.levels, change, self.voxel_mm)

    @cached_property
    def _nodes(self) -> Tensor:
        """The places of the scan's nodes in the template, (3, x/2, y/2, z/2), in nodes of its lattice."""
        return (functional.avg_pool3d(self.template, 2) - 0.5) / NODE_VOXELS

    @cached_property
    def _template_inside(self) -> Tensor:
        """The places in the template of the voxels inside, (3, n, 1, 1)."""
        return self.template[:, self.inside, None, None]

    @cached_property
    def _lattice(self) -> Tensor:
        return voxels(self._nodes.shape[1:], self.volume.device)

    @cached_property
    def _density(self) -> Tensor:
        return density_at_nodes(self.volume, self.levels, self.voxel_mm)

    @cached_property
    def _spline(self) -> Spline:
        return Spline.through(self.volume)

    @cached_property
    def _places(self) -> Tensor:
        """The voxels inside, (3, n)."""
        return voxels(self.volume.shape, self.volume.device)[:, self.inside]
