"""The SCM as a whole: leaks, saving, interventions, known effects recovered, support and tests."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from statsmodels.stats.outliers_influence import variance_inflation_factor

from brainscm.config import ScmOptions
from brainscm.encoding.encoder import Unaligned
from brainscm.errors import ConfigError, ScanError
from brainscm.images import Grid
from brainscm.scm.collinearity import variance_inflation
from brainscm.scm.design import Array, Design
from brainscm.scm.diagnostics import diagnose, residual_variances
from brainscm.scm.effects import effect_map, write_effect_maps
from brainscm.scm.formula import parse_formula
from brainscm.scm.image import fit_image
from brainscm.scm.inference import EFFECTS, contrast_row, contrast_tests, wald_test
from brainscm.scm.model import Scm, load_scm
from brainscm.scm.sample import Sample
from made_up_measure import measured_by

SHAPE = (2, 3, 3, 3)
SIZE = int(np.prod(SHAPE))
NODES = {
    "sex": {"levels": ["F", "M"]},
    "age": {"unit": "years"},
    "site": {},
    "diagnosis": {"levels": ["CN", "AD"], "formula": "age + sex"},
    "ventricles": {"formula": "age + sex", "family": "gaussian"},
}
IMAGE = "age + sex + diagnosis + ventricles + site"


def options(image: str = IMAGE, nodes: dict[str, Any] | None = None, **contrasts: Any) -> ScmOptions:
    contrasts = contrasts or {"ageing": {"age": [50, 80]}, "disease": {"diagnosis": ["CN", "AD"]}}
    return ScmOptions.model_validate({"nodes": nodes or NODES, "image": {"formula": image}, "contrasts": contrasts})


class Cohort:
    """A cohort whose SCM is known: age → ventricles → image, age → image, diagnosis → image."""

    def __init__(self, n: int = 300, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        age, male = rng.uniform(20, 86, n), rng.integers(0, 2, n)
        sick = (age - 65) / 10 + rng.logistic(size=n) > 0
        ventricles = 5 + 0.5 * age + 4 * male + rng.normal(0, 5, n)
        self.age_effect = rng.normal(0, 0.02, SIZE)
        self.ventricle_effect = rng.normal(0, 0.02, SIZE)
        self.disease_effect = rng.normal(0, 0.5, SIZE)
        z = 1 + np.outer(age, self.age_effect) + np.outer(ventricles, self.ventricle_effect)
        z += np.outer(sick, self.disease_effect) + rng.normal(0, 0.5, (n, SIZE))
        self.latents = z.reshape(n, *SHAPE).astype(np.float32)
        ids = [f"sub-{i:03d}" for i in range(n)]
        self.table = pd.DataFrame(
            {
                "scan": ids,
                "participant": ids,
                "split": np.where(np.arange(n) % 5 == 0, "test", "train"),
                "sex": np.array(["F", "M"])[male],
                "age": age,
                "site": rng.choice(["A", "B"], n),
                "diagnosis": np.where(sick, "AD", "CN"),
                "ventricles_ml": ventricles,
            }
        )

    def fit(self, **changes: Any) -> Scm:
        return Scm.fit(self.table, self.latents, options(**changes), seed=7)

    @property
    def test(self) -> pd.DataFrame:
        return self.table[self.table["split"] == "test"]


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort()


@pytest.fixture(scope="module")
def scm(cohort: Cohort) -> Scm:
    return cohort.fit()


SOME = np.ones((4, 4, 4), dtype=bool)  # a mask
QUESTIONS: list[dict[str, Any]] = [
    {"age": 80},
    {"age": "+10"},
    {"diagnosis": "AD"},
    {"diagnosis": "CN", "age": 70},
    {"ventricles": 60.0},
    {"site": "B"},
]


def saved(scm: Scm, folder: Path) -> dict[str, bytes]:
    scm.save(folder)
    tables = {path.name: path.read_bytes() for path in folder.glob("*.tsv")}
    for path in folder.glob("*.npz"):
        with np.load(path) as stored:
            tables |= {f"{path.name}/{key}": stored[key].tobytes() for key in stored}
    return tables


def latent_shift(scm: Scm, rows: pd.DataFrame, changed: pd.DataFrame) -> NDArray[np.float32]:
    """What an intervention adds to the latent, (n, *latent), as precisely as it is decoded."""
    return scm.image.predict(scm.design_matrix(changed) - scm.design_matrix(rows)).astype(np.float32)


def training_sample(scm: Scm, table: pd.DataFrame, latents: Array) -> Sample:
    return scm.sample(latents, np.flatnonzero(table["split"] == "train").tolist())


def test_nothing_outside_the_training_split_reaches_the_fit(cohort: Cohort, scm: Scm, tmp_path: Path) -> None:
    leaky = Cohort()
    held_out = (leaky.table["split"] != "train").to_numpy()
    leaky.latents[held_out] = 1e6
    leaky.table.loc[held_out, "age"] = 150.0
    leaky.table.loc[held_out, "ventricles_ml"] = -1e6
    leaky.table.loc[held_out, "site"] = "Z"
    leaky.table.loc[held_out, "diagnosis"] = "AD"
    assert saved(leaky.fit(), tmp_path / "leaky") == saved(scm, tmp_path / "clean")
    # The check itself sees a leak: one training value changed makes another model.
    leaky.table.loc[np.flatnonzero(~held_out)[0], "age"] += 1.0
    assert saved(leaky.fit(), tmp_path / "other") != saved(scm, tmp_path / "clean")


@pytest.mark.parametrize("do", QUESTIONS, ids=str)
@pytest.mark.parametrize("effect", ["total", "direct"])
def test_loaded_model_answers_to_the_last_bit(cohort: Cohort, tmp_path: Path, do: dict[str, Any], effect: Any) -> None:
    spline = options("cr(age, df=4) * sex + diagnosis + ventricles + site")
    scm = Scm.fit(cohort.table, cohort.latents, spline, seed=7)
    scm.save(tmp_path)
    loaded = load_scm(tmp_path, spline)
    for mine, other in [(scm, loaded), (scm.draw(3), loaded.draw(3))]:
        changed = mine.intervene(cohort.test, do, effect)
        pd.testing.assert_frame_equal(changed, other.intervene(cohort.test, do, effect), check_exact=True)
        shift = latent_shift(mine, cohort.test, changed)
        np.testing.assert_array_equal(shift, latent_shift(other, cohort.test, changed))
    pd.testing.assert_frame_equal(scm.support(changed), loaded.support(changed), check_exact=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "age + sex + diagnosis + ventricles"},
        {"nodes": {**NODES, "ventricles": {"formula": "age", "family": "gaussian"}}},
        {"nodes": {**NODES, "ventricles": {"formula": "age + sex", "family": "gamma"}}},
    ],
)
def test_a_model_is_not_loaded_under_another_graph(scm: Scm, tmp_path: Path, changes: dict[str, Any]) -> None:
    scm.save(tmp_path)
    with pytest.raises(ConfigError, match="the graph has changed since it was fitted"):
        load_scm(tmp_path, options(**changes))


@pytest.mark.parametrize("do", QUESTIONS, ids=str)
def test_a_scan_alone_is_answered_as_among_others(cohort: Cohort, scm: Scm, do: dict[str, Any]) -> None:
    together = scm.intervene(cohort.test, do)
    shift = latent_shift(scm, cohort.test, together)
    for row in (0, 13, 59):
        one = cohort.test.iloc[[row]]
        alone = scm.intervene(one, do)
        pd.testing.assert_frame_equal(alone, together.iloc[[row]], check_dtype=False, rtol=1e-12)
        np.testing.assert_allclose(latent_shift(scm, one, alone)[0], shift[row], rtol=1e-5, atol=1e-7)


def test_null_interventions_are_exact(cohort: Cohort, scm: Scm) -> None:
    for row in range(5):
        one = cohort.test.iloc[[row]]
        for do in ({"age": "+0"}, {"age": float(one["age"].iloc[0])}, {"diagnosis": one["diagnosis"].iloc[0]}):
            same = scm.intervene(one, do)
            pd.testing.assert_frame_equal(same, one, check_exact=True)
            assert not latent_shift(scm, one, same).any()


def test_total_runs_through_the_mediator_and_direct_holds_it(cohort: Cohort, scm: Scm) -> None:
    rows = cohort.test
    direct, total = scm.intervene(rows, {"age": "+20"}, "direct"), scm.intervene(rows, {"age": "+20"}, "total")
    np.testing.assert_array_equal(direct["ventricles_ml"], rows["ventricles_ml"])
    slope = scm.nodes["ventricles"].parameters[scm.nodes["ventricles"].design.columns.index("age")]
    np.testing.assert_allclose(total["ventricles_ml"] - rows["ventricles_ml"], 20 * slope, rtol=1e-9)
    assert slope == pytest.approx(0.5, abs=0.05)
    for changed in (direct, total):
        np.testing.assert_allclose(changed["age"], rows["age"] + 20)
    through = latent_shift(scm, rows, total) - latent_shift(scm, rows, direct)
    same_diagnosis = (total["diagnosis"] == rows["diagnosis"]).to_numpy()
    b = scm.image.coefficients[list(scm.design.columns).index("ventricles")]
    np.testing.assert_allclose(
        through[same_diagnosis], np.broadcast_to(20 * slope * b, through[same_diagnosis].shape), atol=1e-5
    )


def test_draws_hold_the_mediators_uncertainty_too(cohort: Cohort, scm: Scm) -> None:
    rows = cohort.test
    node = scm.nodes["ventricles"]
    at = node.design.columns.index("age")
    draws = [scm.draw(k).intervene(rows, {"age": "+20"})["ventricles_ml"].iloc[0] for k in range(scm.draws)]
    assert np.std(draws, ddof=1) == pytest.approx(20 * np.sqrt(node.covariance[at, at]), rel=0.6)


def test_known_effects_are_recovered() -> None:
    cohort = Cohort(n=3000, seed=1)
    scm = cohort.fit()
    # Standard errors of a contrast tell how far off the truth it may be.
    for name, effect, truth in [
        ("ageing", "direct", 30 * cohort.age_effect),
        ("disease", "total", cohort.disease_effect),
    ]:
        row = contrast_row(scm, name, effect)  # type: ignore[arg-type]
        estimate = (row @ scm.image.coefficients.reshape(len(scm.image.columns), -1))[0]
        error = np.sqrt((row @ scm.image.xtx_inverse @ row.T)[0, 0] * scm.image.residual_variance.reshape(-1))
        z = (estimate - truth) / error
        assert np.abs(z).max() < 4
        assert 0.6 < z.std() < 1.4
    total = latent_shift(scm, cohort.test, scm.intervene(cohort.test.assign(diagnosis="AD"), {"age": 80}))
    base = latent_shift(scm, cohort.test, cohort.test.assign(diagnosis="AD"))
    years = (80 - cohort.test["age"]).to_numpy()
    stayed = (scm.intervene(cohort.test.assign(diagnosis="AD"), {"age": 80})["diagnosis"] == "AD").to_numpy()
    truth = np.outer(years, cohort.age_effect + 0.5 * cohort.ventricle_effect)
    np.testing.assert_allclose((total - base).reshape(len(years), -1)[stayed], truth[stayed], atol=0.25)


def test_intervals_cover_and_null_p_values_are_uniform() -> None:
    rng = np.random.default_rng(0)
    covered, p_values = [], []
    for _ in range(60):
        x = np.column_stack([np.ones(40), rng.normal(size=(40, 2))])
        b = np.array([[1.0], [0.3], [0.0]]) * np.ones((3, 20))
        z = x @ b + rng.normal(size=(40, 20))
        model = fit_image(Sample.of(x, ["a", "b", "c"], z, [str(i) for i in range(40)]), seed=0)
        half = scipy.stats.t.ppf(0.975, 37) * np.sqrt(model.xtx_inverse[1, 1] * model.residual_variance)
        covered.append(np.abs(model.coefficients[1] - 0.3) < half)
        p_values.append(wald_test(model, np.array([[0, 0, 1.0]])).p)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    assert scipy.stats.kstest(np.concatenate(p_values), "uniform").pvalue > 0.001


def test_clustered_errors_keep_their_level_where_participants_come_twice() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(np.column_stack([np.ones(60), rng.normal(size=60)]), 2, axis=0)
    participants = np.repeat([f"p{i}" for i in range(60)], 2)
    z = np.repeat(rng.normal(size=(60, 2000)), 2, axis=0) + 0.3 * rng.normal(size=(120, 2000))
    table = pd.DataFrame(
        {"scan": [f"s{i}" for i in range(120)], "participant": participants, "split": "train", "age": x[:, 1]}
    )
    declared = ScmOptions.model_validate(
        {
            "nodes": {"age": {}},
            "image": {"formula": "age", "shrinkage": "none"},
            "contrasts": {"c": {"age": [0, 1]}},
        }
    )
    scm = Scm.fit(table, z, declared, seed=0)
    tests = contrast_tests(scm, scm.sample(z, range(120))).set_index("effect")
    assert tests.loc["total", "errors"] == "clustered by participant"
    assert 15 < tests.loc["total", "df2"] < 30  # those of 60 squares of a normal age, whose largest count most
    assert tests.loc["total", "share_q05"] < 0.01
    naive = wald_test(scm.image, np.array([[0, 1.0]]))
    assert (naive.p < 0.05).mean() > 0.1  # what ignoring the pairs would have claimed


@pytest.mark.parametrize("errors", ["ordinary", "hc3"])
def test_residual_variances_that_differ_are_told_and_signs_flipped_beside_robust_errors(errors: str) -> None:
    rng = np.random.default_rng(0)
    ids, age, weight = [f"s{i}" for i in range(60)], rng.gamma(2, 10, 60), rng.normal(size=60)
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age, "weight": weight})
    z = np.exp(age / 40)[:, None] * rng.normal(size=(60, 50))
    declared = ScmOptions.model_validate(
        {
            "nodes": {"age": {}, "weight": {}},
            "image": {"formula": "age + weight", "errors": errors},
            "contrasts": {"ageing": {"age": [10, 30]}},
            "permutations": 20,
        }
    )
    scm = Scm.fit(table, z, declared, seed=0)
    sample = scm.sample(z, range(60))
    found = residual_variances(scm, sample).set_index("item")
    assert found.loc["age", "value"] < 1e-4
    assert found.loc["weight", "value"] > 0.01
    if errors == "ordinary":
        assert found.loc["age", "warning"].startswith("the residual variance depends on age (p = ")
    else:
        assert found["warning"].isna().all()
    tests = contrast_tests(scm, sample)
    assert set(tests["exchanged"]) == {"scans" if errors == "ordinary" else "signs of scans"}
    assert (tests["min_p_fwe"] > 0).all()
    quiet = Scm.fit(table, rng.normal(size=(60, 50)), declared, seed=0)
    assert residual_variances(quiet, quiet.sample(rng.normal(size=(60, 50)), range(60)))["warning"].isna().all()


@pytest.mark.parametrize("change", ["months", "renamed", "permuted"])
def test_answers_do_not_depend_on_units_names_or_order(cohort: Cohort, scm: Scm, change: str) -> None:
    asked: dict[str, Any] = {"age": 80, "diagnosis": "AD"}
    do = asked
    contrasts: dict[str, Any] = {"ageing": {"age": [50, 80]}, "disease": {"diagnosis": ["CN", "AD"]}}
    table, latents, nodes = cohort.table.copy(), cohort.latents, dict(NODES)
    if change == "months":
        table["age"] *= 12
        do, contrasts["ageing"] = {**do, "age": 960}, {"age": [600, 960]}
    elif change == "renamed":
        names = {"CN": "z-healthy", "AD": "a-sick"}
        table["diagnosis"] = table["diagnosis"].map(names)
        nodes["diagnosis"] = {"levels": ["z-healthy", "a-sick"], "formula": "age + sex"}
        do, contrasts["disease"] = {**do, "diagnosis": "a-sick"}, {"diagnosis": ["z-healthy", "a-sick"]}
    else:
        order = np.random.default_rng(0).permutation(len(table))
        table, latents = table.iloc[order].reset_index(drop=True), latents[order]
    declared = ScmOptions.model_validate(
        {"nodes": nodes, "image": {"formula": IMAGE}, "contrasts": contrasts, "permutations": 0}
    )
    other = Scm.fit(table, latents, declared, seed=7)
    rows = table.set_index("scan", drop=False).loc[cohort.test["scan"]].reset_index(drop=True)
    for effect in EFFECTS:
        expected = latent_shift(scm, cohort.test, scm.intervene(cohort.test, asked, effect))
        np.testing.assert_allclose(latent_shift(other, rows, other.intervene(rows, do, effect)), expected, atol=1e-5)
    figures = ["max_abs_statistic", "min_p", "min_q", "median_partial_r2", "max_partial_r2", "max_f2", "max_abs_d"]
    tests = [
        contrast_tests(fitted, training_sample(fitted, scans, z)).query("effect == 'direct'")
        for fitted, z, scans in ((scm, cohort.latents, cohort.table), (other, latents, table))
    ]
    np.testing.assert_allclose(tests[1][figures], tests[0][figures], rtol=1e-6)


def test_scans_without_a_covariate_are_left_out_named_and_counted(
    cohort: Cohort, caplog: pytest.LogCaptureFixture
) -> None:
    table = cohort.table.copy()
    train = table.index[table["split"] == "train"]
    table.loc[train[:3], "age"] = np.nan
    table.loc[train[3], "sex"] = "X"
    with caplog.at_level(logging.WARNING, logger="brainscm"):
        scm = Scm.fit(table, cohort.latents, options(), seed=7)
    assert len(scm.training) == len(train) - 4
    assert "4 of 240 training scans are left out of the fit" in caplog.text
    assert "3: age is missing" in caplog.text
    assert "1: sex 'X' is not a training level" in caplog.text
    rest = table.drop(index=train[:4]).reset_index(drop=True)
    without = Scm.fit(rest, np.delete(cohort.latents, train[:4], axis=0), options(), seed=7)
    np.testing.assert_allclose(scm.image.coefficients, without.image.coefficients, rtol=1e-9)
    found = diagnose(scm, offered=len(train)).set_index(["check", "item"])
    assert "4 training scans lack a covariate" in found.loc[("training_scans", "used"), "warning"]


def test_a_row_that_cannot_be_used_is_refused_by_name(cohort: Cohort, scm: Scm) -> None:
    rows = cohort.test.copy()
    rows.iloc[2, rows.columns.get_loc("age")] = np.nan
    assert scm.problems(rows).tolist()[:4] == ["", "", "age is missing", ""]
    with pytest.raises(ScanError, match="sub-010: age is missing"):
        scm.intervene(rows, {"age": 80})
    with pytest.raises(ConfigError, match="'agee' is not a node; did you mean 'age'"):
        scm.intervene(cohort.test, {"agee": 80})
    with pytest.raises(ConfigError, match="'X' is not one of its levels"):
        scm.intervene(cohort.test, {"sex": "X"})
    with pytest.raises(ConfigError, match="'old' is not a number"):
        scm.intervene(cohort.test, {"age": "old"})


def test_support_warns_in_words(cohort: Cohort, scm: Scm) -> None:
    rows = cohort.test
    usual = scm.support(scm.intervene(rows, {"age": 50}, "direct"), ("age",))
    near = scm.training.assign(close=lambda t: (t["age"] - 50).abs() <= 0.5 * t["age"].std())
    first = rows.iloc[0]
    same = near[near["close"] & (near["sex"] == first["sex"]) & (near["site"] == first["site"])]
    assert usual["positivity"].iloc[0] == same["participant"].nunique()
    far = scm.support(scm.intervene(rows, {"age": 150}, "direct"), ("age",))
    assert far["extrapolation"].all()
    assert far["warning"].str.contains("age 150 years lies outside the training range 20").all()
    assert far["warning"].str.contains("no training participant is near").all()
    assert (far["leverage_ratio"] > 1).all()
    assert (far["positivity"] == 0).all()
    within = scm.support(cohort.table[cohort.table["split"] == "train"])
    assert not within["extrapolation"].any()
    assert within["leverage_ratio"].max() == pytest.approx(1)


def test_support_sees_a_combination_that_nobody_has() -> None:
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, 200)
    volume = age + rng.normal(0, 1, 200)
    ids = [str(i) for i in range(200)]
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age, "volume": volume})
    declared = ScmOptions.model_validate({"nodes": {"age": {}, "volume": {}}, "image": {"formula": "age + volume"}})
    scm = Scm.fit(table, rng.normal(size=(200, 4)), declared, seed=0)
    odd = scm.support(table.iloc[:1].assign(age=25.0, volume=75.0)).iloc[0]
    assert odd["extrapolation"]
    assert "further out than any training scan" in odd["warning"]
    grid = table.iloc[[0] * 80].assign(age=50.0, volume=50 + np.arange(80) / 10)
    found = scm.support(grid)
    np.testing.assert_array_equal(found["extrapolation"], found["leverage_ratio"] > 1)
    assert found["leverage_ratio"].between(1.01, 1.9).any()


def test_table_of_tests_finds_what_is_there(cohort: Cohort, scm: Scm) -> None:
    tests = contrast_tests(scm, training_sample(scm, cohort.table, cohort.latents)).set_index(["contrast", "effect"])
    assert set(tests.index) == {(c, e) for c in ("ageing", "disease") for e in ("total", "direct", "joint")}
    assert tests.loc[("disease", "total"), "share_q05"] > 0.5
    assert tests.loc[("disease", "joint"), "statistic"] == "F"
    single = tests.loc[("disease", "joint"), "max_abs_statistic"]
    assert single == pytest.approx(tests.loc[("disease", "direct"), "max_abs_statistic"])
    partial_r2 = tests.loc[("disease", "joint"), "max_partial_r2"]
    assert tests.loc[("disease", "joint"), "max_f2"] == pytest.approx(partial_r2 / (1 - partial_r2))
    assert np.isnan(tests.loc[("disease", "joint"), "max_abs_d"])
    declared = options()
    declared.image.shrinkage = "none"  # the tests are of least squares, whatever the estimate
    scm = Scm.fit(cohort.table, cohort.latents, declared, seed=7)
    effect = contrast_row(scm, "disease", "direct") @ scm.image.coefficients.reshape(len(scm.design.columns), -1)
    d = np.abs(effect) / np.sqrt(scm.image.residual_variance.reshape(-1))
    assert tests.loc[("disease", "direct"), "max_abs_d"] == pytest.approx(d.max())
    total, direct = contrast_row(scm, "ageing", "total")[0], contrast_row(scm, "ageing", "direct")[0]
    columns = list(scm.design.columns)
    assert direct[columns.index("age")] == pytest.approx(30)
    assert direct[columns.index("ventricles")] == 0
    assert total[columns.index("ventricles")] == pytest.approx(15, abs=1.5)


def test_collinearity_is_named_in_words(cohort: Cohort) -> None:
    table = cohort.table.assign(ventricles_ml=cohort.table["age"] + np.random.default_rng(0).normal(0, 1, 300))
    scm = Scm.fit(table, cohort.latents, options(), seed=7)
    scm.options.contrasts["late"] = {"age": (50, 99)}
    found = diagnose(scm, offered=len(scm.training))
    assert found[found["check"] == "contrast_range"]["warning"].str.contains("age 99 years lies outside").tolist() == [
        True
    ]
    warned = found[found["warning"].notna()].set_index("item")["warning"]
    assert warned["image: ventricles"].startswith("ventricles and age: VIF ")
    x = scm.design_matrix(scm.training)
    factors = variance_inflation(x, scm.design)
    for name in ("age", "ventricles", "sex"):
        column = next(i for i, nodes in enumerate(scm.design.nodes) if nodes == {name})
        assert factors[name][0] == pytest.approx(variance_inflation_factor(x, column))


def test_inflation_of_many_columns_compares_with_that_of_one() -> None:
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, (20_000, 2))
    twins = age + rng.normal(0, 10, age.shape)
    frame = pd.DataFrame({"a": age[:, 0], "b": age[:, 1], "c": twins[:, 0], "d": twins[:, 1]})
    alone = Design.learn(parse_formula("a + c", "here"), frame, "here")
    single = variance_inflation(alone.matrix(frame), alone)["a"][0]
    pairs = Design.learn(parse_formula("a + b + c + d", "here"), frame, "here")
    two_nodes = replace(pairs, nodes=(frozenset(), *([frozenset({"a"})] * 2), *([frozenset({"c"})] * 2)))
    assert single > 3
    assert variance_inflation(pairs.matrix(frame), two_nodes)["a"] == (pytest.approx(single, rel=0.05), "c")


class LinearDecoder(Unaligned):
    """An autoencoder whose decoder is a fixed matrix: effects in the image are known exactly."""

    kind = "linear"
    grid_shape = (4, 4, 4)
    latent_shape = SHAPE
    weights = np.random.default_rng(5).normal(size=(SIZE, 64)).astype(np.float32)

    def quantize(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents.flatten(1) @ torch.from_numpy(self.weights)).reshape(-1, 1, 4, 4, 4)


def test_effect_map_is_the_decoded_contrast_with_its_standard_error(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("brainscm.scm.image.DRAWS", 100)
    monkeypatch.setattr("brainscm.scm.model.DRAWS", 100)
    declared = options()
    declared.image.shrinkage = "none"  # of what is shrunk, the error holds what was taken away, too
    scm = Scm.fit(cohort.table, cohort.latents, declared, seed=7)
    made = effect_map(scm, LinearDecoder(), "disease", "direct", np.ones((4, 4, 4), dtype=bool), [])
    measure = measured_by(lambda volume, mask, head_size: {"all": float(volume.sum())})
    mean_ml, change_ml, error_ml = made.regions(measure, SOME)["all"]
    np.testing.assert_allclose([mean_ml, change_ml], [made.before.sum(), made.effect.sum()], rtol=1e-4)
    distances = [each.sum() - made.after.sum() for each in made.drawn]
    np.testing.assert_allclose(error_ml, np.sqrt(np.mean(np.square(distances))), rtol=1e-4)
    row = contrast_row(scm, "disease", "direct")
    effect = row @ scm.image.coefficients.reshape(len(row[0]), -1)
    np.testing.assert_allclose(made.effect.reshape(-1), (effect @ LinearDecoder.weights)[0], atol=1e-3)
    train = cohort.table["split"] == "train"
    residual = cohort.latents[train] - scm.image.predict(scm.design_matrix(cohort.table[train]))
    decoded_variance = (
        np.square(residual.reshape(len(residual), -1) @ LinearDecoder.weights).sum(axis=0)
        / scm.image.degrees_of_freedom
    )
    error = np.sqrt((row @ scm.image.xtx_inverse @ row.T)[0, 0] * decoded_variance)
    np.testing.assert_allclose(made.uncertainty.reshape(-1), error, rtol=0.35)


def test_effect_maps_are_written_with_direct_ones_where_there_are_mediators(scm: Scm, tmp_path: Path) -> None:
    grid, everywhere = Grid((4, 4, 4), np.diag([2.0, 2, 2, 1])), np.ones((4, 4, 4), dtype=bool)
    write_effect_maps(scm, LinearDecoder(), grid, measured_by(lambda *_: {}), everywhere, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ageing_T1w.nii.gz",
        "ageing_desc-directUncertainty_T1w.nii.gz",
        "ageing_desc-direct_T1w.nii.gz",
        "ageing_desc-uncertainty_T1w.nii.gz",
        "disease_T1w.nii.gz",
        "disease_desc-uncertainty_T1w.nii.gz",
    ]
