"""Threshold-free cluster enhancement: nilearn's values, and p over permutations that are made by hand."""

import numpy as np
import pytest
import scipy.ndimage
from nilearn.mass_univariate._utils import calculate_tfce
from test_scm_clusters import SHAPE, smooth_maps

from brainscm.scm import permutation, tfce
from brainscm.scm.clusters import Neighbourhood
from brainscm.scm.permutation import Basis, exchange
from brainscm.scm.sample import Sample
from brainscm.scm.tfce import STEP, enhanced, tfce_map

N, PERMUTATIONS, SEED = 40, 19, 5


def nilearns(t: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Its sum is without the step of height, and its heights are parts of the largest |t|."""
    volume = np.zeros(SHAPE)
    volume[mask] = t
    structure = scipy.ndimage.generate_binary_structure(3, 1)
    return STEP * calculate_tfce(volume[..., None], structure, dh=STEP)[..., 0][mask]


def test_values_are_nilearns() -> None:
    mask = np.ones(SHAPE, bool)
    mask[4, 2:6] = False  # voxels on both sides are no neighbours
    t = smooth_maps(np.random.default_rng(0))[0][mask]
    t *= 4.2 / np.abs(t).max()  # nilearn's heights are then ours: 0.1, 0.2, ..., 4.2
    theirs, ours = nilearns(t, mask), enhanced(Neighbourhood(mask), t)
    off = np.abs(np.sign(t) * ours - theirs)
    # A voxel whose t is a height but for rounding may count at that height or not.
    assert np.mean(off < 1e-6 * np.abs(theirs).max()) > 0.99
    assert np.abs(theirs).max() == pytest.approx(ours.max(), rel=0.02)
    assert not enhanced(Neighbourhood(mask), np.zeros(int(mask.sum()))).any()


def test_p_is_the_share_of_permutations_whose_largest_is_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    mask = np.ones(SHAPE, bool)
    x = np.column_stack([np.ones(N), rng.normal(size=N), rng.integers(0, 2, N)])
    maps = smooth_maps(rng)[:N]
    maps[:, 1:4, 1:5, 1:4] += 1.2 * x[:, 1, None, None, None]
    z, c = maps[:, mask], np.array([[0.0, 1, 0]])
    ids = [f"p{i % 25}" for i in range(N)]

    def t_of(y: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(x.T @ x)
        b = inverse @ x.T @ y
        return b[1] / np.sqrt(np.square(y - x @ b).sum(axis=0) / (N - 3) * inverse[1, 1])

    monkeypatch.setattr(permutation, "TILE_BYTES", 40_000)  # several tiles
    monkeypatch.setattr(tfce, "TOGETHER", 8)
    size, p = tfce_map(Sample.of(x, [*"abc"], z, ids), mask, c, t_of(z), PERMUTATIONS, SEED)
    near, others = Neighbourhood(mask), x[:, [0, 2]]
    fitted = others @ np.linalg.lstsq(others, z)[0]
    draw = exchange(ids, Basis.of(x, c).tested)[1]
    largest = []
    for k in range(PERMUTATIONS):
        moved = fitted.copy()
        moved[draw(np.random.default_rng([SEED, 2, k]))] += z - fitted
        largest.append(enhanced(near, t_of(moved)).max())
    by_hand = (1 + (np.array(largest)[:, None] >= np.abs(size) * (1 - 1e-5)).sum(axis=0)) / (1 + PERMUTATIONS)
    assert np.mean(np.abs(p - by_hand) < 1e-9) > 0.99
    assert p.min() == 1 / (1 + PERMUTATIONS)
    assert p.max() > 0.5
    strongest = np.argmax(np.abs(size))
    assert np.argwhere(mask)[strongest] == pytest.approx([2, 2.5, 2], abs=2)
    assert np.sign(size[strongest]) == 1
