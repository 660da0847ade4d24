"""Training scans that do not all weigh the same: a random intercept by participant, or residual variances by group.

Both multiply the rows of X and Z by one matrix, so that least squares on the weighted rows is generalised least squares
on the scans. The variances are pooled over the latent: one ratio for all of it keeps the fit in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from brainscm.parallel import CPU
from brainscm.scm.design import RANK_TOLERANCE, Array
from brainscm.scm.sample import Rows, Sample, to_device


@dataclass(frozen=True)
class Weighting:
    """Row i becomes scale_i · (row_i - demean_i · mean of the participant's rows).

    Attributes:
        scale, demean: (n,).
        codes: (n,) number of the participant.
    """

    scale: Array
    demean: Array
    codes: NDArray[np.intp]

    @classmethod
    def equal(cls, sample: Sample) -> Weighting:
        """All scans weigh the same."""
        return cls(np.ones(len(sample.x)), np.zeros(len(sample.x)), _codes(sample))

    @classmethod
    def of(cls, sample: Sample, scale: Array, demean: Array) -> Weighting:
        return cls(scale, demean, _codes(sample))

    def apply(self, sample: Sample) -> Sample:
        """The sample with weighted rows, in the design and, when they are read, in the latents."""
        latents = _Weighted(self, sample.latents, np.asarray(sample.rows))
        imputed = [self.rows(x) for x in sample.imputed]
        return replace(sample, x=self.rows(sample.x), latents=latents, rows=range(len(sample.x)), imputed=imputed)

    def rows(self, x: Array) -> Array:
        """The weighted rows of a design (n, p)."""
        sums = np.stack([np.bincount(self.codes, column) for column in x.T], axis=1)
        means = sums / np.bincount(self.codes)[:, None]
        return self.scale[:, None] * (x - self.demean[:, None] * means[self.codes])


class _Weighted:
    """Latents of which item i is the i-th scan's, weighted; a participant's mean is read when it is asked for."""

    def __init__(self, weighting: Weighting, latents: Rows, rows: NDArray[np.int_]) -> None:
        self.weighting, self.stored, self.at = weighting, latents, rows
        self.participant, self.mean = -1, np.empty(0)

    def __getitem__(self, index: int, /) -> Array:
        weighting, z = self.weighting, np.asarray(self.stored[int(self.at[index])], dtype=np.float64)
        if weighting.demean[index]:
            if weighting.codes[index] != self.participant:
                self.participant = int(weighting.codes[index])
                own = self.at[weighting.codes == self.participant]
                self.mean = np.mean([np.asarray(self.stored[int(row)], dtype=np.float64) for row in own], axis=0)
            z = z - weighting.demean[index] * self.mean
        return weighting.scale[index] * z


def random_intercept(sample: Sample, device: torch.device = CPU) -> Weighting:
    """Weights for z_ij = x_ij·B + a_i + e_ij with independent a_i (variance σ_a²) and e_ij (σ_e²).

    σ_e² is the residual variance of the scans about their participant's mean, and σ_a² solves
    E(RSS) = σ_e²(n - p) + σ_a²(n - Σ_i n_i² h̄_i), h̄_i the leverage of participant i's mean row (Henderson's third
    method). The inverse root of the covariance subtracts θ_i = 1 - √(σ_e² / (σ_e² + n_i σ_a²)) of the participant's
    mean (Fuller & Battese, 1973).
    """
    x, (n, p) = sample.x, sample.x.shape
    inside = Weighting.of(sample, np.ones(n), np.ones(n))
    codes = inside.codes
    scans = np.bincount(codes)
    left, length, _ = np.linalg.svd(inside.rows(x), full_matrices=False)
    q_inside = left[:, length > RANK_TOLERANCE * np.linalg.norm(x)]
    within = row_squares(q_inside, inside.apply(sample), device).sum() / (n - len(scans) - q_inside.shape[1])
    q = np.linalg.qr(x)[0]
    sums = np.stack([np.bincount(codes, column) for column in q.T], axis=1)  # Σ_i n_i² h̄_i = |sums|²
    between = (row_squares(q, sample, device).sum() - within * (n - p)) / (n - np.square(sums).sum())
    demean = 1 - np.sqrt(within / (within + scans * max(between, 0.0)))
    return Weighting(np.ones(n), demean[codes], codes)


def variance_by(sample: Sample, groups: Sequence[str], device: torch.device = CPU) -> Weighting:
    """Weights 1/√v_g, v_g the residual variance of group g: its summed squares over its summed 1 - leverage.

    `groups`: (n,) that of each scan.
    """
    q = np.linalg.qr(sample.x)[0]
    squares, free = row_squares(q, sample, device), 1 - np.square(q).sum(axis=1)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    variance = np.bincount(group, squares) / np.bincount(group, free) * free.sum() / squares.sum()
    return Weighting.of(sample, 1 / np.sqrt(variance[group]), np.zeros(len(q)))


def row_squares(q: Array, sample: Sample, device: torch.device = CPU) -> Array:
    """Summed squared residual of each scan over the latent, (n,), about the columns of q (orthonormal)."""
    q_on = to_device(q, device)
    qtz = q_on.new_zeros((q.shape[1], sample.first().size))
    for block, tile, z in sample.blocks(device):
        qtz[:, tile] += q_on[block].T @ z
    squares = q_on.new_zeros(len(q))
    for block, tile, z in sample.blocks(device):
        squares[block] += (z - q_on[block] @ qtz[:, tile]).square().sum(dim=1)
    return squares.cpu().numpy()


def _codes(sample: Sample) -> NDArray[np.intp]:
    return np.unique(np.asarray(sample.participants), return_inverse=True)[1]
