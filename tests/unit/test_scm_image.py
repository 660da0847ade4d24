"""The image node: equal to statsmodels column by column, fitted on the given rows only, honest in its draws."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from numpy.typing import ArrayLike

from brainscm.config import ImageOptions
from brainscm.scm import image as image_module
from brainscm.scm import sample as sample_module
from brainscm.scm.design import Array
from brainscm.scm.image import ImageModel, fit_image
from brainscm.scm.inference import (
    WaldTest,
    benjamini_hochberg,
    partial_r2,
    robust_errors_of,
    standardised_effect,
    two_sided_p,
    wald_test,
)
from brainscm.scm.sample import Sample

SHAPE = (2, 3, 2)


def plain(rng: np.random.Generator) -> Array:
    return np.column_stack([np.ones(50), rng.normal(size=(50, 4))])


def ill_conditioned(rng: np.random.Generator) -> Array:
    year = 2000 + rng.uniform(0, 1, 50)
    almost = 1e3 * (year - 2000) + rng.normal(0, 1, 50)
    return np.column_stack([np.ones(50), year, almost, rng.normal(size=(50, 2))])


def latents_of(x: Array, rng: np.random.Generator) -> Array:
    standard = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    b = rng.normal(size=(x.shape[1], 12))
    return (1000 + standard @ b + rng.normal(size=(len(x), 12))).reshape(len(x), *SHAPE)


def fit(x: Array, latents: Array, clusters: list[str] | None = None, seed: int = 0) -> ImageModel:
    return fit_image(sample_of(x, latents, clusters), seed=seed)


def sample_of(x: Array, latents: Array, participants: Sequence[str] | None = None) -> Sample:
    """One scan a participant, unless they are named."""
    own = participants or [str(i) for i in range(len(x))]
    return Sample.of(x, [f"x{i}" for i in range(x.shape[1])], latents, own)


def assert_same_p(ours: ArrayLike, theirs: ArrayLike) -> None:
    """To eight digits behind the point, and small ones to seven of their own."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
    np.testing.assert_allclose(ours, theirs, rtol=1e-7)


@pytest.fixture(params=[plain, ill_conditioned])
def design(request: pytest.FixtureRequest) -> Callable[[np.random.Generator], Array]:
    return request.param


def test_equals_statsmodels_column_by_column(design: Callable[[np.random.Generator], Array]) -> None:
    rng = np.random.default_rng(0)
    x = design(rng)
    latents = latents_of(x, rng)
    model = fit(x, latents)
    tests = [wald_test(model, row[None]) for row in np.eye(5)]
    joint = wald_test(model, np.eye(5)[1:4])
    q, r = np.linalg.qr(x)
    for column, y in enumerate(latents.reshape(50, -1).T):
        peer = sm.OLS(y, x).fit()
        flat = np.unravel_index(column, SHAPE)
        np.testing.assert_allclose(model.coefficients[(slice(None), *flat)], peer.params, rtol=1e-8)
        bse = np.sqrt(np.diag(model.xtx_inverse) * model.residual_variance[flat])
        np.testing.assert_allclose(bse, peer.bse, rtol=1e-8)
        np.testing.assert_allclose([t.statistic[column] for t in tests], peer.tvalues, rtol=1e-8)
        assert_same_p([t.p[column] for t in tests], peer.pvalues)
        # The peer's own F loses digits on an ill-conditioned design; of the same columns, orthonormal, it loses none.
        f = sm.OLS(y, q).fit().f_test(np.eye(5)[1:4] @ np.linalg.inv(r))
        np.testing.assert_allclose(joint.statistic[column], f.fvalue, rtol=1e-8)
        assert_same_p(joint.p[column], f.pvalue)
    assert model.degrees_of_freedom == 45
    np.testing.assert_allclose(model.max_leverage, sm.OLS(y, x).fit().get_influence().hat_matrix_diag.max(), rtol=1e-8)


def robust_test(model: ImageModel, c: Array, sample: Sample, errors: str = "ordinary") -> WaldTest:
    return wald_test(model, c, robust_errors_of(errors, model, c, sample)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("block_bytes", [1, 12 * 8 * 7, 2**20])
def test_clustered_errors_are_the_same_however_the_stream_is_cut(
    block_bytes: int, design: Callable[[np.random.Generator], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    x = design(rng)
    participants = [f"p{i}" for i in rng.integers(0, 20, 50)]
    latents, c = latents_of(x, rng), np.eye(5)[1:3]
    model, sample = fit(x, latents, participants), sample_of(x, latents, participants)
    whole = [robust_test(model, each, sample).statistic for each in (c, c[:1])]
    monkeypatch.setattr(sample_module, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(sample_module, "MIN_BLOCK_ROWS", 1)
    monkeypatch.setattr(sample_module, "MIN_TILE_LATENTS", 5)
    monkeypatch.setattr(sample_module, "TILE_BYTES", 1)
    for each, expected in zip((c, c[:1]), whole, strict=True):
        np.testing.assert_allclose(robust_test(model, each, sample).statistic, expected, rtol=1e-8)


def test_hc3_equals_statsmodels(design: Callable[[np.random.Generator], Array]) -> None:
    rng = np.random.default_rng(2)
    x = design(rng)
    latents = latents_of(x, rng) * np.exp(rng.normal(size=(50, 1, 1, 1)))
    model, c, sample = fit(x, latents), np.eye(5)[1:3], sample_of(x, latents)
    single = robust_test(model, c[:1], sample, "hc3")
    # The peer's own products lose digits on an ill-conditioned design; the same columns, orthonormal, lose none.
    q, r = np.linalg.qr(x)
    turned = c @ np.linalg.inv(r)
    for column, y in enumerate(latents.reshape(50, -1).T):
        peer = sm.OLS(y, q).fit(cov_type="HC3", use_t=True)
        np.testing.assert_allclose(single.statistic[column], peer.t_test(turned[:1]).tvalue.item(), rtol=1e-8)
        np.testing.assert_allclose(single.standard_error[column], peer.t_test(c[:1] @ np.linalg.inv(r)).sd.item())


def test_reads_no_row_but_the_given_ones() -> None:
    rng = np.random.default_rng(0)
    x = plain(rng)
    latents = latents_of(x, rng)

    class Guarded:
        def __getitem__(self, index: int) -> Array:
            assert index % 2 == 0, "a row of another split was read"
            return latents[index]

    rows = list(range(0, 50, 2))
    ids = [str(i) for i in rows]
    guarded = fit_image(Sample(x[rows], ["x"] * 5, Guarded(), rows, ids, ids), seed=0)
    np.testing.assert_array_equal(guarded.coefficients, fit(x[rows], latents[rows], seed=0).coefficients)


def test_scans_taken_of_a_sample_keep_their_owners() -> None:
    x = np.arange(6.0).reshape(3, 2)
    sample = Sample(x, ["a", "b"], np.arange(10.0)[:, None], [7, 2, 5], ["p1", "p2", "p1"], ["0", "1", "2"])
    taken = sample.take(np.array([2, 0]))
    np.testing.assert_array_equal(taken.x, x[[2, 0]])
    assert (taken.rows, taken.participants, taken.clusters) == ([5, 7], ["p1", "p1"], ["2", "0"])
    assert taken.first() == 5
    assert (sample.is_repeated, sample.is_clustered) == (True, False)


def test_block_size_and_order_of_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = plain(rng)
    latents = latents_of(x, rng)
    whole = fit(x, latents)
    monkeypatch.setattr(sample_module, "BLOCK_BYTES", 1)
    monkeypatch.setattr(sample_module, "MIN_BLOCK_ROWS", 1)
    monkeypatch.setattr(sample_module, "MIN_TILE_LATENTS", 5)
    monkeypatch.setattr(sample_module, "TILE_BYTES", 1)
    order = rng.permutation(50)
    cut = fit(x[order], latents[order])
    np.testing.assert_allclose(cut.coefficients, whole.coefficients, rtol=1e-10)
    np.testing.assert_allclose(cut.residual_variance, whole.residual_variance, rtol=1e-10)
    np.testing.assert_allclose(fit(x, latents).draws, whole.draws, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("participants", [None, [f"p{i // 2}" for i in range(50)]])
def test_draws_have_the_coefficients_sampling_covariance(
    participants: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "DRAWS", 3000)
    rng = np.random.default_rng(0)
    x = plain(rng)
    x[:, 2] = 5 + 3 * x[:, 1] + x[:, 2]
    latents = latents_of(x, rng)
    if participants:
        latents = latents + np.repeat(rng.normal(size=(25, *SHAPE)), 2, axis=0)
    model = fit(x, latents, participants)
    steps = np.einsum("p,kp...->k...", np.array([0, 1.0, -0.5, 0, 0]), model.draws).reshape(3000, -1)
    c = np.array([[0, 1.0, -0.5, 0, 0]])
    if participants:
        expected = robust_test(model, c, sample_of(x, latents, participants)).standard_error ** 2
    else:
        expected = (c @ model.xtx_inverse @ c.T)[0, 0] * model.residual_variance.reshape(-1)
    np.testing.assert_allclose(steps.var(axis=0), expected, rtol=0.12)
    assert np.abs(steps.mean(axis=0) / np.sqrt(expected)).max() < 0.1
    # Latents that vary together must be drawn together.
    residual = (latents - model.predict(x)).reshape(50, -1)
    if not participants:
        truth = np.corrcoef(residual.T)
        np.testing.assert_allclose(np.corrcoef(steps.T), truth, atol=0.1)


def test_draws_have_hc3s_covariance_where_its_errors_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "DRAWS", 3000)
    rng = np.random.default_rng(0)
    x = plain(rng)[:24]
    latents = rng.normal(size=(24, *SHAPE)) * np.exp(0.7 * x[:, 1])[:, None, None, None]  # unequal variances
    sample = sample_of(x, latents)
    model = fit_image(sample, ImageOptions(formula="x", shrinkage="none", errors="hc3"), seed=0)
    c = np.eye(5)[1:2]
    expected = robust_test(model, c, sample, "hc3").standard_error ** 2
    np.testing.assert_allclose(model.draws[:, 1].reshape(3000, -1).var(axis=0), expected, rtol=0.12)
    ordinary = model.xtx_inverse[1, 1] * model.residual_variance.reshape(-1)
    assert (expected > 1.3 * ordinary).mean() > 0.5


def test_survives_saving(tmp_path: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(0)
    x = plain(rng)
    model = fit(x, latents_of(x, rng))
    path = tmp_path / "image_model.npz"  # type: ignore[operator]
    model.save(path)
    again = ImageModel.load(path)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(again.deviate(x, 3), model.deviate(x, 3))
    np.testing.assert_array_equal(again.leverage(x), model.leverage(x))
    assert again.degrees_of_freedom == model.degrees_of_freedom


def test_a_constant_latent_is_not_tested() -> None:
    rng = np.random.default_rng(0)
    x = plain(rng)
    latents = latents_of(x, rng)
    latents[:, 0, 0, 0] = 7.3
    model, participants, one, joint = fit(x, latents), [str(i // 2) for i in range(50)], np.eye(5)[1:2], np.eye(5)[1:4]
    paired = sample_of(x, latents, participants)
    for result in [
        f(c) for c in (one, joint) for f in (lambda c: wald_test(model, c), lambda c: robust_test(model, c, paired))
    ]:
        assert np.isnan(result.p[0])
        assert np.isnan(result.q[0])
        assert np.isfinite(result.q[1:]).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("errors", ["ordinary", "clustered", "hc3"])
def test_units_reference_levels_and_order_change_no_test(seed: int, errors: str) -> None:
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 3, 50)
    age, volume = rng.uniform(20, 80, 50), rng.lognormal(3, 0.4, 50)
    x = np.column_stack([np.ones(50), age, volume, level == 1, level == 2])
    # Days since the age of 50, litres, and level 2 for reference: the same column space.
    other = np.column_stack([np.ones(50), 365.25 * (age - 50), volume / 1000, level == 0, level == 1])
    to_other = np.linalg.lstsq(x, other, rcond=None)[0]  # other = x·to_other
    latents = latents_of(x, rng)
    participants = [f"p{i}" for i in (rng.integers(0, 25, 50) if errors == "clustered" else range(50))]
    order = rng.permutation(50)

    def found(x: Array, latents: Array, participants: list[str], c: Array) -> tuple[ImageModel, WaldTest]:
        model, sample = fit(x, latents, participants), sample_of(x, latents, participants)
        return model, robust_test(model, c, sample, "hc3" if errors == "hc3" else "ordinary")

    for c in (np.eye(5)[1:2], np.eye(5)[3:5], rng.normal(size=(1, 5))):
        model, test = found(x, latents, participants, c)
        mapped, again = found(other[order], latents[order], [participants[i] for i in order], c @ to_other)
        np.testing.assert_allclose(
            to_other @ mapped.coefficients.reshape(5, -1), model.coefficients.reshape(5, -1), rtol=1e-7, atol=1e-8
        )
        np.testing.assert_allclose(again.statistic, test.statistic, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(again.p, test.p, rtol=1e-6)


@pytest.mark.parametrize("freedom", [1, 4, 45, 100_000])
def test_p_is_that_of_students_t_however_large_t_is(freedom: int) -> None:
    t = np.concatenate([np.linspace(-45, 45, 9001), [0, 32, -32, 1e9, np.inf, np.nan]])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(two_sided_p(t, freedom), 2 * scipy.stats.t.sf(np.abs(t), freedom), rtol=1e-9)


def test_benjamini_hochberg_by_hand() -> None:
    p = np.array([0.04, np.nan, 0.001, 0.03, 0.5])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.16 / 3, np.nan, 0.004, 0.16 / 3, 0.5])


def test_partial_r2_is_the_share_that_the_column_adds() -> None:
    rng = np.random.default_rng(0)
    x = plain(rng)
    latents = latents_of(x, rng)
    result = partial_r2(fit(x, latents), np.eye(5)[2:4])
    y = latents.reshape(50, -1)[:, 5]
    full, reduced = sm.OLS(y, x).fit().ssr, sm.OLS(y, x[:, [0, 1, 4]]).fit().ssr
    np.testing.assert_allclose(result[5], (reduced - full) / reduced)


def test_standardised_effect_is_the_difference_of_groups_over_their_pooled_deviation() -> None:
    rng = np.random.default_rng(0)
    sick = np.arange(50) % 2 == 1
    latents = latents_of(np.column_stack([np.ones(50), sick]), rng)
    y = latents.reshape(50, -1)
    found = standardised_effect(fit(np.column_stack([np.ones(50), sick]), latents), np.array([[0, 1.0]]))
    pooled = np.sqrt((y[sick].var(axis=0, ddof=1) + y[~sick].var(axis=0, ddof=1)) / 2)
    np.testing.assert_allclose(found[1], (y[sick].mean(axis=0) - y[~sick].mean(axis=0))[1] / pooled[1])
    assert abs(found[1]) > 0.1
