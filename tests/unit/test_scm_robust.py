"""Robust errors of small cohorts: CR2, HC3 and their degrees of freedom by dense matrices and by hand."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from brainscm.scm.design import Array
from brainscm.scm.image import fit_image, robust_sandwich
from brainscm.scm.inference import partial_r2, robust_errors_of, wald_test
from brainscm.scm.robust import CR2, HC3, Sandwich, directions
from brainscm.scm.sample import Sample


def sample_of(x: Array, z: Array, participants: list[str]) -> Sample:
    return Sample.of(x, [f"x{i}" for i in range(x.shape[1])], z, participants)


def visits(rng: np.random.Generator, participants: int = 14) -> tuple[Array, list[str]]:
    """A design with one to four scans a participant: a covariate, a group and a time."""
    ids = [f"p{i:02d}" for i in range(participants) for _ in range(1 + i % 4)]
    codes = np.unique(ids, return_inverse=True)[1]
    n = len(ids)
    x = np.column_stack([np.ones(n), 50 + 10 * rng.normal(size=participants)[codes], codes % 5 == 0, rng.random(n)])
    return x, ids


def dense(x: Array, y: Array, codes: Array, contrast: Array, power: float) -> tuple[Array, float]:
    """The covariance of C·b and its η, by matrices of n × n as the papers write them."""
    n, k = len(x), len(contrast)
    bread = np.linalg.inv(x.T @ x)
    left = np.eye(n) - x @ bread @ x.T
    residual = left @ y
    g_matrices = []  # each C·b's score of a cluster as a matrix on y
    for code in np.unique(codes):
        own = codes == code
        values, vectors = np.linalg.eigh(left[np.ix_(own, own)])
        adjust = vectors @ np.diag(values**power) @ vectors.T
        g_matrices.append(contrast @ bread @ x[own].T @ adjust @ left[own])
    scores = np.array([g @ residual for g in g_matrices])
    covariance = scores.T @ scores
    expected = sum(g @ g.T for g in g_matrices)
    root = np.linalg.inv(scipy.linalg.sqrtm(expected).real)
    total = 0.0
    for s in range(k):
        for t in range(k):
            a = sum(np.outer((root @ g)[s], (root @ g)[t]) for g in g_matrices)
            symmetric = (a + a.T) / 2
            total += 2 * np.trace(symmetric @ symmetric)  # Var(y'Ay) of standard normal y
    return covariance, k * (k + 1) / total


@pytest.mark.parametrize("rows", [[1], [3], [1, 2], [1, 2, 3]])
def test_cr2_and_its_freedom_are_those_of_dense_matrices(rows: list[int]) -> None:
    rng = np.random.default_rng(0)
    x, ids = visits(rng)
    z = rng.normal(size=(len(x), 5))
    codes = np.unique(ids, return_inverse=True)[1]
    contrast = np.eye(4)[rows]
    sample = sample_of(x, z, ids)
    model = fit_image(sample, seed=0)
    robust, words = robust_errors_of("ordinary", model, contrast, sample)
    assert words == "clustered by participant"
    assert robust is not None
    test, k = wald_test(model, contrast, robust), len(rows)
    for column in range(5):
        covariance, eta = dense(x, z[:, column], codes, contrast, CR2)
        effect = contrast @ np.linalg.lstsq(x, z[:, column], rcond=None)[0]
        assert robust.freedom == pytest.approx(eta)
        assert test.df2 == pytest.approx(eta - k + 1)
        if k == 1:
            t = effect[0] / np.sqrt(covariance[0, 0])
            assert test.statistic[column] == pytest.approx(t)
            assert test.standard_error[column] == pytest.approx(np.sqrt(covariance[0, 0]))
            assert test.p[column] == pytest.approx(2 * scipy.stats.t.sf(abs(t), eta))
        else:
            f = (eta - k + 1) / (eta * k) * effect @ np.linalg.solve(covariance, effect)
            assert test.statistic[column] == pytest.approx(f)
            assert test.p[column] == pytest.approx(scipy.stats.f.sf(f, k, eta - k + 1))


@pytest.mark.parametrize("rows", [[1], [1, 2]])
def test_hc3_has_the_freedom_of_dense_matrices(rows: list[int]) -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(30), np.arange(30) < 3, rng.normal(size=30)])
    z = rng.normal(size=(30, 2))
    ids = [str(i) for i in range(30)]
    sample, contrast = sample_of(x, z, ids), np.eye(3)[rows]
    robust, words = robust_errors_of("hc3", fit_image(sample, seed=0), contrast, sample)
    assert words == "hc3"
    assert robust is not None
    assert robust.freedom == pytest.approx(dense(x, z[:, 0], np.arange(30), contrast, HC3)[1])


def test_freedom_of_two_groups_is_welchs_at_equal_variances() -> None:
    x = np.column_stack([np.ones(30), np.arange(30) < 3])
    q, r = np.linalg.qr(x)
    tested = q @ directions(r, np.array([[0, 1.0]]))[0]
    found = Sandwich(q, np.arange(30), CR2).freedom(tested)
    assert found == pytest.approx((1 / 27 + 1 / 3) ** 2 / (1 / (27**2 * 26) + 1 / (3**2 * 2)))


@pytest.mark.parametrize("errors", ["ordinary", "hc3"])
def test_rare_levels_and_few_rescans_keep_their_level(errors: str) -> None:
    """Of 40 participants three have the level; with ordinary errors five of them come twice."""
    rng = np.random.default_rng(0)
    participants = np.concatenate([np.arange(40), np.arange(5)]) if errors == "ordinary" else np.arange(40)
    x = np.column_stack(
        [np.ones(len(participants)), np.isin(participants, [4, 5, 6]), rng.normal(size=40)[participants]]
    )
    own = rng.normal(size=(40, 4000))
    z = own[participants] + 0.3 * rng.normal(size=(len(participants), 4000))
    sample = sample_of(x, z, [str(i) for i in participants])
    model, contrast = fit_image(sample, seed=0), np.eye(3)[1:2]
    robust, _ = robust_errors_of(errors, model, contrast, sample)  # type: ignore[arg-type]
    assert 0.005 < (wald_test(model, contrast, robust).p < 0.05).mean() < 0.065


def test_what_one_participant_decides_is_refused_in_words() -> None:
    rng = np.random.default_rng(0)
    participants = [*range(40), 7]
    time = np.zeros(41)
    time[-1] = 2.0  # one rescan among forty participants
    x = np.column_stack([np.ones(41), rng.normal(size=41), time])
    sample = sample_of(x, rng.normal(size=(41, 30)), [f"p{i}" for i in participants])
    model = fit_image(sample, seed=0)
    robust, _ = robust_errors_of("ordinary", model, np.eye(3)[2:], sample)
    test = wald_test(model, np.eye(3)[2:], robust)
    assert test.reason == "p7 alone decides some of it, so that its error cannot be known"
    assert np.isnan(test.p).all()
    other, _ = robust_errors_of("ordinary", model, np.eye(3)[1:2], sample)
    assert np.isfinite(wald_test(model, np.eye(3)[1:2], other).p).all()
    # The draws of such a coefficient have the error that the other scans tell, not none.
    assert (model.draws[:, 2].std(axis=0) > 0.3 * np.sqrt(model.xtx_inverse[2, 2] * model.residual_variance)).all()
    sandwich = robust_sandwich(sample, np.linalg.qr(x)[0], hc3=False)
    assert sandwich is not None
    assert sandwich.fitted.shape == (41, 1)


def test_too_many_columns_for_the_participants_are_refused_in_words() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(5), 6)
    x = np.column_stack([np.ones(30), rng.normal(size=(5, 3))[codes]])
    sample = sample_of(x, rng.normal(size=(30, 4)), [str(i) for i in codes])
    model, contrast = fit_image(sample, seed=0), np.eye(4)[1:]
    test = wald_test(model, contrast, robust_errors_of("ordinary", model, contrast, sample)[0])
    assert test.reason == "there are too few participants to test 3 columns together"
    assert np.isfinite(partial_r2(model, contrast)).all()


def test_digits_survive_a_design_that_barely_passes_the_rank_check() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 2))
    x = np.column_stack([np.ones(60), base[:, 0], base[:, 0] + 1e-7 * base[:, 1]])
    clean = np.column_stack([np.ones(60), base])
    z = rng.normal(size=(60, 20)) + base[:, 1:] / 2
    ids = [str(i) for i in range(60)]
    f = wald_test(fit_image(sample_of(x, z, ids), seed=0), np.eye(3)[1:])
    expected = wald_test(fit_image(sample_of(clean, z, ids), seed=0), np.eye(3)[1:])
    np.testing.assert_allclose(f.statistic, expected.statistic, rtol=1e-7)
