"""Clusters of a contrast's map: nilearn's measures on the same permutations."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import statsmodels.api as sm
from nilearn.mass_univariate._utils import calculate_cluster_measures

from brainscm.scm import permutation
from brainscm.scm.clusters import FORMING_P, find_clusters
from brainscm.scm.permutation import Basis, exchange
from brainscm.scm.sample import Sample

SHAPE = (9, 8, 7)
N, PERMUTATIONS, SEED = 40, 60, 5


def smooth_maps(rng: np.random.Generator) -> np.ndarray:
    maps = np.stack([scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.2, mode="wrap") for _ in range(N)])
    return maps / maps.std()


@pytest.mark.parametrize("participants", [N, N // 2])
def test_sizes_masses_and_p_are_nilearns(participants: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    mask = np.ones(SHAPE, bool)
    mask[4, 2:6] = False  # voxels on both sides are no neighbours
    x = np.column_stack([np.ones(N), rng.normal(size=N), rng.integers(0, 2, N)])
    maps = smooth_maps(rng)
    maps[:, 1:4, 1:5, 1:4] += 1.2 * x[:, 1, None, None, None]
    maps[:, 6:8, 4:6, 2:5] -= 0.9 * x[:, 1, None, None, None]
    maps[:, 5, 0, 0] -= 2.0 * x[:, 1]
    z, c = maps[:, mask], np.array([[0.0, 1, 0]])
    ids = [f"p{i % participants}" for i in range(N)]
    t = np.array([sm.OLS(column, x).fit().tvalues[1] for column in z.T])
    monkeypatch.setattr(permutation, "TILE_BYTES", 40_000)  # several tiles
    found = find_clusters(Sample.of(x, [*"abc"], z, ids), mask, c, t, PERMUTATIONS, SEED)

    threshold, structure = scipy.stats.t.isf(FORMING_P / 2, N - 3), scipy.ndimage.generate_binary_structure(3, 1)

    def nilearns(t_of_voxels: np.ndarray) -> tuple[int, float]:
        volume = np.zeros(SHAPE)
        volume[mask] = t_of_voxels
        size, mass = calculate_cluster_measures(volume[..., None], threshold, structure, two_sided_test=True)
        return size[0], mass[0]

    assert (found.size.max(), found.mass.max()) == pytest.approx(nilearns(t))
    volume = np.zeros(SHAPE)
    volume[mask] = t
    up, count = scipy.ndimage.label(volume > threshold, structure)
    down, more = scipy.ndimage.label(volume < -threshold, structure)
    assert len(found.size) == count + more
    for number, size, mass, peak, peak_t in zip(
        range(1, len(found.size) + 1), found.size, found.mass, found.peak, found.peak_t, strict=True
    ):
        own = found.label == number
        assert own.sum() == size
        assert mass == pytest.approx((np.abs(t[own]) - threshold).sum())
        assert len({*(up + (down + count) * (down > 0))[mask][own]}) == 1
        assert abs(peak_t) == pytest.approx(np.abs(t[own]).max())
        assert t[peak] == peak_t

    # Freedman and Lane's permutations by hand: residuals of the reduced model, exchanged, fitted anew.
    others = x[:, [0, 2]]
    fitted = others @ np.linalg.lstsq(others, z)[0]
    draw = exchange(ids, Basis.of(x, c).tested)[1]
    largest = []
    for k in range(PERMUTATIONS):
        order = draw(np.random.default_rng([SEED, 2, k]))
        moved = fitted.copy()
        moved[order] += z - fitted
        inverse = np.linalg.inv(x.T @ x)
        b = inverse @ x.T @ moved
        error = np.sqrt(np.square(moved - x @ b).sum(axis=0) / (N - 3) * inverse[1, 1])
        largest.append(nilearns(b[1] / error))
    sizes, masses = np.array(largest).T
    assert (sizes > 0).any()
    np.testing.assert_allclose(found.p_size, [(1 + (sizes >= s).sum()) / (1 + PERMUTATIONS) for s in found.size])
    reached = [(masses >= mass - 1e-4).sum() for mass in found.mass]
    np.testing.assert_allclose(found.p_mass, (1 + np.array(reached)) / (1 + PERMUTATIONS))
    assert found.p_mass.min() == 1 / (1 + PERMUTATIONS)


def test_a_map_without_clusters_has_none() -> None:
    rng = np.random.default_rng(1)
    x, z = np.column_stack([np.ones(N), rng.normal(size=N)]), rng.normal(size=(N, 27))
    mask = np.ones((3, 3, 3), bool)
    t = np.full(27, 0.5)
    t[0] = np.nan
    found = find_clusters(Sample.of(x, [*"ab"], z, [str(i) for i in range(N)]), mask, np.array([[0.0, 1]]), t, 5, 1)
    assert len(found.size) == len(found.p_mass) == len(found.peak) == 0
    assert (found.label == 0).all()
