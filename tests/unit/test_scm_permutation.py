"""Family-wise p by permutation: nilearn's on the same permutations, its level kept, whole participants exchanged."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from nilearn.mass_univariate import permuted_ols

from brainscm.scm import permutation
from brainscm.scm.design import Array
from brainscm.scm.permutation import Basis, Order, exchange, family_wise_p, max_statistics, permuted_maxima
from brainscm.scm.sample import Rows, Sample


def design(rng: np.random.Generator, n: int = 40, p: int = 4) -> Array:
    return np.column_stack([np.ones(n), 50 + 10 * rng.normal(size=(n, p - 1))])


def singles(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def sample_of(x: Array, z: Rows, rows: Sequence[int], participants: list[str] | None = None) -> Sample:
    """One scan a participant, unless they are named."""
    own = participants or singles(len(x))
    return Sample(x, [f"x{i}" for i in range(x.shape[1])], z, rows, own, own)


def partial_r2(x: Array, z: Array, contrast: Array) -> Array:
    """By two regressions a column."""
    values = []
    for y in z.T:
        f = float(np.squeeze(sm.OLS(y, x).fit().f_test(contrast).fvalue))
        values.append(len(contrast) * f / (len(contrast) * f + len(x) - x.shape[1]))
    return np.array(values)


def nilearns_orders(n: int, count: int, seed: int) -> Iterator[Order]:
    """The permutations that permuted_ols draws, each on top of the one before."""
    rng = np.random.RandomState(np.random.RandomState(seed).randint(1, np.iinfo(np.int32).max - 1, size=1)[0])
    order = np.arange(n)
    for _ in range(count):
        order = order[rng.permutation(n)]
        yield order


def test_equals_nilearn_on_the_same_permutations() -> None:
    rng = np.random.default_rng(0)
    x = design(rng)
    z = rng.normal(size=(40, 30)) + 0.06 * x[:, 1:2] * (np.arange(30) < 5)
    peer = permuted_ols(
        x[:, 1], z, x[:, 2:], model_intercept=True, n_perm=200, random_state=3, n_jobs=1, output_type="dict", verbose=0
    )
    basis = Basis.of(x, np.array([[0, 1.0, 0, 0]]))
    largest = permuted_maxima(basis, basis.unit_residuals(z), nilearns_orders(40, 200, 3))
    np.testing.assert_allclose(np.sqrt(36 * largest / (1 - largest)), peer["h0_max_t"][0], rtol=1e-4)
    observed = partial_r2(x, z, np.array([[0, 1.0, 0, 0]]))
    np.testing.assert_allclose(-np.log10(family_wise_p(observed, largest)), peer["logp_max_t"][0], atol=1e-9)


@pytest.mark.parametrize("contrast", [np.eye(4)[2:3], np.eye(4)[1:3], np.array([[0, 1.0, -2.0, 0]]), np.eye(4)[:1]])
def test_statistic_of_a_permutation_is_that_of_freedman_and_lane(
    contrast: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permutation, "STEP_PERMUTATIONS", 3)
    rng = np.random.default_rng(1)
    x, z = design(rng), rng.normal(1000, 1, size=(40, 7))
    orders = [rng.permutation(40) for _ in range(7)]
    basis = Basis.of(x, contrast)
    largest = permuted_maxima(basis, basis.unit_residuals(z), iter(orders))
    reduced = x @ np.linalg.svd(contrast)[2][len(contrast) :].T  # the design whose coefficients satisfy C·b = 0
    fitted = reduced @ np.linalg.lstsq(reduced, z, rcond=None)[0]
    for order, found in zip(orders, largest, strict=True):
        exchanged = (z - fitted)[np.argsort(order)]  # permuting the design is permuting the residuals back
        assert partial_r2(x, fitted + exchanged, contrast).max() == pytest.approx(found, rel=1e-4)


def test_tiles_and_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sample = sample_of(design(rng), rng.normal(size=(50, 3, 5)), range(5, 45))
    contrasts = [np.eye(4)[1:2], np.eye(4)[1:]]
    whole = max_statistics(sample, contrasts, 70, seed=1)
    monkeypatch.setattr(permutation, "TILE_BYTES", 12 * 40 * 4)
    monkeypatch.setattr(permutation, "STEP_BYTES", 1)
    np.testing.assert_allclose(max_statistics(sample, contrasts, 70, seed=1), whole, rtol=1e-5)
    assert not np.allclose(max_statistics(sample, contrasts, 70, seed=2), whole)


def test_no_row_but_the_given_ones_is_read() -> None:
    rng = np.random.default_rng(0)
    x, z = design(rng), rng.normal(size=(80, 4))

    class Guarded:
        def __getitem__(self, index: int) -> Array:
            assert index % 2 == 0, "a row of another split was read"
            return z[index]

    max_statistics(sample_of(x, Guarded(), range(0, 80, 2)), [np.eye(4)[1:2]], 3, seed=1)


def test_tiles_are_the_store_and_do_not_grow_with_the_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(0).normal(size=(400, 2, 11))
    monkeypatch.setattr(permutation, "TILE_BYTES", 16_000)
    for n in (7, 100, 390):
        found = list(permutation.tiles(sample_of(np.ones((n, 1)), z, range(5, 5 + n))))
        np.testing.assert_array_equal(np.concatenate(found, axis=1), z[5 : 5 + n].reshape(n, -1))
        assert max(tile.nbytes for tile in found) < 16_000


def test_a_latent_that_does_not_vary_has_no_p_and_no_say() -> None:
    rng = np.random.default_rng(0)
    x, z = design(rng), rng.normal(size=(40, 3))
    without = max_statistics(sample_of(x, z, range(40)), [np.eye(4)[1:2]], 20, seed=1)
    constant = np.column_stack([z, np.full(40, 7.1)])
    np.testing.assert_allclose(
        max_statistics(sample_of(x, constant, range(40)), [np.eye(4)[1:2]], 20, seed=1), without, rtol=1e-6
    )
    assert np.isnan(family_wise_p(np.array([np.nan, 0.5]), without[0])).tolist() == [True, False]


def test_family_wise_p_by_hand() -> None:
    largest = np.array([0.1, 0.2, 0.3, 0.3])
    np.testing.assert_allclose(family_wise_p(np.array([0.05, 0.2, 0.3, 0.4]), largest), [1, 4 / 5, 3 / 5, 1 / 5])


def test_participants_are_exchanged_as_wholes_and_scans_within_them_where_the_effect_lies_there() -> None:
    participants = ["a", "b", "b", "c", "d", "d", "e", "e", "e"]
    rng = np.random.default_rng(0)
    between, within = np.array([1.0, 2, 2, 3, 4, 4, 0, 0, 0]), np.array([0.0, -1, 1, 0, -1, 1, -1, 0, 1])
    words, draw = exchange(participants, between[:, None])
    assert words == "whole participants"
    seen = {tuple(draw(rng).tolist()) for _ in range(200)}
    assert seen == {(a, *b, 3 - a, *d, 6, 7, 8) for a in (0, 3) for b, d in [((1, 2), (4, 5)), ((4, 5), (1, 2))]}
    words, draw = exchange(participants, within[:, None])
    assert words == "scans within participants"
    orders = np.array([draw(rng) for _ in range(200)])
    assert all(participants[i] == participants[j] for order in orders for i, j in enumerate(order))
    assert len(np.unique(orders, axis=0)) == 2 * 2 * 6
    words, draw = exchange(singles(9), between[:, None])
    assert words == "scans"
    assert sorted(draw(rng).tolist()) == list(range(9))


@pytest.mark.parametrize("repeated", [False, True])
def test_family_wise_error_is_at_its_level(repeated: bool) -> None:
    rng = np.random.default_rng(5)
    trials, count, hits = 300, 99, 0
    mixing = rng.normal(size=(6, 25))
    for trial in range(trials):
        participants = [f"p{i // 2}" for i in range(24)] if repeated else singles(24)
        x = np.column_stack([np.ones(24), rng.normal(size=(24, 2))])
        z = rng.standard_t(4, size=(24, 6)) @ mixing
        if repeated:
            x = np.repeat(x[:12], 2, axis=0)
            z = z + np.repeat(3 * rng.normal(size=(12, 6)) @ mixing, 2, axis=0)
        contrast = np.array([[0, 0, 1.0]])
        largest = max_statistics(sample_of(x, z, range(24), participants), [contrast], count, seed=trial)[0]
        basis = Basis.of(x, contrast)
        observed = permuted_maxima(basis, basis.unit_residuals(z), iter([np.arange(24)]))
        hits += family_wise_p(observed, largest)[0] <= 0.05
    # P(p <= 5/100) is 0.05 under exchangeability: the exact binomial interval at 1 in 10,000.
    low, high = scipy.stats.binom.ppf([5e-5, 1 - 5e-5], trials, 0.05)
    assert low <= hits <= high
