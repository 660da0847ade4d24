"""Family-wise p by sign-flipping: the statistic by hand, and its level where residual variances differ."""

import numpy as np
import pytest
import scipy.stats
from test_scm_permutation import sample_of

from brainscm.scm import permutation
from brainscm.scm.design import Array
from brainscm.scm.permutation import Basis, family_wise_p, max_statistics, permuted_maxima
from brainscm.scm.sign_flips import flipped_maxima


@pytest.mark.parametrize("contrast", [np.eye(3)[1:2], np.eye(3)[1:]])
@pytest.mark.parametrize("repeated", [False, True])
def test_statistics_are_those_of_flipped_scores(contrast: Array, repeated: bool) -> None:
    rng = np.random.default_rng(0)
    x, z = np.column_stack([np.ones(24), rng.normal(size=(24, 2))]), rng.normal(5, 1, size=(24, 6))
    z[:, 2] = 4.0
    ids = [f"p{i // 2 if repeated else i:02d}" for i in range(24)]
    statistic, largest = flipped_maxima(sample_of(x, z, range(24), ids), [contrast], 5, seed=3)
    codes = np.unique(ids, return_inverse=True)[1]
    reduced = x @ np.linalg.svd(contrast)[2][len(contrast) :].T
    hat = reduced @ np.linalg.pinv(reduced)
    tested = np.linalg.qr((np.eye(24) - hat) @ x @ np.linalg.pinv(contrast))[0]

    def by_hand(y: Array, signs: Array) -> float:
        scores = tested * ((np.eye(24) - hat) @ y)[:, None]
        scores = np.array([scores[codes == code].sum(axis=0) for code in range(codes.max() + 1)])
        total = signs @ scores
        flipped = signs[codes, None] * tested
        left = np.trace(flipped.T @ (np.eye(24) - hat) @ flipped) / len(contrast)
        return float(total @ np.linalg.solve(scores.T @ scores, total) / left)

    varying = [0, 1, 3, 4, 5]
    ones = np.ones(codes.max() + 1)
    np.testing.assert_allclose(statistic[0, varying], [by_hand(z[:, i], ones) for i in varying], rtol=1e-4)
    assert np.isnan(statistic[0, 2])
    for j in range(5):
        signs = np.random.default_rng([3, 3, j]).choice((-1.0, 1.0), len(ones))
        assert largest[0, j] == pytest.approx(max(by_hand(z[:, i], signs) for i in varying), rel=1e-4)


def test_tiles_change_nothing_and_seeds_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, z = np.column_stack([np.ones(30), rng.normal(size=(30, 2))]), rng.normal(size=(30, 150))
    sample, contrasts = sample_of(x, z, range(30)), [np.eye(3)[1:2], np.eye(3)[1:]]
    whole = flipped_maxima(sample, contrasts, 20, seed=1)
    monkeypatch.setattr(permutation, "TILE_BYTES", 12 * 30 * 4)
    for mine, other in zip(flipped_maxima(sample, contrasts, 20, seed=1), whole, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5)
    assert not np.allclose(flipped_maxima(sample, contrasts, 20, seed=2)[1], whole[1])


def test_family_wise_error_is_at_its_level_where_variance_grows_with_a_skewed_covariate() -> None:
    rng = np.random.default_rng(7)
    trials, count, hits = 250, 99, {"flipped": 0, "permuted": 0}
    for trial in range(trials):
        age = rng.gamma(1.5, size=60)
        age = (age - age.mean()) / age.std()
        x = np.column_stack([np.ones(60), age, rng.normal(size=60)])
        z = 1.42 ** age[:, None] * rng.normal(size=(60, 15))
        sample, contrast = sample_of(x, z, range(60)), np.array([[0, 1.0, 0]])
        (statistic,), (flipped,) = flipped_maxima(sample, [contrast], count, seed=trial)
        hits["flipped"] += family_wise_p(statistic, flipped).min() <= 0.05
        basis = Basis.of(x, contrast)
        permuted = max_statistics(sample, [contrast], count, seed=trial)[0]
        observed = permuted_maxima(basis, basis.unit_residuals(z), iter([np.arange(60)]))
        hits["permuted"] += family_wise_p(observed, permuted)[0] <= 0.05
    assert hits["flipped"] <= scipy.stats.binom.ppf(0.9999, trials, 0.05)
    assert hits["permuted"] > 0.3 * trials
