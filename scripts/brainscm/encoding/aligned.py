"""An encoder of aligned scans: the latent holds where anatomy lies, how dense its tissues are, and its appearance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    log_jacobian,
    resample,
    upsample,
    voxels,
)
from brainscm.alignment.registration import Alignment
from brainscm.encoding.density import log_odds_of_density, move_borders
from brainscm.encoding.encoder import Codes, Factual, Fitted, Maps
from brainscm.encoding.layout import Layout, Mirror
from brainscm.encoding.nearby import Nearby
from brainscm.tissue_levels import TissueLevels

COARSE_MM = 48.0  # over which the coarse part of a field is averaged
# Of what is written as whole numbers: a displacement, and the log odds of a density.
STEP_VOXELS, STEP_LOG_ODDS = 0.2, 0.1


class Aligned(nn.Module):
    """A scan's displacement to the template, how dense its tissues are, and an autoencoder's latent of its appearance.

    The latent is (n, c, x', y', z') on the inner autoencoder's grid: the displacement in voxels, nodes turned into
    channels; of the scan brought to the template the log odds of the density of brain and of white matter, likewise;
    and the inner latent of that scan. So density tells what the displacement has not: where a sulcus is wider than
    the template's would be. Of displacement and of density the fine and the coarse part stand apart, so that each is
    shrunk by its own noise: what is certain of a lobe is not lost in the noise of a gyrus.
    """

    is_aligned = True

    def __init__(self, inner: Fitted, alignment: Alignment) -> None:
        super().__init__()
        self.inner, self.alignment = inner, alignment
        self.kind = inner.kind
        self.options, self.grid_shape = inner.options, inner.grid_shape
        channels, *lattice = inner.latent_shape
        self._cubes = tuple(nodes // size for nodes, size in zip(alignment.shape, lattice, strict=True))
        nodes = math.prod(self._cubes)
        # Channels of the fine and the coarse displacement, the fine and the coarse density, and the appearance.
        self._parts = (3 * nodes, 3 * nodes, 2 * nodes, 2 * nodes, channels)
        self.latent_shape = (sum(self._parts), lattice[0], lattice[1], lattice[2])

    @property
    def layout(self) -> Layout:
        return Layout(self._parts, self._mirror)

    @property
    def maps(self) -> Maps:
        return {"logJacobian": self.log_jacobian, "appearance": self.appearance}

    @property
    def _mirror(self) -> Mirror | None:
        """Of all but the appearance, which has none in a latent; None if the target is not its own mirror image."""
        if not self.alignment.target_is_symmetric:
            return None
        sources: list[int] = []
        signs: list[int] = []
        for channels in self._parts[:-1]:
            of_part = np.arange(channels).reshape(-1, *self._cubes)
            sign = np.ones_like(of_part)
            if len(of_part) == 3:  # of a displacement, to the right becomes to the left
                sign[0] = -1
            sources += (len(sources) + of_part[:, ::-1].reshape(-1)).tolist()
            signs += sign.reshape(-1).tolist()
        return Mirror(sources, signs)

    def encode(
        self, volumes: Tensor, displacements: Tensor | None = None, levels: Sequence[TissueLevels] = ()
    ) -> Tensor:
        """Latents (n, c, x', y', z') of volumes (n, 1, x, y, z), aligned first if no displacements are given."""
        if displacements is None:
            displacements = torch.stack([self.alignment.displacement(volume) for volume in volumes[:, 0]])
        given = zip(volumes[:, 0], displacements, levels, strict=True)
        return torch.stack([self._encode(*each) for each in given])

    def _encode(self, volume: Tensor, displacement: Tensor, levels: TissueLevels) -> Tensor:
        aligned = align(volume, displacement)
        density = log_odds_of_density(aligned, levels, self.alignment.voxel_mm)
        appearance = self.inner.encode(aligned[None, None])[0]
        return torch.cat([self._pack_scales(displacement), self._pack_scales(density), appearance])

    def quantize(self, latents: Tensor) -> Tensor:
        """The latents with the inner part quantised; displacement and density have no codes."""
        *rest, appearance = latents.split(self._parts, dim=1)
        return torch.cat([*rest, self.inner.quantize(appearance)], dim=1)

    def to_codes(self, latents: Tensor) -> Codes:
        """Of the displacement, (n, 3, x/2, y/2, z/2), the density, (n, 2, x/2, y/2, z/2), and the inner latent."""
        displacements = torch.stack([self._nodes(packed) for packed in self._where(latents)])
        return {
            "displacement": _without_sign((displacements / STEP_VOXELS).round().long()),
            "density": _without_sign((self._density(latents) / STEP_LOG_ODDS).round().long()),
            **self.inner.to_codes(latents[:, -self._parts[-1] :]),
        }

    def of_codes(self, codes: Codes) -> Tensor:
        packed = [self.inner.of_codes(codes)]
        for name, step in (("density", STEP_LOG_ODDS), ("displacement", STEP_VOXELS)):
            fields = step * _with_sign(codes[name]).float()
            packed.insert(0, torch.stack([self._pack_scales(field) for field in fields]))
        return torch.cat(packed, dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Volumes (n, 1, x, y, z): the decoded appearance, put where the displacement says.

        A density says nothing of which border lies where, and so is not decoded.
        """
        # The way back takes longest, and a latent shares it with what its appearance becomes when quantised.
        displacements, of = torch.unique(self._where(latents), dim=0, return_inverse=True)
        ways = [inverse(self._displacement(u)) for u in displacements]
        pairs = zip(self.appearance(latents)[:, 0], of.tolist(), strict=True)
        return torch.stack([resample(volume, ways[way]) for volume, way in pairs])[:, None]

    def appearance(self, latents: Tensor) -> Tensor:
        """How the scans look at the template's voxels, (n, 1, x, y, z)."""
        return self.inner.decode(latents[:, -self._parts[-1] :])

    def log_jacobian(self, latents: Tensor) -> Tensor:
        """How much larger a place is in the scan than in the template, as a logarithm; (n, 1, x, y, z)."""
        displacements = [self._displacement(packed) for packed in self._where(latents)]
        return torch.stack([log_jacobian(u) for u in displacements])[:, None]

    def apply_shift(self, factual: Factual, shift: Tensor) -> Tensor:
        """The scans themselves under a shift of their latents: x'(p) = x(p - Δu(y)) + Δa(y) with y + (u + Δu)(y) = p.

        What lay at y + u(y) now lies at p; Δa is the change of the decoded appearance in template space. Then the
        borders of tissues are moved until the densities of what was displaced have changed as the shift says, by what
        appearance has not done of it yet. A scan whose shift is null is returned as it is.
        """
        scans, density, ways = factual.volumes, self._density(shift), self._ways(factual, shift)
        change = (self.appearance(factual.latents + shift) - factual.appearance)[:, 0]
        moved = scans.clone()
        for at, way in ways.items():
            displaced = factual.splines[at].at(voxels(self.grid_shape, shift.device) + way.motion)
            fields = [change[at][None]]
            if density[at].any():
                fields.append(upsample(density[at], self.grid_shape))
            found = interpolate(torch.cat(fields), way.template)
            volume = displaced + found[0]
            if len(fields) > 1:
                asked = functional.avg_pool3d(found[1:], 2)
                start = torch.where(scans[at, 0] != 0, displaced, 0)
                volume = move_borders(volume, start, factual.levels[at], asked, self.alignment.voxel_mm)
            moved[at, 0] = volume
        return moved

    def nearby(self, factual: Factual, shift: Tensor, volume: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What shifts near one make of a scan, from what that one has made of it: see `brainscm.encoding.nearby`."""
        ways, inside = self._ways(factual, shift), factual.volumes[0, 0] != 0
        template = ways[0].template if ways else inverse(self._displacement(self._where(factual.latents)[0]))
        made = Nearby(volume[0, 0], inside, template, factual.levels[0], self.alignment.voxel_mm)

        def under(differs: Tensor, appearance: Tensor) -> Tensor:
            return made.under(self._nodes(self._where(differs)[0]), self._density(differs)[0], appearance)[None, None]

        return under

    def motion(self, factual: Factual, shift: Tensor) -> Tensor:
        """By displacement, as `apply_shift` moves a scan before it moves borders, (n, 3, x, y, z)."""
        moved = shift.new_zeros((len(shift), 3, *self.grid_shape))
        for at, way in self._ways(factual, shift).items():
            moved[at] = way.motion
        return moved

    def _ways(self, factual: Factual, shift: Tensor) -> dict[int, _Way]:
        """Of those scans that a shift changes, by their places in `factual`; once for all that follows from a shift."""

        def find() -> dict[int, _Way]:
            where, where_shift, ways = self._where(factual.latents), self._where(shift), {}
            for at in shift.flatten(1).any(dim=1).nonzero()[:, 0].tolist():
                step = self._displacement(where_shift[at])
                template = inverse(self._displacement(where[at]) + step)
                ways[at] = _Way(template, -interpolate(step, template))
            return ways

        return factual.of_shift(shift, find)

    def transport(self, shift: Tensor, latents: Tensor, mean: Tensor) -> Tensor:
        """What a shift of the mean participant's latent (c, x', y', z') is for those of `latents` (n, c, x', y', z').

        Δu ↦ Dφ (Dφ̄)⁻¹ Δu with φ(y) = y + u(y), the pushforward by φ ∘ φ̄⁻¹, which takes the mean participant's
        anatomy to this one's: where a ventricle is twice as wide, its wall moves twice as far. Density, whose log odds
        tell how much of a border there is, and appearance stay as they are.
        """
        transported = shift.clone()
        of_mean = jacobian(self._nodes(self._where(mean[None])[0]), NODE_VOXELS)
        where, where_shift = self._where(latents), self._where(shift)
        for at in where_shift.flatten(1).any(dim=1).nonzero()[:, 0].tolist():
            step = self._nodes(where_shift[at])
            at_template = _solve(of_mean, step.movedim(0, -1))
            here = (jacobian(self._nodes(where[at]), NODE_VOXELS) * at_template[..., None, :]).sum(-1).movedim(-1, 0)
            transported[at, : self._parts[0]] += self._pack(here - step)  # fine and coarse part count as their sum
        return transported

    def _where(self, latents: Tensor) -> Tensor:
        """The displacement, both parts of it, packed."""
        return latents[:, : sum(self._parts[:2])]

    def _density(self, latents: Tensor) -> Tensor:
        """The log odds of the density, of both parts, (n, 2, x/2, y/2, z/2)."""
        fine, coarse = latents.split(self._parts, dim=1)[2:4]
        return torch.stack([self._unpack(each) for each in fine + coarse])

    def _displacement(self, packed: Tensor) -> Tensor:
        """On the full grid, (3, x, y, z), of both packed parts."""
        return upsample(self._nodes(packed), self.grid_shape)

    def _nodes(self, packed: Tensor) -> Tensor:
        """On the nodes of the alignment, every second voxel: (3, x/2, y/2, z/2)."""
        fine, coarse = packed.split(self._parts[0])
        return self._unpack(fine + coarse)

    def _pack_scales(self, field: Tensor) -> Tensor:
        """The fine and the coarse part of a field (d, x/2, y/2, z/2), packed."""
        return torch.cat([self._pack(part) for part in split_scales(field, self.alignment.voxel_mm)])

    def _pack(self, field: Tensor) -> Tensor:
        """(d, x/2, y/2, z/2) to (channels, x', y', z'): cubes of nodes become channels."""
        (x, y, z), (i, j, k) = self.latent_shape[1:], self._cubes
        return field.reshape(-1, x, i, y, j, z, k).permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, x, y, z)

    def _unpack(self, packed: Tensor) -> Tensor:
        (x, y, z), (i, j, k) = self.latent_shape[1:], self._cubes
        return packed.reshape(-1, i, j, k, x, y, z).permute(0, 4, 1, 5, 2, 6, 3).reshape(-1, x * i, y * j, z * k)


@dataclass(frozen=True)
class _Way:
    """Of each voxel p of a displaced scan, the place y in the template, and where it comes from minus p."""

    template: Tensor  # (3, x, y, z)
    motion: Tensor  # (3, x, y, z)


def _solve(matrices: Tensor, vectors: Tensor) -> Tensor:
    """x with M x = v, of matrices (…, 3, 3) and vectors (…, 3), by Cramer's rule: many small systems at once."""
    a, b, c = matrices.unbind(-1)
    adjugate = torch.stack([torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))], dim=-2)
    determinant = (a * adjugate[..., 0, :]).sum(-1, keepdim=True)
    return (adjugate * vectors[..., None, :]).sum(-1) / determinant


def split_scales(field: Tensor, voxel_mm: float) -> tuple[Tensor, Tensor]:
    """The fine and the coarse part of a field (d, x/2, y/2, z/2), which add up to it."""
    nodes = min(round(COARSE_MM / (2 * voxel_mm)), *field.shape[1:])
    means = functional.avg_pool3d(field[None], nodes, ceil_mode=True, count_include_pad=False)
    coarse = functional.interpolate(means, size=field.shape[1:], mode="trilinear", align_corners=False)[0]
    return field - coarse, coarse


def _without_sign(numbers: Tensor) -> Tensor:
    """0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …: what is near 0 stays small."""
    return torch.where(numbers < 0, -2 * numbers - 1, 2 * numbers)


def _with_sign(numbers: Tensor) -> Tensor:
    """The numbers of which `_without_sign` has made these."""
    return torch.where(numbers % 2 == 1, -(numbers + 1) // 2, numbers // 2)
