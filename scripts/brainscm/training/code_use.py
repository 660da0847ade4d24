"""How many of its codes a quantiser uses, and what writing them takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

COLUMNS = ("split", "codebook", "codes", "dead", "perplexity", "bits")


@dataclass(frozen=True)
class CodeUse:
    """How often each code occurs in some scans.

    Attributes:
        counts: of each codebook's codes, (its size,).
        voxels: of a volume, that a latent vector stands for.
    """

    counts: Sequence[Tensor]
    voxels: int

    @classmethod
    def of(cls, counts: Tensor, sizes: Sequence[int], voxels: int) -> CodeUse:
        """From the counts of all codebooks one after the other, as `Quantizer.count` gives them."""
        return cls(counts.double().cpu().split(list(sizes)), voxels)

    @property
    def usage(self) -> float:
        """The share of all codes that occur."""
        return sum(int((count > 0).sum()) for count in self.counts) / sum(len(count) for count in self.counts)

    @property
    def bits(self) -> list[float]:
        """Of each codebook: the entropy of its codes, what one takes on average where common codes are shorter."""
        return [float(torch.special.entr(count / count.sum()).sum()) / math.log(2) for count in self.counts]

    @property
    def bits_per_voxel(self) -> float:
        return sum(self.bits) / self.voxels

    @property
    def perplexity(self) -> float:
        """How many codes a codebook has in effect: 2 to the power of its bits, averaged over the codebooks."""
        return sum(2**bits for bits in self.bits) / len(self.counts)


def codes_table(uses: Mapping[str, CodeUse]) -> pd.DataFrame:
    """codes.tsv: one row a split and codebook, numbered from 1; `dead` codes do not occur in any scan of the split."""
    rows = [
        (split, number, len(count), int((count == 0).sum()), 2**bits, bits)
        for split, use in uses.items()
        for number, (count, bits) in enumerate(zip(use.counts, use.bits, strict=True), start=1)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
