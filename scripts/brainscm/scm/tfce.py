"""Threshold-free cluster enhancement: how much support a voxel's t has from its neighbours, at every height at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components

from brainscm.images import Mask
from brainscm.parallel import CPU
from brainscm.scm.clusters import Neighbourhood
from brainscm.scm.design import Array
from brainscm.scm.permutation import Basis, exchange, family_wise_p, permuted_products, tiles
from brainscm.scm.sample import Sample

STEP = 0.1  # of height; with extent to the power ½ and height to the power 2 as Smith & Nichols (2009) have it
TOGETHER = 32  # whole maps that are held at once


def tfce_map(
    sample: Sample, mask: Mask, contrast: Array, t: Array, permutations: int, seed: int, device: torch.device = CPU
) -> tuple[Array, Array]:
    """The enhancement of a contrast's map, signed as t, and its family-wise p over permutations; (voxels,) each.

    The permutations are those of `max_statistics`; in each, the largest enhancement of either sign is kept.

    Args:
        sample: the training scans' maps, (voxels,) of the mask each.
        contrast: C, (1, p). t: its ordinary t, (voxels,); NaN where a voxel does not vary.
    """
    near = Neighbourhood(mask)
    largest = [
        enhanced(near, permuted).max(initial=0.0)
        for permuted in _permuted_maps(sample, contrast, permutations, seed, device)
    ]
    size = enhanced(near, np.nan_to_num(t))
    p = family_wise_p(np.where(np.isfinite(t), size, np.nan), np.array(largest))
    return np.sign(np.nan_to_num(t)) * size, p


def enhanced(near: Neighbourhood, t: Array) -> Array:
    """Σ over heights h ≤ |t| of √e(h) h² dh, e(h) the voxels of one sign and at least h that the voxel is joined to.

    From the greatest height down, voxels and what joins them are added to the clusters that are there already.
    """
    level = (np.abs(t) / STEP + 1e-9).astype(np.intp)
    voxels = np.arange(len(t))
    pairs = [np.stack([voxels[following >= 0], following[following >= 0]]) for following in near.next]
    ends = np.concatenate(pairs, axis=1)
    ends = ends[:, t[ends[0]] * t[ends[1]] > 0]
    joined = level[ends].min(axis=0)
    ends, joined = ends[:, order := np.argsort(-joined, kind="stable")], joined[order]
    by_level = np.argsort(-level, kind="stable")
    top = int(level.max(initial=0))
    heights = np.arange(top, 0, -1)
    edge_stop = np.searchsorted(-joined, -heights, side="right")
    voxel_stop = np.searchsorted(-level[by_level], -heights, side="right")
    label, found = voxels.copy(), np.zeros(len(t))
    for height, first, last, count in zip(heights, [0, *edge_stop], edge_stop, voxel_stop, strict=False):
        active = by_level[:count]
        if last > first:
            touched, own = np.unique(label[ends[:, first:last]], return_inverse=True)
            own = own.reshape(2, -1)
            graph = scipy.sparse.coo_array((np.ones(own.shape[1]), tuple(own)), shape=(len(touched), len(touched)))
            cluster = connected_components(graph, directed=False)[1]
            renamed = voxels.copy()
            renamed[touched] = touched[np.unique(cluster, return_index=True)[1][cluster]]
            label[active] = renamed[label[active]]
        extent = np.bincount(label[active], minlength=len(t))
        found[active] += np.sqrt(extent[label[active]]) * ((height * STEP) ** 2 * STEP)
    return found


def _permuted_maps(
    sample: Sample, contrast: Array, permutations: int, seed: int, device: torch.device
) -> Iterator[Array]:
    """The map of t of each permutation, (voxels,)."""
    basis, freedom = Basis.of(sample.x, contrast), len(sample.x) - sample.x.shape[1]
    order = exchange(sample.participants, basis.tested)[1]
    for begin in range(0, permutations, TOGETHER):
        chunk = range(begin, min(begin + TOGETHER, permutations))
        maps, before = np.zeros((len(chunk), sample.first().size), dtype=np.float32), 0
        for tile in tiles(sample):
            seeded = (order(np.random.default_rng([seed, 2, k])) for k in chunk)
            for first, start, products in permuted_products(basis, basis.unit_residuals(tile, device), seeded):
                tested = products[:, 0].clone()
                r2 = tested.square() / (1 - products[:, 1:].square_().sum(dim=1))
                t = tested.sign() * (freedom * r2 / (1 - r2)).sqrt()
                place = slice(before + start, before + start + t.shape[1])
                maps[first : first + len(t), place] = t.cpu().numpy()
            before += tile.shape[1]
        yield from maps.astype(np.float64)
