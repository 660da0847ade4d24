"""Clusters of voxels with a large t, and how often chance makes one as large anywhere in the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from brainscm.images import Mask
from brainscm.parallel import CPU
from brainscm.scm.design import Array
from brainscm.scm.permutation import ROUNDING, Basis, exchange, permuted_products, tiles
from brainscm.scm.sample import Sample

FORMING_P = 0.001  # two-sided, of a single voxel; Eklund, Nichols & Knutsson (2016) find smaller p no less exact
Voxels = NDArray[np.intp]


@dataclass(frozen=True)
class Clusters:
    """The clusters of a map, largest first; voxels are numbered within the mask.

    Attributes:
        label: (voxels,) number of each voxel's cluster, 1, 2, ...; 0 of none.
        size: voxels of each. mass: summed |t| beyond the threshold. peak: the voxel of the largest |t|, and its t.
        p_size, p_mass: family-wise, of the size and of the mass.
    """

    label: Voxels
    size: Voxels
    mass: Array
    peak: Voxels
    peak_t: Array
    p_size: Array
    p_mass: Array


class Neighbourhood:
    """Which voxels of a mask share a face."""

    def __init__(self, mask: Mask) -> None:
        number = np.full(tuple(side + 1 for side in mask.shape), -1)  # nothing lies beyond the last voxel
        number[tuple(slice(side) for side in mask.shape)][mask] = np.arange(mask.sum())
        at = np.argwhere(mask)
        self.next = [number[tuple((at + step).T)] for step in np.eye(3, dtype=int)]

    def components(self, voxels: Voxels, t: Array) -> tuple[int, Voxels]:
        """How many clusters of one sign these voxels (in ascending order) make, and the number of each voxel's."""
        pairs = []
        for following in (each[voxels] for each in self.next):
            place = np.minimum(np.searchsorted(voxels, following), max(len(voxels) - 1, 0))
            joined = np.flatnonzero((voxels[place] == following) & (t[place] * t > 0)) if len(voxels) else place
            pairs.append(np.stack([joined, place[joined]]))
        ends = np.concatenate(pairs, axis=1)
        graph = scipy.sparse.coo_array((np.ones(ends.shape[1]), tuple(ends)), shape=(len(voxels), len(voxels)))
        count, label = connected_components(graph, directed=False)
        return int(count), np.asarray(label, dtype=np.intp)

    def measures(self, voxels: Voxels, t: Array, threshold: float) -> tuple[Voxels, Voxels, Array]:
        """The cluster of each voxel, and size and mass of each cluster, of voxels with |t| above the threshold."""
        count, label = self.components(voxels, t)
        mass = np.bincount(label, np.abs(t) - threshold, minlength=count)
        return label, np.bincount(label, minlength=count), mass.astype(np.float64)


def find_clusters(
    sample: Sample, mask: Mask, contrast: Array, t: Array, permutations: int, seed: int, device: torch.device = CPU
) -> Clusters:
    """Clusters of a contrast's map at a two-sided p of `FORMING_P`, and their p over permutations.

    The permutations are those of `max_statistics`; in each, the largest size and mass of any cluster are kept.

    Args:
        sample: the training scans' maps, (voxels,) of the mask each.
        contrast: C, (1, p). t: its ordinary t, (voxels,); NaN where a voxel does not vary.
    """
    near, freedom = Neighbourhood(mask), len(sample.x) - sample.x.shape[1]
    threshold = float(scipy.stats.t.isf(FORMING_P / 2, freedom))
    largest = np.zeros((2, permutations))
    permutation, voxel, permuted_t = _exceeding(sample, contrast, permutations, seed, threshold, device)
    ends = np.searchsorted(permutation, np.arange(permutations + 1))
    for k in np.flatnonzero(np.diff(ends)):
        own = slice(ends[k], ends[k + 1])
        _, size, mass = near.measures(voxel[own], permuted_t[own], threshold)
        largest[:, k] = size.max(), mass.max()
    voxels = np.flatnonzero(np.abs(np.nan_to_num(t)) > threshold)
    label, size, mass = near.measures(voxels, t[voxels], threshold)
    order = np.argsort(-mass, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    whole = np.zeros(len(t), dtype=np.intp)
    whole[voxels] = 1 + rank[label]
    by_height = voxels[np.argsort(-np.abs(t[voxels]), kind="stable")]
    peak = by_height[np.unique(whole[by_height], return_index=True)[1]]
    p_size, p_mass = (
        (1 + (reached[:, None] >= own[order] * (1 - ROUNDING)).sum(axis=0)) / (1 + permutations)
        for own, reached in zip((size, mass), largest, strict=True)
    )
    return Clusters(whole, size[order], mass[order], peak, t[peak], p_size, p_mass)


def _exceeding(
    sample: Sample, contrast: Array, permutations: int, seed: int, threshold: float, device: torch.device
) -> tuple[Voxels, Voxels, Array]:
    """Permutations, voxels and t wherever |t| exceeds the threshold, in that order."""
    basis, freedom = Basis.of(sample.x, contrast), len(sample.x) - sample.x.shape[1]
    order = exchange(sample.participants, basis.tested)[1]
    least = threshold**2 / (threshold**2 + freedom)  # the partial R² of that t
    found: list[tuple[Voxels, Voxels, Array]] = []
    before = 0
    for tile in tiles(sample):
        seeded = (order(np.random.default_rng([seed, 2, k])) for k in range(permutations))
        for first, start, products in permuted_products(basis, basis.unit_residuals(tile, device), seeded):
            tested = products[:, 0].clone()
            r2 = tested.square() / (1 - products[:, 1:].square_().sum(dim=1))
            at = (r2 > least).nonzero(as_tuple=True)
            share, sign = r2[at].double().cpu().numpy(), tested[at].sign().cpu().numpy()
            permutation, voxel = (each.cpu().numpy() for each in at)
            t = sign * np.sqrt(freedom * share / (1 - share))
            found.append((first + permutation, before + start + voxel, t))
        before += tile.shape[1]
    permutation, voxel, t = (np.concatenate(each) for each in zip(*found, strict=True))
    sorted_by = np.lexsort((voxel, permutation))
    return permutation[sorted_by], voxel[sorted_by], t[sorted_by]
