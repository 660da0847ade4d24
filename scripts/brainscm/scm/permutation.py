"""Family-wise p over the whole latent: Freedman-Lane permutation of residuals, participants as exchangeability blocks.

Under the reduced model (the design without the tested contrast) the residuals may be exchanged. Each permutation gives
the largest statistic over all latents; a latent's p is the share of permutations whose largest is at least its own
(Freedman & Lane, 1983; Winkler et al., 2014, for the blocks).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from brainscm.parallel import CPU
from brainscm.scm.design import Array
from brainscm.scm.sample import Sample, to_device

# So many latents of all scans, or so many scans of all latents, are held at once: memory does not grow with the scans.
TILE_BYTES = 32 * 2**20
# Permuted designs and products of one step: of a size that stays in the processor's cache.
STEP_BYTES = 4 * 2**20
STEP_PERMUTATIONS = 32
# A permuted statistic that equals the observed one but for rounding counts as equal.
ROUNDING = 1e-5

Order = NDArray[np.intp]


def max_statistics(
    sample: Sample, contrasts: Sequence[Array], permutations: int, seed: int, device: torch.device = CPU
) -> Array:
    """The largest partial R² over the latent in each permutation, for each contrast; (contrasts, permutations).

    Partial R² = kF / (kF + df) rises with |t| and with F, so its order is theirs.

    Args:
        sample: the training scans; their latents are read once.
        contrasts: each C, (k, p) of full row rank.
        permutations: how many.
        seed: of the workflow; the k-th permutation depends on it and on k alone.
        device: where the products are made.
    """
    if not permutations:
        return np.empty((len(contrasts), 0))
    bases = [Basis.of(sample.x, contrast) for contrast in contrasts]
    orders = [exchange(sample.participants, basis.tested)[1] for basis in bases]
    largest = np.zeros((len(contrasts), permutations))
    for tile in tiles(sample):
        for contrast, (basis, order) in enumerate(zip(bases, orders, strict=True)):
            seeded = (order(np.random.default_rng([seed, 2, k])) for k in range(permutations))
            found = permuted_maxima(basis, basis.unit_residuals(tile, device), seeded)
            np.maximum(largest[contrast], found, out=largest[contrast])
    return largest


def tiles(sample: Sample) -> Iterator[NDArray[Any]]:
    """Some latents of all scans at a time; (n, tile).

    The store holds scan after scan. It is read once, a block of scans at a time; what was read waits in a temporary
    file, tile after tile, as large as the scans' latents.
    """
    latents, rows, first = sample.latents, sample.rows, sample.first()
    n = len(rows)
    size, dtype = first.size, first.dtype
    width = max(1, TILE_BYTES // ((dtype.itemsize + 4) * n))  # a tile and its float32 residuals
    parts = [slice(start, min(start + width, size)) for start in range(0, size, width)]
    block = max(1, TILE_BYTES // (2 * dtype.itemsize * size))  # a block and the parts that are cut from it
    with tempfile.TemporaryFile() as file:
        for start in range(0, n, block):
            scans = np.stack([np.asarray(latents[int(row)]).reshape(-1) for row in rows[start : start + block]])
            for part in parts:
                file.seek((part.start * n + start * (part.stop - part.start)) * dtype.itemsize)
                file.write(scans[:, part].tobytes())
        file.seek(0)
        for part in parts:
            yield np.frombuffer(file.read(n * (part.stop - part.start) * dtype.itemsize), dtype).reshape(n, -1)


def family_wise_p(partial_r2: Array, largest: Array) -> Array:
    """Family-wise p of each latent, (1 + permutations that reach it) / (1 + permutations); NaN stays NaN."""
    reached = len(largest) - np.searchsorted(np.sort(largest), partial_r2 * (1 - ROUNDING), side="left")
    return np.where(np.isfinite(partial_r2), (1 + reached) / (1 + len(largest)), np.nan)


class Basis:
    """Orthonormal columns of a design, split by a contrast into what it tests and what the reduced model holds.

    With X = QR, C·b = (R⁻ᵀC')'Q'z: the tested directions are Q times an orthonormal basis of R⁻ᵀC', the reduced model
    is Q times its complement.

    Attributes:
        tested: (n, k). nuisance: (n, p - k).
        moving: tested and nuisance columns whose products change under permutation: the constant's is always 0.
    """

    def __init__(self, tested: Array, nuisance: Array) -> None:
        self.tested, self.nuisance = tested, nuisance
        others = nuisance
        if np.allclose(nuisance @ nuisance.sum(axis=0), 1, rtol=0, atol=1e-9):  # the reduced model holds the constant
            left, length, _ = np.linalg.svd(nuisance - nuisance.mean(axis=0), full_matrices=False)
            others = left[:, length > 1e-9]
        self.moving = np.column_stack([tested, others])

    @classmethod
    def of(cls, x: Array, contrast: Array) -> Basis:
        q, r = np.linalg.qr(x)
        turn = scipy.linalg.qr(scipy.linalg.solve_triangular(r, contrast.T, trans="T"))[0]
        k = len(contrast)
        return cls(q @ turn[:, :k], q @ turn[:, k:])

    def unit_residuals(self, z: NDArray[np.floating], device: torch.device = CPU) -> torch.Tensor:
        """Residuals of the reduced model, each latent's of unit length (0 where the model leaves nothing); (n, L)."""
        stored, nuisance = to_device(z, device), to_device(self.nuisance, device)
        residual = torch.empty(z.shape, dtype=torch.float32, device=device)
        step = max(1, STEP_BYTES // (8 * len(z)))
        for start in range(0, z.shape[1], step):
            part = stored[:, start : start + step].to(torch.float64, copy=True)
            whole = part.square().sum(dim=0)
            part -= nuisance @ (nuisance.T @ part)
            left = part.square().sum(dim=0)
            part *= torch.where(left > 1e-20 * whole, left.rsqrt(), 0)
            residual[:, start : start + step] = part
        return residual


def permuted_maxima(basis: Basis, residual: torch.Tensor, orders: Iterator[Order]) -> Array:
    """Largest partial R² over the latents under each order of the scans; (orders,).

    Exchanging the residuals against the design is exchanging the design against the residuals, so that one product
    serves many permutations: partial R² = |tested'e|² / (1 - |nuisance'e|²) for residuals e of unit length.
    """
    k = basis.tested.shape[1]
    largest: dict[int, torch.Tensor] = {}
    for first, _, products in permuted_products(basis, residual, orders):
        squares = products.square_()
        explained, held = squares[:, :k].sum(dim=1), squares[:, k:].sum(dim=1)
        reached = (explained / (1 - held)).amax(dim=1)
        largest[first] = torch.maximum(largest[first], reached) if first in largest else reached
    return torch.cat(list(largest.values())).double().cpu().numpy()


def permuted_products(
    basis: Basis, residual: torch.Tensor, orders: Iterator[Order]
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Products of the permuted `moving` columns with the residuals, some at a time.

    Yields:
        The number of the first order, the number of the first latent, and products (orders, columns, latents), the
        caller's to change.
    """
    m = basis.moving.shape[1]
    columns = basis.moving.astype(np.float32)
    together = max(1, min(STEP_PERMUTATIONS, STEP_BYTES // columns.nbytes))
    step = max(64, STEP_BYTES // (4 * together * m))
    first = 0
    while len(chunk := [columns[order] for _, order in zip(range(together), orders, strict=False)]):
        stacked = to_device(np.concatenate([permuted.T for permuted in chunk]), residual.device)  # (chunk m, n)
        for start in range(0, residual.shape[1], step):
            yield first, start, (stacked @ residual[:, start : start + step]).reshape(len(chunk), m, -1)
        first += len(chunk)


def exchange(participants: Sequence[str], tested: Array) -> tuple[str, Callable[[np.random.Generator], Order]]:
    """What may be exchanged for a test, in words, and a function that draws an order of the scans.

    One scan a participant: scans. Else whole participants with the same number of scans, so that what a participant's
    scans share stays together; or, for an effect that lies mostly within participants (time since baseline), the scans
    within each participant.
    """
    codes = np.unique(np.asarray(participants), return_inverse=True)[1]
    scans = np.bincount(codes)
    by_participant = np.argsort(codes, kind="stable")
    starts = np.cumsum(scans) - scans
    # (participants, scans each) rows of the participants with 1, 2, ... scans
    blocks = [by_participant[starts[scans == count][:, None] + np.arange(count)] for count in np.unique(scans)]
    means = np.stack([np.bincount(codes, column) / scans for column in tested.T], axis=1)[codes]
    within = scans.max() > 1 and np.square(tested - means).sum() > 0.5 * np.square(tested).sum()
    words = "scans within participants" if within else "whole participants" if scans.max() > 1 else "scans"

    def draw(rng: np.random.Generator) -> Order:
        order = np.empty(len(codes), dtype=np.intp)
        for block in blocks:
            order[block] = rng.permuted(block, axis=1) if within else rng.permutation(block)
        return order

    return words, draw
