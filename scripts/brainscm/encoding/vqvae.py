"""The 3D VQ-VAE: a linear code in closed form, a network that learns what it leaves, and a quantiser between."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, pad
from torch.utils.checkpoint import checkpoint

from brainscm.config import AutoencoderOptions
from brainscm.encoding.encoder import Batches, Codes, Network
from brainscm.encoding.layout import Layout
from brainscm.encoding.quantizer import Levels, Quantizer, Residual
from brainscm.errors import BrainSCMError
from brainscm.tissue_levels import TissueLevels

ENCODER_UNIT = 0.1  # of a latent's standard deviation: what the encoder's network moves latents by


class VQVAE(Network):
    """A 3D VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) for brains on one grid.

    Each entry of `channels` halves the grid once: two give latents at 1/4, three at 1/8 of the resolution. Four
    choices make it learn within minutes on a CPU:

    - Encoder and decoder each add a network to a fixed `LinearCode`, fitted on the training scans (`start`), so that
      training begins at a recognisable brain and spends itself on what is not linear.
    - The networks see and speak whitened latents, and the decoder's adds voxels in the unit of the linear code's own
      error. A step of the optimiser is then small beside what the start gets right; in plain units it undid the start.
    - Full resolution is never convolved: 2×2×2 cubes of voxels become channels first, and again voxels last.
    - No layer normalises: residual blocks start as the identity instead (Zhang et al. 2019, arXiv 1901.09321). Batch 1
      trains like batch 8, and a change of the latent in one place cannot shift the decoded brain in another.

    `encode` gives the continuous encoder output, which the SCM is fitted on, and `decode` takes it as it is; `quantize`
    between the two is the user's choice.
    """

    kind = "vqvae"

    def __init__(self, grid_shape: Sequence[int], options: AutoencoderOptions) -> None:
        super().__init__(grid_shape, options)
        channels, latent_channels = options.channels, options.latent_channels
        factor = 2 ** len(channels)
        if any(size % factor for size in grid_shape):
            raise BrainSCMError(
                f"autoencoder: {len(channels)} channels halve the grid {len(channels)} times, but "
                f"{'×'.join(map(str, grid_shape))} is not a multiple of {factor}; list fewer channels."
            )
        if latent_channels > factor**3:
            raise BrainSCMError(
                f"autoencoder: {latent_channels} latent_channels are more than the {factor**3} voxels that a latent "
                "stands for; ask for fewer."
            )
        x, y, z = self.grid_shape
        self.latent_shape = (latent_channels, x // factor, y // factor, z // factor)
        self.layout = Layout((latent_channels,))
        self.linear = LinearCode(factor, latent_channels)
        self.quantizer: Quantizer = (
            Levels(latent_channels, options.quantizer_step)
            if options.quantizer == "scalar"
            else Residual(options.codebooks, options.codebook_size, latent_channels, options.codebook_decay)
        )

        def residual(width: int) -> list[nn.Module]:
            return [ResidualBlock(width, options.recompute) for _ in range(options.residual_blocks)]

        analysis: list[nn.Module] = [SpaceToDepth(2), _conv(8, channels[0]), *residual(channels[0])]
        for fine, coarse in pairwise(channels):
            analysis += [nn.Conv3d(fine, coarse, 4, stride=2, padding=1), *residual(coarse)]
        self.analysis = nn.Sequential(*analysis, nn.SiLU(), _zero(_conv(channels[-1], latent_channels)))

        synthesis = [_conv(latent_channels, channels[-1]), *residual(channels[-1])]
        for coarse, fine in pairwise(reversed(channels)):
            synthesis += [nn.Conv3d(coarse, 8 * fine, 1), DepthToSpace(2), *residual(fine)]
        self.synthesis = nn.Sequential(*synthesis, nn.SiLU(), _zero(_conv(channels[0], 8)), DepthToSpace(2))
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in torch's stubs

    def start(self, batches: Batches) -> None:
        """Fit the linear code on batches of training volumes and brain masks, both (n, 1, x, y, z)."""
        self.linear.fit(batches)
        if isinstance(self.quantizer, Levels):
            self.quantizer.centre.copy_(self.linear.empty)

    def encoder(self, volumes: Tensor) -> Tensor:
        return self.linear.encode(volumes) + ENCODER_UNIT * self.linear.unwhiten(self.analysis(volumes))

    def decoder(self, latents: Tensor) -> Tensor:
        return self.linear.decode(latents) + self.linear.error * self.synthesis(self.linear.whiten(latents))

    @torch.no_grad()
    def encode(
        self, volumes: Tensor, displacements: Tensor | None = None, levels: Sequence[TissueLevels] = ()
    ) -> Tensor:
        """Continuous latents (n, c, x/f, y/f, z/f) of volumes (n, 1, x, y, z)."""
        return self.encoder(volumes).contiguous()

    @torch.no_grad()
    def quantize(self, latents: Tensor) -> Tensor:
        """Each latent vector replaced by what the quantiser makes of it, in the same shape."""
        return self.of_codes(self.to_codes(latents))

    @torch.no_grad()
    def to_codes(self, latents: Tensor) -> Codes:
        return {"appearance": self.quantizer.encode(latents)}

    @torch.no_grad()
    def of_codes(self, codes: Codes) -> Tensor:
        return self.quantizer.decode(codes["appearance"]).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Volumes (n, 1, x, y, z) of latents, which are taken as they are."""
        return self.decoder(latents).contiguous()


class LinearCode(nn.Module):
    """Encode cubes of f×f×f voxels by principal components, and decode them with their neighbours' help.

    The components are the best linear code of a cube by itself. Neighbouring cubes share edges and textures, so each
    cube's error is predicted from the 3×3×3 latents around it by ridge regression (a Wiener filter).
    """

    mean: Tensor  # (f³,)
    components: Tensor  # (c, f³), orthonormal rows
    sd: Tensor  # (c,) standard deviations of the latents
    neighbours: Tensor  # (f³, c, 3, 3, 3) from whitened latents to the error of a cube
    error: Tensor  # () root mean square of what the linear code leaves

    def __init__(self, factor: int, components: int) -> None:
        super().__init__()
        self.to_channels, self.to_voxels = SpaceToDepth(factor), DepthToSpace(factor)
        self.register_buffer("mean", torch.zeros(factor**3))
        self.register_buffer("components", torch.eye(components, factor**3))
        self.register_buffer("sd", torch.ones(components))
        self.register_buffer("neighbours", torch.zeros(factor**3, components, 3, 3, 3))
        self.register_buffer("error", torch.ones(()))

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Fit the components on the cubes that hold some brain, and the neighbours' help on all, so that the background
        stays dark."""
        self._fit_components(batches)
        self._fit_neighbours(batches)

    def _fit_components(self, batches: Batches) -> None:
        size = len(self.mean)
        count, total = 0, torch.zeros(size, dtype=torch.float64)
        products = torch.zeros(size, size, dtype=torch.float64)
        for volumes, masks in batches():
            in_brain = self._rows(masks.float()).amax(1) > 0
            cubes = self._rows(volumes)[in_brain].double().cpu()
            count += len(cubes)
            total += cubes.sum(0)
            products += cubes.T @ cubes
        mean = total / count
        values, vectors = torch.linalg.eigh(products / count - mean.outer(mean))  # ascending eigenvalues
        components = vectors.flip(1)[:, : len(self.components)].T
        # An eigenvector's sign is arbitrary; a positive largest element is the same on any machine.
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())
        self.sd.copy_(values.flip(0)[: len(self.components)].clamp_min(1e-6).sqrt())

    def _fit_neighbours(self, batches: Batches) -> None:
        size = self.neighbours[0].numel()
        count, squares = 0, 0.0
        products = torch.zeros(size, size, dtype=torch.float64)
        answers = torch.zeros(size, len(self.mean), dtype=torch.float64)
        for volumes, _ in batches():
            latents = self.encode(volumes)
            around = _neighbourhoods(self.whiten(latents)).cpu()
            errors = self._rows(volumes - self._decode_alone(latents)).cpu()
            count += len(errors)
            squares += float(errors.double().square().sum())
            products += (around.T @ around).double()
            answers += (around.T @ errors).double()
        ridge = 1e-3 * count * torch.eye(size, dtype=torch.float64)
        weights = torch.linalg.solve(products + ridge, answers)
        explained = float((weights * (2 * answers - products @ weights)).sum())
        self.neighbours.copy_(weights.T.reshape(self.neighbours.shape))
        self.error.fill_(max((squares - explained) / (count * len(self.mean)), 1e-6) ** 0.5)

    def encode(self, volumes: Tensor) -> Tensor:
        scores = torch.einsum("cv,nvxyz->ncxyz", self.components, self.to_channels(volumes))
        return scores + self.empty[:, None, None, None]

    @property
    def empty(self) -> Tensor:
        """The latent of a cube without a brain, (c,)."""
        return -self.components @ self.mean

    def decode(self, latents: Tensor) -> Tensor:
        help_from_neighbours = conv3d(self.whiten(latents), self.neighbours, padding=1)
        return self._decode_alone(latents) + self.to_voxels(help_from_neighbours)

    def whiten(self, latents: Tensor) -> Tensor:
        return latents / self.sd[:, None, None, None]

    def unwhiten(self, latents: Tensor) -> Tensor:
        return latents * self.sd[:, None, None, None]

    def _decode_alone(self, latents: Tensor) -> Tensor:
        cubes = torch.einsum("cv,ncxyz->nvxyz", self.components, latents) + self.mean[:, None, None, None]
        return self.to_voxels(cubes)

    def _rows(self, volumes: Tensor) -> Tensor:
        return self.to_channels(volumes).movedim(1, -1).reshape(-1, len(self.mean))


def _neighbourhoods(latents: Tensor) -> Tensor:
    """The 3×3×3 latents around each position, zero outside: (n, c, x, y, z) -> (n·x·y·z, c·27)."""
    around = pad(latents, (1,) * 6)
    for axis in (2, 3, 4):
        around = around.unfold(axis, 3, 1)
    return around.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(0, 3)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), the identity until training moves it.

    With `recompute` nothing inside is kept for the backward pass (Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(self, channels: int, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.branch = nn.Sequential(nn.SiLU(), _conv(channels, channels), nn.SiLU(), _zero(_conv(channels, channels)))

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return x + checkpoint(self.branch, x, use_reentrant=False)
        return x + self.branch(x)


class SpaceToDepth(nn.Module):
    """Turn each cube of f×f×f voxels into channels: (n, c, x, y, z) -> (n, c·f³, x/f, y/f, z/f)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, volumes: Tensor) -> Tensor:
        (n, c, x, y, z), f = volumes.shape, self.factor
        cubes = volumes.reshape(n, c, x // f, f, y // f, f, z // f, f).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return cubes.reshape(n, c * f**3, x // f, y // f, z // f).contiguous(memory_format=torch.channels_last_3d)


class DepthToSpace(nn.Module):
    """Undo `SpaceToDepth`: (n, c·f³, x, y, z) -> (n, c, x·f, y·f, z·f)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, cubes: Tensor) -> Tensor:
        (n, c, x, y, z), f = cubes.shape, self.factor
        voxels = cubes.reshape(n, c // f**3, f, f, f, x, y, z).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return voxels.reshape(n, c // f**3, x * f, y * f, z * f).contiguous(memory_format=torch.channels_last_3d)


def _conv(channels_in: int, channels_out: int) -> nn.Conv3d:
    conv = nn.Conv3d(channels_in, channels_out, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")  # keeps the variance, which no layer normalises
    return conv


def _zero(conv: nn.Conv3d) -> nn.Conv3d:
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


ENCODER = VQVAE
