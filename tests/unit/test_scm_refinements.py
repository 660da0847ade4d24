"""Refinements of the image node, each behind one key: shrinkage, low rank, smooth maps, weights of scans."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import statsmodels.api as sm
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from brainscm.config import ImageOptions, ScmOptions
from brainscm.encoding.layout import Layout, Mirror
from brainscm.errors import ConfigError
from brainscm.scm import image as image_module
from brainscm.scm.design import Array
from brainscm.scm.diagnostics import diagnose, held_out
from brainscm.scm.graph import check_graph
from brainscm.scm.image import ImageModel, fit_image
from brainscm.scm.inference import contrast_tests, wald_test
from brainscm.scm.model import Scm, load_scm
from brainscm.scm.sample import Sample
from brainscm.scm.shrinkage import PENALTIES
from brainscm.scm.weighting import Weighting, random_intercept, variance_by

SHAPE = (2, 3, 4, 2)
LARGE = (4, 6, 6, 6)


def options(**fields: Any) -> ImageOptions:
    return ImageOptions.model_validate({"formula": "age", **fields})


def sample(n: int = 60, p: int = 6, seed: int = 0, noise: float = 1.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), 50 + 10 * rng.normal(size=n), rng.normal(size=(n, p - 2))])
    b = rng.normal(size=(p, *SHAPE)) * 0.3
    return x, 20 + np.tensordot(x / x.std(axis=0).clip(1), b, axes=1) + noise * rng.normal(size=(n, *SHAPE))


def fit(x: Array, z: Array, chosen: ImageOptions | None = None) -> ImageModel:
    return fit_image(sample_of(x, z), chosen, seed=0)


def sample_of(x: Array, z: Array, participants: Sequence[str] | None = None) -> Sample:
    """One scan a participant, unless they are named."""
    own = participants or [str(i) for i in range(len(x))]
    return Sample.of(x, [f"x{i}" for i in range(x.shape[1])], z, own)


def test_ridge_is_ridge_and_its_penalty_minimises_generalised_cross_validation() -> None:
    x, z = sample(n=24, p=12, noise=2)
    model = fit(x, z, options(shrinkage="ridge"))
    flat = z.reshape(len(x), -1)
    standard = (x[:, 1:] - x[:, 1:].mean(axis=0)) / x[:, 1:].std(axis=0)
    top = np.linalg.svd(standard)[1][0] ** 2

    def gcv(penalty: float) -> float:
        centred = flat - flat.mean(axis=0)
        hat = standard @ np.linalg.solve(standard.T @ standard + penalty * np.eye(11), standard.T)
        return len(x) * np.square(centred - hat @ centred).sum() / (len(x) - 1 - np.trace(hat)) ** 2

    scores = [gcv(penalty) for penalty in PENALTIES * top]
    assert model.penalty == pytest.approx(PENALTIES[np.argmin(scores)] * top)
    assert 0 < model.penalty < PENALTIES[-1] * top
    peer = Ridge(alpha=model.penalty).fit(standard, flat)
    np.testing.assert_allclose(model.predict(x).reshape(len(x), -1), peer.predict(standard), rtol=1e-8)
    slopes = (peer.coef_ / x[:, 1:].std(axis=0)).T
    np.testing.assert_allclose(model.coefficients[1:].reshape(11, -1), slopes, rtol=1e-7, atol=1e-10)
    plain = fit(x, z)
    assert model.estimator == "ridge"
    np.testing.assert_array_equal(model.residual_variance, plain.residual_variance)


def test_ridge_predicts_new_participants_better_where_the_design_is_rich_and_leaves_a_good_fit_alone() -> None:
    x, z = sample(n=400, p=16, noise=4)
    rich, new = slice(0, 24), slice(24, 400)
    shrunk, plain = fit(x[rich], z[rich], options(shrinkage="ridge")), fit(x[rich], z[rich])
    errors = [np.square(z[new] - model.predict(x[new])).mean() for model in (shrunk, plain)]
    assert errors[0] < 0.8 * errors[1]
    x, z = sample(n=400, p=4, noise=0.01)
    np.testing.assert_allclose(
        fit(x, z, options(shrinkage="ridge")).coefficients, fit(x, z).coefficients, rtol=0.05, atol=1e-3
    )


def test_shrinkage_by_component_keeps_one_cause_and_drops_noise() -> None:
    """Twelve columns, one of which moves the latent: the others' estimates are noise."""
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(60), rng.normal(size=(60, 11))])
    truth = np.zeros((12, *LARGE))
    truth[4] = rng.normal(size=LARGE) * 0.5
    z = np.tensordot(x, truth, axes=1) + rng.normal(size=(60, *LARGE))
    errors = {
        kind: np.square(fit(x, z, options(shrinkage=kind)).coefficients - truth)[1:].mean()
        for kind in ("by_component", "ridge", "none")
    }
    assert errors["by_component"] < 0.35 * errors["none"]
    assert errors["by_component"] < 0.5 * errors["ridge"]
    pure = fit(x, rng.normal(size=(60, *LARGE)), options())
    assert not pure.coefficients[1:].any()
    np.testing.assert_allclose(fit(x, z, options()).predict(x).mean(axis=0), z.mean(axis=0), atol=1e-10)


def test_shrinkage_by_component_leaves_a_clear_effect_alone() -> None:
    x, z = sample(n=400, p=4, noise=0.01)
    shrunk, plain = fit(x, z, options()), fit(x, z)
    assert shrunk.estimator == "shrinkage by component"
    np.testing.assert_allclose(shrunk.coefficients, plain.coefficients, rtol=0.01, atol=1e-3)
    np.testing.assert_array_equal(shrunk.residual_variance, plain.residual_variance)


def test_correlated_noise_is_not_taken_for_an_effect() -> None:
    """Noise of one smooth pattern has few independent latents; what looks like an effect is within its reach."""
    rng = np.random.default_rng(5)
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 6))])
    kept = 0
    for _ in range(20):
        patterns = rng.normal(size=(3, *LARGE))
        z = np.tensordot(rng.normal(size=(40, 3)), patterns, axes=1) + 0.1 * rng.normal(size=(40, *LARGE))
        kept += fit(x, z, options()).coefficients[1:].any()
    assert kept <= 5


def test_each_part_of_the_latent_is_shrunk_by_its_own_noise() -> None:
    rng = np.random.default_rng(7)
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 3))])
    effect = rng.normal(size=LARGE)
    noise = np.ones(LARGE)
    noise[1:] = 6.0  # channel 0 is quiet, the others are loud
    z = x[:, 1, None, None, None, None] * effect + noise * rng.normal(size=(40, *LARGE))

    def kept(layout: Layout | None) -> Array:
        model = fit_image(sample_of(x, z), options(), layout, seed=0)
        found, plain = (each.coefficients[1].reshape(LARGE[0], -1) for each in (model, fit(x, z)))
        return np.einsum("cl,cl->c", found, plain) / np.einsum("cl,cl->c", plain, plain)

    apart, together = kept(Layout((1, LARGE[0] - 1))), kept(None)
    assert apart[0] > 0.85
    assert apart[1] < 0.7
    assert together.max() < 0.6  # the loud channels drown the quiet one


def test_a_part_in_which_nothing_stands_out_by_itself_is_dropped_whole() -> None:
    kept = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = np.column_stack([np.ones(60), rng.normal(size=(60, 3))])
        z = rng.normal(size=(60, *LARGE))
        z[:, :2] += x[:, 1, None, None, None, None] * rng.normal(size=(2, *LARGE[1:]))
        found = fit_image(sample_of(x, z), options(), Layout((2, 2)), seed=0).coefficients
        assert found[1:, :2].any()
        kept += bool(found[1:, 2:].any())
    assert kept <= 1


@pytest.mark.parametrize(
    "chosen", [{}, {"shrinkage": "ridge"}, {"shrinkage": "none", "rank": 1}, {"smoothing_voxels": 1}]
)
def test_draws_lie_about_least_squares_whatever_is_shown(chosen: dict[str, Any]) -> None:
    x, z = sample(n=30, noise=4)
    model, plain = fit(x, z, options(**chosen)), fit(x, z)
    np.testing.assert_allclose(model.draws, plain.draws + (plain.coefficients - model.coefficients), atol=1e-4)
    assert not np.allclose(model.coefficients, plain.coefficients, atol=0.01)


@pytest.mark.parametrize("strength", [0.0, 0.15, 0.4, 1.0])
def test_intervals_hold_effects_that_shrinkage_made_small(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown ± the root mean square distance of the draws, whether an effect was kept, made small, or dropped."""
    monkeypatch.setattr(image_module, "DRAWS", 60)
    rng = np.random.default_rng(2)
    covered, strongest = [], []
    for _ in range(4):
        x = np.column_stack([np.ones(30), rng.normal(size=(30, 3))])
        effect = np.zeros((4, *LARGE))
        effect[1] = strength * rng.normal(size=LARGE) * (np.arange(LARGE[1]) < 3)[:, None, None]
        z = np.tensordot(x, effect, axes=1) + rng.normal(size=(30, *LARGE))
        model = fit(x, z, options())
        half = scipy.stats.t.ppf(0.975, 26) * np.sqrt(np.square(model.draws[:, 1]).mean(axis=0))
        covered.append(np.abs(model.coefficients[1] - effect[1]) < half)
        strongest.append(np.abs(effect[1]) > np.quantile(np.abs(effect[1]), 0.9))
    assert np.mean(covered) > 0.94
    if strength:
        assert np.mean(np.array(covered)[np.array(strongest)]) > 0.92


def test_an_effect_is_kept_where_it_acts_and_dropped_elsewhere() -> None:
    rng = np.random.default_rng(11)
    lattice = (12, 12, 12)
    x = np.column_stack([np.ones(60), rng.normal(size=(60, 3))])
    effect = np.zeros((4, *lattice))
    effect[:, :4, :4, :4] = rng.normal(size=(4, 4, 4, 4))
    z = x[:, 1, None, None, None, None] * effect + rng.normal(size=(60, 4, *lattice))
    shares = fit(x, z, options()).coefficients[1] / fit(x, z).coefficients[1]
    assert shares[:, :3, :3, :3].mean() > 0.8
    assert abs(shares[:, 8:, 8:, 8:]).mean() < 0.3  # a window reaches as far


def test_a_cause_that_is_held_moves_nothing_where_it_acts_alone() -> None:
    """Age acts in one place, its mediator in another; with the mediator held, age leaves the mediator's place alone."""
    rng = np.random.default_rng(17)
    lattice = (12, 12, 12)
    age = rng.normal(size=100)
    mediator = 0.8 * age + 0.6 * rng.normal(size=100)
    x = np.column_stack([np.ones(100), age, mediator, rng.normal(size=(100, 3))])
    truth = np.zeros((6, 4, *lattice))
    truth[1, :, :4] = 0.3 * rng.normal(size=(4, 4, 12, 12))
    truth[2, :, 8:] = rng.normal(size=(4, 4, 12, 12))
    found = fit(x, np.tensordot(x, truth, axes=1) + rng.normal(size=(100, 4, *lattice)), options()).coefficients

    def slope(found: Array, truth: Array) -> float:
        return float((found * truth).sum() / np.square(truth).sum())

    assert slope(found[1, :, 9:], truth[2, :, 9:]) == pytest.approx(0, abs=0.02)
    assert slope(found[2, :, 9:], truth[2, :, 9:]) > 0.9
    assert slope(found[1, :, :3], truth[1, :, :3]) > 0.6


MIRROR = Mirror([1, 0], [-1, -1])  # of the first two channels, which change places and signs


def fit_with(mirror: Mirror | None, x: Array, z: Array) -> ImageModel:
    return fit_image(sample_of(x, z), options(), Layout((2, z.shape[1] - 2), mirror), seed=0)


def test_what_left_and_right_share_is_estimated_from_both() -> None:
    rng = np.random.default_rng(23)
    lattice, n = (8, 6, 6), 60
    x = np.column_stack([np.ones(n), rng.normal(size=(n, 6))])
    half = rng.normal(size=(1, 3, *lattice)) * 0.2
    truth = np.concatenate([half[:, :2] + MIRROR.image(half), half[:, 2:]], axis=1)
    z = x[:, 1, None, None, None, None] * truth + rng.normal(size=(n, 3, *lattice))
    with_mirror, without = fit_with(MIRROR, x, z), fit_with(None, x, z)
    assert (with_mirror.sides, without.sides) == ("match", "")
    errors = [np.square(model.coefficients[1] - truth)[:, :2].mean() for model in (with_mirror, without)]
    assert errors[0] < 0.7 * errors[1]
    np.testing.assert_allclose(MIRROR.image(with_mirror.coefficients[1:]), with_mirror.coefficients[1:, :2], atol=1e-12)
    # The mean participant is as asymmetric as participants are.
    np.testing.assert_allclose(with_mirror.predict(x).mean(axis=0), z.mean(axis=0), atol=1e-10)


def test_an_effect_on_one_side_stays_there() -> None:
    rng = np.random.default_rng(29)
    lattice, n = (8, 6, 6), 100
    x = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])
    truth = rng.normal(size=(3, *lattice))
    truth[:, 4:] = 0
    z = x[:, 1, None, None, None, None] * truth + rng.normal(size=(n, 3, *lattice))
    model = fit_with(MIRROR, x, z)
    assert model.sides == "differ"
    found = model.coefficients[1, :2]
    np.testing.assert_allclose((found * truth[:2]).sum() / np.square(truth[:2]).sum(), 1, atol=0.06)
    other_side = MIRROR.image(truth[None])[0]
    assert abs((found * other_side).sum() / np.square(other_side).sum()) < 0.05


def test_repeated_scans_are_not_taken_for_more_participants() -> None:
    """Three scans a participant, which hardly differ: what chance gives to so few participants is no effect."""
    rng = np.random.default_rng(13)
    participants = np.repeat(np.arange(20), 3)
    kept = 0
    for _ in range(10):
        x = np.column_stack([np.ones(60), rng.normal(size=(20, 4))[participants]])
        z = rng.normal(size=(20, *LARGE))[participants] + 0.1 * rng.normal(size=(60, *LARGE))
        model = fit_image(sample_of(x, z, [str(i) for i in participants]), options(), seed=0)
        kept += bool(model.coefficients[1:].any())
    assert kept <= 3


def test_units_do_not_matter_to_any_shrinkage() -> None:
    x, z = sample(n=24, p=8, noise=2)
    other = x * np.array([1, 365.25, *[0.001] * 6])
    for chosen in (options(shrinkage="ridge"), options(shrinkage="none", rank=2), options()):
        mine, theirs = fit(x, z, chosen), fit(other, z, chosen)
        np.testing.assert_allclose(theirs.predict(other), mine.predict(x), rtol=1e-7)


def test_low_rank_is_the_best_fit_of_its_rank() -> None:
    x, z = sample()
    model, plain = fit(x, z, options(shrinkage="none", rank=2)), fit(x, z)
    slopes = model.coefficients[1:].reshape(5, -1)
    assert np.linalg.matrix_rank(slopes, tol=1e-8) == 2
    # Eckart-Young: no other fit of rank 2 is nearer to the full one.
    full = (plain.predict(x) - plain.predict(x).mean(axis=0)).reshape(len(x), -1)
    u, s, vt = np.linalg.svd(full, full_matrices=False)
    centred = (model.predict(x) - model.predict(x).mean(axis=0)).reshape(len(x), -1)
    np.testing.assert_allclose(centred, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-9)
    np.testing.assert_allclose(model.predict(x).mean(axis=0), z.mean(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(fit(x, z, options(shrinkage="none", rank=5)).coefficients, plain.coefficients)


def test_smoothing_smooths_each_map_and_keeps_the_mean_brain() -> None:
    x, z = sample()
    model, plain = fit(x, z, options(shrinkage="none", smoothing_voxels=0.7)), fit(x, z)
    for row in range(1, 6):
        for channel in range(SHAPE[0]):
            expected = scipy.ndimage.gaussian_filter(plain.coefficients[row, channel], 0.7, mode="nearest")
            np.testing.assert_allclose(model.coefficients[row, channel], expected)
    np.testing.assert_allclose(model.predict(x).mean(axis=0), z.mean(axis=0), rtol=1e-10)


def scm_options(image: dict[str, Any] | None = None, **fields: Any) -> ScmOptions:
    return ScmOptions.model_validate(
        {
            "nodes": {"age": {}, "site": {}},
            "image": {"formula": "age + site", "shrinkage": "none", **(image or {})},
            "contrasts": {"ageing": {"age": [50, 80]}},
            "permutations": 0,
            **fields,
        }
    )


def cohort(n: int = 90, scans: int = 1, seed: int = 0) -> tuple[pd.DataFrame, Array]:
    """Participants with `scans` scans each, ten years apart; every fifth validates. Site B is three times as noisy."""
    rng = np.random.default_rng(seed)
    age, site = rng.uniform(30, 70, n), rng.choice(["A", "B"], n)
    participant = rng.normal(size=(n, *SHAPE))
    who = np.repeat(np.arange(n), scans)
    years = np.tile(np.arange(scans) * 10.0, n)
    noise = rng.normal(size=(n * scans, *SHAPE)) * np.where(site[who] == "B", 3.0, 1.0)[:, None, None, None, None]
    slope = rng.normal(size=SHAPE) * 0.05
    z = participant[who] * (2 if scans > 1 else 0) + np.multiply.outer(age[who] + years, slope) + noise
    table = pd.DataFrame(
        {
            "scan": [f"sub-{i}_ses-{j}" for i in range(n) for j in range(scans)],
            "participant": [f"sub-{i}" for i in who],
            "split": np.where(who % 5 == 0, "validation", "train"),
            "age": age[who] + years,
            "site": site[who],
        }
    )
    return table, z


def train_rows(table: pd.DataFrame) -> list[int]:
    return np.flatnonzero(table["split"] == "train").tolist()


def test_variances_by_group_are_found_and_weigh_the_scans() -> None:
    table, z = cohort()
    scm = Scm.fit(table, z, scm_options({"variance_by": "site"}), seed=1)
    found = diagnose(scm, 72).set_index(["check", "item"])["value"]
    ratio = found["residual_variance_ratio", "site=B"] / found["residual_variance_ratio", "site=A"]
    assert ratio == pytest.approx(9, rel=0.15)
    rows = train_rows(table)
    x, weights = scm.design_matrix(table.iloc[rows]), scm.image.row_scale**2
    for column in range(5):
        peer = sm.WLS(z[rows].reshape(len(rows), -1)[:, column], x, weights=weights).fit()
        np.testing.assert_allclose(scm.image.coefficients.reshape(3, -1)[:, column], peer.params, rtol=1e-8)
        bse = np.sqrt(np.diag(scm.image.xtx_inverse) * scm.image.residual_variance.reshape(-1)[column])
        np.testing.assert_allclose(bse, peer.bse, rtol=1e-8)
    assert scm.image.max_leverage == pytest.approx(scm.image.leverage(x).max())
    # The mean participant is that of the scans, however they weigh.
    np.testing.assert_allclose(scm.image.mean, scm.image.predict(x).mean(axis=0))


def test_a_random_intercept_is_generalised_least_squares_with_the_true_ratio() -> None:
    table, z = cohort(n=120, scans=3)
    declared = scm_options({"repeated": "random_intercept"})
    scm = Scm.fit(table, z, declared, seed=1)
    found = diagnose(scm, 288).set_index(["check", "item"])
    rows = train_rows(table)
    correlation = found.loc[("within_participant_correlation", "image"), "value"]
    shares = (table.iloc[rows]["site"] == "B").mean()
    assert correlation == pytest.approx(4 / (4 + 1 + 8 * shares), abs=0.05)
    assert "random intercept" in found.loc[("training_participants", "used"), "warning"]
    x = scm.design_matrix(table.iloc[rows])
    participants = pd.factorize(table.iloc[rows]["participant"])[0]
    covariance = (participants[:, None] == participants) * correlation + np.eye(len(rows)) * (1 - correlation)
    for column in (0, 7):
        peer = sm.GLS(z[rows].reshape(len(rows), -1)[:, column], x, sigma=covariance).fit()
        np.testing.assert_allclose(scm.image.coefficients.reshape(3, -1)[:, column], peer.params, rtol=1e-7)
        np.testing.assert_allclose(
            np.sqrt(np.diag(scm.image.xtx_inverse) * scm.image.residual_variance.reshape(-1)[column]),
            peer.bse,
            rtol=1e-7,
        )
    tests = contrast_tests(scm, scm.sample(z, rows)).set_index("effect")
    assert tests.loc["total", "errors"] == "random intercept"
    row = np.array([0, 0, 30.0]) if scm.design.columns[2] == "age" else np.array([0, 30.0, 0])
    peers = [sm.GLS(y, x, sigma=covariance).fit().t_test(row).tvalue for y in z[rows].reshape(len(rows), -1).T]
    assert tests.loc["total", "max_abs_statistic"] == pytest.approx(float(np.abs(peers).max()), rel=1e-7)


def test_a_random_intercept_weighs_a_single_scan_less_than_one_of_several() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(60), np.arange(60) % 3 + 1)  # one, two or three scans
    n = len(codes)
    x = np.column_stack([np.ones(n), rng.normal(size=60)[codes] + 0.5 * rng.normal(size=n)])
    z = 2 * rng.normal(size=(60, 50))[codes] + rng.normal(size=(n, 50))
    sample = sample_of(x, z, [str(code) for code in codes])
    weighting = random_intercept(sample)
    model = fit_image(weighting.apply(sample), seed=0)
    ratio = ((1 - weighting.demean[1]) ** -2 - 1) / 2  # σ_a² / σ_e², of a participant with two scans
    covariance = (codes[:, None] == codes) * ratio + np.eye(n)
    for column in (0, 7):
        peer = sm.GLS(z[:, column], x, sigma=covariance).fit()
        np.testing.assert_allclose(model.coefficients[:, column], peer.params, rtol=1e-7)
        error = np.sqrt(np.diag(model.xtx_inverse) * model.residual_variance[column])
        np.testing.assert_allclose(error, peer.bse, rtol=1e-7)


def test_a_random_intercept_agrees_with_a_mixed_model() -> None:
    """One to five scans of sixty participants; the variances of the one are by moments, of the other by REML."""
    rng = np.random.default_rng(7)
    codes = np.repeat(np.arange(60), np.arange(60) % 5 + 1)
    sex, time = rng.integers(0, 2, 60)[codes], rng.normal(size=len(codes))
    x = np.column_stack([np.ones(len(codes)), sex, time])
    z = 0.5 * sex + 0.2 * time + 1.2 * rng.normal(size=60)[codes] + rng.normal(size=len(codes))
    sample = sample_of(x, z[:, None], [str(code) for code in codes])
    model = fit_image(random_intercept(sample).apply(sample), seed=0)
    peer = sm.MixedLM(z, x, groups=codes).fit(reml=True)
    error = np.sqrt(np.diag(model.xtx_inverse) * model.residual_variance)
    np.testing.assert_allclose(error, peer.bse_fe, rtol=0.05)
    assert (np.abs(model.coefficients[:, 0] - peer.fe_params) < 0.1 * peer.bse_fe).all()
    ignoring = fit_image(sample, seed=0).coefficients[1, 0]
    assert abs(ignoring - peer.fe_params[1]) > 3 * abs(model.coefficients[1, 0] - peer.fe_params[1])


def test_a_random_intercept_keeps_the_level_of_time_where_few_came_twice() -> None:
    rng = np.random.default_rng(0)
    codes = np.append(np.arange(100), np.arange(10))  # 90 singles and 10 pairs
    time = np.append(np.zeros(100), rng.uniform(1, 3, 10))
    x = np.column_stack([np.ones(110), rng.normal(size=100)[codes], time])
    z = 1.5 * rng.normal(size=(100, 3000))[codes] + rng.normal(size=(110, 3000))
    sample = sample_of(x, z, [str(code) for code in codes])
    model = fit_image(random_intercept(sample).apply(sample), seed=0, drawn=False)
    assert (wald_test(model, np.eye(3)[2:]).p < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_without_shared_variance_a_random_intercept_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    x, participants = sample(n=40)[0], [f"p{i // 2}" for i in range(40)]
    pairs = rng.normal(size=(20, 50))
    z = np.stack([pairs, -pairs], axis=1).reshape(40, 50)  # a participant's scans are opposites
    weighting = random_intercept(sample_of(x, z, participants))
    np.testing.assert_array_equal(weighting.rows(x), x)
    assert not weighting.demean.any()


def test_weights_apply_to_a_scan_alone_as_among_others() -> None:
    z = sample(n=40)[1]
    codes = np.repeat(np.arange(20), 2)
    weighting = Weighting(np.linspace(1, 2, 40), np.full(40, 0.3), codes)
    rows = np.random.default_rng(0).permutation(60)[:40].tolist()
    store = np.zeros((60, *SHAPE))
    store[rows] = z
    own = [str(code) for code in codes]
    weighted = weighting.apply(Sample(np.ones((40, 1)), ["1"], store, rows, own, own))
    flat = weighting.rows(z.reshape(40, -1))
    for i in (0, 39, 1, 17):
        np.testing.assert_allclose(weighted.latents[weighted.rows[i]].reshape(-1), flat[i], rtol=1e-12)


def test_equal_groups_get_equal_weights() -> None:
    rng = np.random.default_rng(0)
    x, z = sample(n=300)[0], rng.normal(size=(300, 200))
    scale = variance_by(sample_of(x, z), rng.choice(["A", "B"], 300).tolist()).scale
    np.testing.assert_allclose(scale, 1, atol=0.03)


REFINED = [
    {"shrinkage": "by_component"},
    {"shrinkage": "ridge"},
    {"shrinkage": "none", "rank": 1},
    {"shrinkage": "none", "smoothing_voxels": 0.5},
    {"errors": "hc3"},
    {"variance_by": "site"},
]


@pytest.mark.parametrize("image", REFINED, ids=str)
def test_tests_are_of_least_squares_and_a_refined_model_survives_saving(image: dict[str, Any], tmp_path: Any) -> None:
    table, z = cohort(n=40)
    declared = scm_options(image)
    scm = Scm.fit(table, z, declared, seed=1)
    rows = train_rows(table)
    scm.save(tmp_path)
    loaded = load_scm(tmp_path, declared)
    np.testing.assert_array_equal(loaded.image.coefficients, scm.image.coefficients)
    assert loaded.image.estimator == scm.image.estimator
    pd.testing.assert_frame_equal(
        contrast_tests(loaded, loaded.sample(z, rows)), contrast_tests(scm, scm.sample(z, rows))
    )
    if image.keys() & {"shrinkage", "rank", "smoothing_voxels"}:
        plain = Scm.fit(table, z, scm_options(), seed=1)
        assert not np.allclose(plain.image.coefficients, scm.image.coefficients)
        pd.testing.assert_frame_equal(
            contrast_tests(plain, plain.sample(z, rows)), contrast_tests(scm, scm.sample(z, rows))
        )
    elif "errors" in image:
        assert set(contrast_tests(scm, scm.sample(z, rows))["errors"]) == {"hc3"}


def test_held_out_participants_tell_whether_the_refinement_helps() -> None:
    table, z = cohort(n=40)
    rng = np.random.default_rng(0)
    names = [f"noise{i}" for i in range(20)]
    table[names] = rng.normal(size=(40, 20))
    declared = scm_options({"formula": " + ".join(["age", "site", *names]), "shrinkage": "ridge"})
    declared.nodes |= ScmOptions.model_validate(
        {"nodes": {name: {} for name in names}, "image": {"formula": "1"}}
    ).nodes
    found = held_out(Scm.fit(table, z, declared, seed=1), table, z).set_index("item")
    assert found.loc["ridge", "value"] > found.loc["least squares", "value"]
    assert "ridge predicts 8 held-out scans better than least squares" in found.loc["ridge", "warning"]
    plain = held_out(Scm.fit(table, z, scm_options(), seed=1), table, z)
    assert plain["item"].tolist() == ["least squares"]
    x = Scm.fit(table, z, scm_options(), seed=1)
    at = (table["split"] == "validation").to_numpy()
    mean = z[train_rows(table)].mean(axis=0)
    error = np.square(z[at] - x.image.predict(x.design_matrix(table[at]))).sum()
    assert plain["value"].iloc[0] == pytest.approx(1 - error / np.square(z[at] - mean).sum())
    assert held_out(x, table.assign(split="train"), z).empty


def test_refinements_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="beside rank write shrinkage: none"):
        options(rank=2)
    with pytest.raises(ValidationError, match="choose one"):
        options(variance_by="site", repeated="random_intercept")
    with pytest.raises(ConfigError, match=r"variance_by: 'sight' is not a node; did you mean 'site'"):
        check_graph(scm_options({"variance_by": "sight"}))
    table, z = cohort(n=20)
    with pytest.raises(ConfigError, match="'age' holds numbers and groups need levels"):
        Scm.fit(table, z, scm_options({"variance_by": "age"}), seed=1)
