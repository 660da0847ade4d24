"""An encoder of aligned scans: the latent holds where anatomy lies, and its appearance there."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from brainscm.alignment.displacement import (
    NODE_VOXELS,
    align,
    interpolate,
    inverse,
    jacobian,
    resample,
    upsample,
    voxels,
)
from brainscm.alignment.registration import Alignment
from brainscm.encoding.encoder import Fitted
from brainscm.encoding.layout import Layout, Mirror

COARSE_MM = 48.0  # over which the coarse part of a displacement is averaged


class Aligned(nn.Module):
    """A scan's displacement to the template, and an autoencoder's latent of the scan brought there.

    The latent is (n, c, x', y', z') on the inner autoencoder's grid: the displacement in voxels, fine and coarse part
    apart, its nodes turned into channels, then the inner latent. Participants differ most in the coarse part, and age
    moves the fine one; apart, each is shrunk by its own noise.
    """

    is_aligned = True

    def __init__(self, inner: Fitted, alignment: Alignment) -> None:
        super().__init__()
        self.inner, self.alignment = inner, alignment
        self.kind = inner.kind
        self.options, self.grid_shape = inner.options, inner.grid_shape
        channels, *lattice = inner.latent_shape
        self._cubes = tuple(nodes // size for nodes, size in zip(alignment.shape, lattice, strict=True))
        self._packed = 3 * math.prod(self._cubes)  # channels of the fine part of a displacement, and of the coarse one
        self.latent_shape = (2 * self._packed + channels, lattice[0], lattice[1], lattice[2])

    @property
    def layout(self) -> Layout:
        return Layout((self._packed, self._packed, self.inner.latent_shape[0]), self._mirror)

    @property
    def _mirror(self) -> Mirror | None:
        """Of displacements, if the target is its own mirror image; the appearance has none in a latent."""
        if not self.alignment.target_is_symmetric:
            return None
        nodes = np.arange(self._packed).reshape(3, *self._cubes)
        sources = nodes[:, ::-1].reshape(-1)
        signs = np.where(nodes < nodes[1].min(), -1, 1).reshape(-1)  # to the right becomes to the left
        return Mirror([*sources.tolist(), *(sources + len(sources)).tolist()], [*signs.tolist(), *signs.tolist()])

    def encode(self, volumes: Tensor, displacements: Tensor | None = None) -> Tensor:
        """Latents (n, c, x', y', z') of volumes (n, 1, x, y, z), aligned first if no displacements are given."""
        if displacements is None:
            displacements = torch.stack([self.alignment.displacement(volume) for volume in volumes[:, 0]])
        return torch.stack([self._encode(*pair) for pair in zip(volumes[:, 0], displacements, strict=True)])

    def _encode(self, volume: Tensor, displacement: Tensor) -> Tensor:
        fine, coarse = split_scales(displacement, self.alignment.voxel_mm)
        appearance = self.inner.encode(align(volume, displacement)[None, None])[0]
        return torch.cat([self._pack(fine), self._pack(coarse), appearance])

    def quantize(self, latents: Tensor) -> Tensor:
        """The latents with the inner part quantised; a displacement has no codes."""
        where, appearance = self._apart(latents)
        return torch.cat([where, self.inner.quantize(appearance)], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Volumes (n, 1, x, y, z): the decoded appearance, put where the displacement says."""
        # The way back takes longest, and a latent shares it with what its appearance becomes when quantised.
        displacements, of = torch.unique(self._apart(latents)[0], dim=0, return_inverse=True)
        ways = [inverse(self._displacement(u)) for u in displacements]
        pairs = zip(self.appearance(latents)[:, 0], of.tolist(), strict=True)
        return torch.stack([resample(volume, ways[way]) for volume, way in pairs])[:, None]

    def appearance(self, latents: Tensor) -> Tensor:
        """How the scans look at the template's voxels, (n, 1, x, y, z)."""
        return self.inner.decode(self._apart(latents)[1])

    def apply_shift(self, volumes: Tensor, latents: Tensor, shift: Tensor, appearance: Tensor) -> Tensor:
        """The scans themselves under a shift of their latents: x'(p) = x(p - Δu(y)) + Δa(y) with y + (u + Δu)(y) = p.

        What lay at y + u(y) now lies at p; Δa is the change of the decoded appearance in template space. A scan
        whose shift is null is returned as it is. `appearance` is that of `latents`, which several shifts share.
        """
        where, where_shift = self._apart(latents)[0], self._apart(shift)[0]
        change = (self.appearance(latents + shift) - appearance)[:, 0]
        moved = volumes.clone()
        for at in shift.flatten(1).any(dim=1).nonzero()[:, 0].tolist():
            step = self._displacement(where_shift[at])
            template = inverse(self._displacement(where[at]) + step)
            origin = voxels(self.grid_shape, shift.device) - interpolate(step, template)
            moved[at, 0] = resample(volumes[at, 0], origin) + interpolate(change[at][None], template)[0]
        return moved

    def transport(self, shift: Tensor, latents: Tensor, mean: Tensor) -> Tensor:
        """What a shift of the mean participant's latent (c, x', y', z') is for those of `latents` (n, c, x', y', z').

        Δu ↦ Dφ (Dφ̄)⁻¹ Δu with φ(y) = y + u(y), the pushforward by φ ∘ φ̄⁻¹, which takes the mean participant's
        anatomy to this one's: where a ventricle is twice as wide, its wall moves twice as far. The appearance stays as
        it is.
        """
        transported = shift.clone()
        of_mean = jacobian(self._nodes(self._apart(mean[None])[0][0]), NODE_VOXELS)
        where, where_shift = self._apart(latents)[0], self._apart(shift)[0]
        for at in where_shift.flatten(1).any(dim=1).nonzero()[:, 0].tolist():
            step = self._nodes(where_shift[at])
            at_template = torch.linalg.solve(of_mean, step.movedim(0, -1))
            here = (jacobian(self._nodes(where[at]), NODE_VOXELS) @ at_template[..., None])[..., 0].movedim(-1, 0)
            transported[at, : self._packed] += self._pack(here - step)  # fine and coarse part count as their sum
        return transported

    def _apart(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The displacement, both parts of it, and the inner latent."""
        return latents[:, : 2 * self._packed], latents[:, 2 * self._packed :]

    def _displacement(self, packed: Tensor) -> Tensor:
        """On the full grid, (3, x, y, z), of both packed parts."""
        return upsample(self._nodes(packed), self.grid_shape)

    def _nodes(self, packed: Tensor) -> Tensor:
        """On the nodes of the alignment, every second voxel: (3, x/2, y/2, z/2)."""
        fine, coarse = packed.split(self._packed)
        return self._unpack(fine) + self._unpack(coarse)

    def _pack(self, field: Tensor) -> Tensor:
        """(3, x/2, y/2, z/2) to (channels, x', y', z'): cubes of nodes become channels."""
        (x, y, z), (i, j, k) = self.latent_shape[1:], self._cubes
        return field.reshape(3, x, i, y, j, z, k).permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, x, y, z)

    def _unpack(self, packed: Tensor) -> Tensor:
        (x, y, z), (i, j, k) = self.latent_shape[1:], self._cubes
        return packed.reshape(3, i, j, k, x, y, z).permute(0, 4, 1, 5, 2, 6, 3).reshape(3, x * i, y * j, z * k)


def split_scales(displacement: Tensor, voxel_mm: float) -> tuple[Tensor, Tensor]:
    """The fine and the coarse part of a displacement (3, x/2, y/2, z/2), which add up to it."""
    nodes = min(round(COARSE_MM / (2 * voxel_mm)), *displacement.shape[1:])
    means = functional.avg_pool3d(displacement[None], nodes, ceil_mode=True, count_include_pad=False)
    coarse = functional.interpolate(means, size=displacement.shape[1:], mode="trilinear", align_corners=False)[0]
    return displacement - coarse, coarse
