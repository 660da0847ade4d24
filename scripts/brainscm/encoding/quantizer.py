"""What quantises the VQ-VAE's latents: levels of each channel, or codebooks that each code what is left."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

from brainscm.ranks import ALONE, Ranks

ROWS_AT_ONCE = 1 << 16  # bounds the distance table: 64 MB with 256 codes
MOST_LEVELS = 1 << 15  # of a channel, so that its codes fit into 16 bits


class Quantizer(nn.Module):
    """Writes a latent vector as one code of each of several small codebooks.

    Indices (n, k, x, y, z) are int64, those of codebook j from 0 to `sizes[j]` - 1. All of it is float32 whatever the
    network's precision.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of codes in each codebook."""
        raise NotImplementedError

    def encode(self, latents: Tensor) -> Tensor:
        """The indices (n, k, x, y, z) of latents (n, c, x, y, z)."""
        raise NotImplementedError

    def decode(self, indices: Tensor) -> Tensor:
        """The latents that indices stand for."""
        raise NotImplementedError

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What latents become by their codes, in the same shape, and the indices."""
        indices = self.encode(latents)
        return self.decode(indices), indices

    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Fit the codes to encoder output (rows, c); before, they mean nothing."""
        raise NotImplementedError

    def update(self, vectors: Tensor, indices: Tensor, generator: torch.Generator, ranks: Ranks = ALONE) -> int:
        """Follow the encoder: vectors (rows, c) of a step were given indices (rows, k). How many codes were revived."""
        raise NotImplementedError

    def count(self, indices: Tensor) -> Tensor:
        """How often each code occurs in indices (n, k, x, y, z): (sum of `sizes`,) int64, codebook after codebook."""
        first = torch.tensor([0, *accumulate(self.sizes)][:-1], device=indices.device)
        return torch.bincount((to_rows(indices) + first).flatten(), minlength=sum(self.sizes))


class Levels(Quantizer):
    """Scalar quantisation: each channel snaps to a multiple of one step (Mentzer et al. 2023, arXiv 2309.15505).

    The linear code's channels are principal components, in units of image intensity. With the same step for all, a
    channel gets log2(sd / step) bits or so, and none where its standard deviation is below the step: what theory asks
    for (reverse water-filling; Cover and Thomas 2006, 10.3.3), provided that common levels take fewer bits on disk than
    rare ones. The paper bounds channels by tanh and gives all the same number of levels.

    The levels are laid so that empty space, most of a volume, is written without a loss. Nothing is learnt after
    `start`: there are no averages to follow and no code can die.
    """

    centre: Tensor  # (c,) the latent of empty space
    lowest: Tensor  # (c,) int64, the lowest level, in steps from the centre
    levels: Tensor  # (c,) int64

    def __init__(self, channels: int, step: float) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("lowest", torch.zeros(channels, dtype=torch.int64))
        self.register_buffer("levels", torch.ones(channels, dtype=torch.int64))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.levels.tolist())

    def encode(self, latents: Tensor) -> Tensor:
        centre, lowest, levels = (_of_channels(part) for part in (self.centre, self.lowest, self.levels))
        level = ((latents.float() - centre) / self.step).round().long() - lowest
        return torch.minimum(level.clamp_min(0), levels - 1)

    def decode(self, indices: Tensor) -> Tensor:
        return _of_channels(self.centre) + self.step * (indices + _of_channels(self.lowest))

    @torch.no_grad()
    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Lay as many levels as the vectors and empty space reach; what lies farther out takes the outermost."""
        steps = ((vectors.float() - self.centre) / self.step).clamp(-MOST_LEVELS / 2, MOST_LEVELS / 2 - 1).round()
        self.lowest.copy_(steps.amin(0).clamp_max(0))
        self.levels.copy_(steps.amax(0).clamp_min(0) - self.lowest + 1)

    def update(self, vectors: Tensor, indices: Tensor, generator: torch.Generator, ranks: Ranks = ALONE) -> int:
        return 0


class Residual(Quantizer):
    """Residual vector quantisation: each codebook codes what those before it leave, coarse to fine.

    Introduced by Juang and Gray (1982), trained as in Zeghidour et al. (2021, arXiv 2107.03312).
    """

    def __init__(self, codebooks: int, size: int, width: int, decay: float) -> None:
        super().__init__()
        self.codebooks = nn.ModuleList(Codebook(size, width, decay) for _ in range(codebooks))

    @property
    def stages(self) -> list[Codebook]:
        return list(self.codebooks)  # type: ignore[arg-type]  # a list of modules forgets of which class

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(stage.size for stage in self.stages)

    def encode(self, latents: Tensor) -> Tensor:
        left, indices = to_rows(latents.float()), []
        for stage in self.stages:
            indices.append(nearest(left, stage.codes))
            left = left - stage.codes[indices[-1]]
        n, _, *grid = latents.shape
        return torch.stack(indices, 1).reshape(n, *grid, -1).movedim(-1, 1)

    def decode(self, indices: Tensor) -> Tensor:
        """With the indices of only the first codebooks, what these make of the latents."""
        parts = [stage.codes[chosen] for stage, chosen in zip(self.stages, indices.unbind(1), strict=False)]
        return torch.stack(parts).sum(0).movedim(-1, 1)

    @torch.no_grad()
    def start(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Codebook after codebook, each by k-means on what is left."""
        for stage in self.stages:
            stage.start(vectors, generator)
            vectors = vectors - stage.codes[nearest(vectors, stage.codes)]

    @torch.no_grad()
    def update(self, vectors: Tensor, indices: Tensor, generator: torch.Generator, ranks: Ranks = ALONE) -> int:
        revived = 0
        for stage, chosen in zip(self.stages, indices.unbind(1), strict=True):
            left = vectors - stage.codes[chosen]  # by the codes that the indices were chosen from
            revived += stage.update(vectors, chosen, generator, ranks)
            vectors = left
        return revived


class Codebook(nn.Module):
    """Codes that follow moving averages of the vectors they are given (van den Oord et al. 2017, arXiv 1711.00937,
    appendix A.1).

    All of it is float32, because averages over hundreds of steps drift in bfloat16.
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


def to_rows(values: Tensor) -> Tensor:
    """One row a position: (n, c, x, y, z) to (n·x·y·z, c)."""
    return values.movedim(1, -1).reshape(-1, values.shape[1])


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code (k, c) of each vector: (rows, c) -> (rows,)."""
    squared = codes.square().sum(1)
    return torch.cat([(squared - 2 * rows @ codes.T).argmin(1) for rows in vectors.split(ROWS_AT_ONCE)])


def _of_channels(values: Tensor) -> Tensor:
    return values[:, None, None, None]


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
