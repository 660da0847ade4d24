"""What quantises the VQ-VAE's latents: a codebook learnt by exponential moving averages, or a few fixed levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brainscm.ranks import ALONE, Ranks

ROWS_AT_ONCE = 1 << 16  # bounds the distance table: 128 MB with 512 codes
BOUND = 1.5  # standard deviations of a latent that tanh sees as 1


class Codebook(nn.Module):
    """Vector quantisation with an EMA codebook (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1).

    All of it is float32 whatever the network's precision, because averages over hundreds of steps drift in bfloat16.
    The codes mean nothing until `start` has run.
    """

    codes: Tensor  # (k, c)
    counts: Tensor  # (k,) moving average of the vectors each code is given a step
    sums: Tensor  # (k, c) moving average of their sum

    def __init__(self, size: int, width: int, decay: float) -> None:
        super().__init__()
        self.size, self.decay = size, decay
        self.register_buffer("codes", torch.zeros(size, width))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, width))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes of latents (n, c, x, y, z), in the same shape, and their indices (n, x, y, z)."""
        vectors = to_vectors(latents)
        indices = nearest(vectors, self.codes)
        n, c, *grid = latents.shape
        quantized = self.codes[indices].reshape(n, *grid, c).movedim(-1, 1)
        return quantized, indices.reshape(n, *grid)

    @torch.no_grad()
    def start(self, vectors: Tensor, generator: torch.Generator, iterations: int = 10) -> None:
        """Start the codes at the k-means centres of encoder output (rows, c), so that none begins far from the data.

        Seeded by k-means++ (Arthur and Vassilvitskii 2007): of random seeds, most would lie in the empty background.
        """
        size = self.size
        vectors = vectors.cpu()  # where the generator lives
        centres = vectors[torch.randint(len(vectors), (1,), generator=generator)]
        distances = (vectors - centres).square().sum(1)
        while len(centres) < size:
            farther = vectors[torch.multinomial(distances + 1e-12, 1, generator=generator)]
            centres = torch.cat([centres, farther])
            distances = torch.minimum(distances, (vectors - farther).square().sum(1))
        for _ in range(iterations):
            counts, sums = _totals(vectors, nearest(vectors, centres), size)
            centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
        self.codes.copy_(centres)
        self.counts.fill_(len(vectors) / size)
        self.sums.copy_(self.codes * self.counts[:, None])

    @torch.no_grad()
    def update(self, vectors: Tensor, indices: Tensor, generator: torch.Generator, ranks: Ranks = ALONE) -> int:
        """Move each code towards the mean of the vectors (rows, c) it was given; returns how many codes were revived.

        A code that is given less than a hundredth of its fair share is dead: it restarts at a vector of this batch, its
        averages with it, for with its old averages it would jump straight back. Each of `ranks` brings as many vectors;
        all end with the same codebook, that of a single process with all vectors.
        """
        counts, sums = _totals(vectors, indices, self.size)
        ranks.add_up([counts, sums])
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        rows = len(vectors) * ranks.count
        fair_share = rows / self.size
        dead = self.counts < 0.01 * fair_share
        revived = int(dead.sum())
        if revived:
            # The generator lives on the CPU whatever the device, so that the same seed draws the same rows everywhere.
            drawn = torch.randint(rows, (revived,), generator=generator).to(vectors.device)
            self.counts[dead] = 0.1 * fair_share
            self.sums[dead] = 0.1 * fair_share * _rows_of(vectors, drawn, ranks)
        self.codes.copy_(self.sums / self.counts[:, None])
        return revived


class FiniteScalars(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505): each channel snaps to one of a few levels.

    A channel is bounded by tanh and (-1, 1) cut into equal cells, whose middles are the levels. The paper decodes the
    bounded values; here the bound is undone, so that quantised latents lie among the continuous ones and one decoder
    serves both. Nothing is learnt after `start`: there are no averages to follow and no code can die.
    """

    centre: Tensor  # (c,) mean latent
    scale: Tensor  # (c,) what tanh sees as 1

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.size = channels * levels  # levels are counted channel by channel: their combinations are beyond counting
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, c, x, y, z) on their levels, in the same shape, and the levels' numbers (n, c, x, y, z)."""
        centre, scale = (part[:, None, None, None] for part in (self.centre, self.scale))
        bounded = torch.tanh((latents - centre) / scale)
        level = ((bounded + 1) / 2 * self.levels).long().clamp(0, self.levels - 1)
        quantized = centre + scale * torch.atanh((2 * level + 1) / self.levels - 1)
        first = self.levels * torch.arange(len(self.centre), device=latents.device)[:, None, None, None]
        return quantized, level + first

    @torch.no_grad()
    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Lay the levels by the mean and the standard deviation of encoder output (rows, c)."""
        self.centre.copy_(vectors.mean(0))
        self.scale.copy_(BOUND * vectors.std(0).clamp_min(1e-6))

    def update(self, vectors: Tensor, indices: Tensor, generator: torch.Generator, ranks: Ranks = ALONE) -> int:
        """The levels stay: no code is ever revived."""
        return 0


def to_vectors(latents: Tensor) -> Tensor:
    """Latents (n, c, x, y, z) as float32 vectors (n·x·y·z, c)."""
    return latents.float().movedim(1, -1).reshape(-1, latents.shape[1])


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code (k, c) of each vector: (rows, c) -> (rows,)."""
    squared = codes.square().sum(1)
    return torch.cat([(squared - 2 * rows @ codes.T).argmin(1) for rows in vectors.split(ROWS_AT_ONCE)])


def _totals(vectors: Tensor, indices: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How many vectors each code was given (k,), and their sums (k, c)."""
    counts = torch.bincount(indices, minlength=size).to(vectors.dtype)
    return counts, vectors.new_zeros(size, vectors.shape[1]).index_add_(0, indices, vectors)


def _rows_of(vectors: Tensor, rows: Tensor, ranks: Ranks) -> Tensor:
    """Rows of the vectors of all ranks, one rank's below the other's: each gives those it has, and zeros."""
    rows = rows - ranks.rank * len(vectors)
    own = (rows >= 0) & (rows < len(vectors))
    found = torch.where(own[:, None], vectors[rows.clamp(0, len(vectors) - 1)], 0)
    ranks.add_up([found])
    return found
