"""Residuals, influence and exported designs: those of statsmodels, of deleted participants, and of another program."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from test_scm_comparison import NODES

from brainscm.config import ScmOptions
from brainscm.scm.designs import write_designs
from brainscm.scm.diagnostics import residual_skewness
from brainscm.scm.inference import contrast_tests
from brainscm.scm.model import Scm
from brainscm.scm.residuals import proportional_odds, residual_checks, residuals
from brainscm.tables import read_table

N = 300
LEVELS = ["I", "II", "III"]
GLMS = {
    "gaussian": sm.families.Gaussian(),
    "gamma": sm.families.Gamma(sm.families.links.Log()),
    "poisson": sm.families.Poisson(),
    "binomial": sm.families.Binomial(),
}


def cohort(n: int = N, seed: int = 0, visits: int = 1, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, male = rng.uniform(-1.5, 1.5, n), rng.integers(0, 2, n)
    linear = age + 0.4 * male
    table = {
        "scan": [f"scan-{i:04d}" for i in range(n)],
        "participant": [f"sub-{i // visits:04d}" for i in range(n)],
        "split": "train",
        "age": age,
        "sex": np.array(["F", "M"])[male],
        "gaussian": 3 * linear + rng.normal(size=n),
        "gamma": np.exp(2 + 0.4 * linear) * rng.gamma(3, 1 / 3, n),
        "poisson": rng.poisson(np.exp(0.5 + 0.5 * linear)),
        "negbinomial": rng.poisson(np.exp(0.5 + 0.5 * linear) * rng.gamma(2, 1 / 2, n)),
        "binomial": np.array(["no", "yes"])[(linear + rng.logistic(size=n) > 0).astype(int)],
        "multinomial": np.array(LEVELS)[
            (np.column_stack([0 * linear, linear - 0.3, -linear]) + rng.gumbel(size=(n, 3))).argmax(axis=1)
        ],
        "ordered": np.array(LEVELS)[np.searchsorted([-0.5, 1.0], linear + rng.logistic(size=n))],
        "gm_ml": 600 - 20 * linear + rng.normal(0, 30, n),
    }
    return pd.DataFrame(table | columns)


def fit(table: pd.DataFrame, names: list[str], **image: Any) -> tuple[Scm, pd.DataFrame, np.ndarray]:
    z = np.random.default_rng(9).normal(size=(len(table), 4)) + table["age"].to_numpy()[:, None]
    nodes = {name: NODES[name] for name in ("age", "sex", *names)}
    contrasts = {"ageing": {"age": [-1, 1]}, "both": {"age": [0, 1], "sex": ["F", "M"]}}
    image = {"formula": "cr(age, df=3) + sex", "shrinkage": "none", **image}
    scm = Scm.fit(table, z, ScmOptions.model_validate({"nodes": nodes, "image": image, "contrasts": contrasts}), seed=1)
    return scm, residuals(scm, table, ["gm", "wm"], scm.sample(z, range(len(z)))), z


@pytest.fixture(scope="module")
def whole() -> tuple[Scm, pd.DataFrame, np.ndarray]:
    return fit(cohort(), [name for name in NODES if name not in ("age", "sex")])


@pytest.mark.parametrize("family", [name for name in NODES if name not in ("age", "sex")])
def test_quantile_residuals_are_normal_where_the_model_is_right(whole: Any, family: str) -> None:
    own = whole[1][whole[1]["model"] == family]
    assert len(own) == N
    assert scipy.stats.kstest(own["quantile_residual"], "norm").pvalue > 0.05
    if family in ("gaussian", "gamma"):
        order = own["residual"].rank() if family == "gaussian" else (own["residual"] / own["fitted"]).rank()
        assert (own["quantile_residual"].rank() == order).all()


@pytest.mark.parametrize("family", list(GLMS))
def test_leverage_and_cooks_distance_are_those_of_statsmodels(whole: Any, family: str) -> None:
    table = cohort()
    y = (table[family] == "yes").astype(float) if family == "binomial" else table[family]
    x = np.column_stack([np.ones(N), table["age"], table["sex"] == "M"]).astype(float)
    peer = sm.GLM(y, x, family=GLMS[family]).fit(tol=1e-12).get_influence(observed=False)
    own = whole[1][whole[1]["model"] == family]
    np.testing.assert_allclose(own["leverage"], peer.hat_matrix_diag, rtol=1e-5)
    np.testing.assert_allclose(own["cooks_distance"], peer.cooks_distance[0], rtol=1e-5)


def test_a_region_and_the_latent_move_as_the_fit_without_a_participant() -> None:
    table = cohort(60, visits=3)
    scm, found, z = fit(table, [])
    x = scm.design_matrix(table)
    own = found[found["model"] == "image"]
    for measure, y in (("gm", table[["gm_ml"]].to_numpy()), ("latent", z)):
        b, told = np.linalg.lstsq(x, y)[0], own[own["measure"] == measure].set_index("participant")["cooks_distance"]
        variance = np.square(y - x @ b).sum() / (60 - x.shape[1])
        for participant in table["participant"].unique()[:5]:
            kept = (table["participant"] != participant).to_numpy()
            moved = x @ (np.linalg.lstsq(x[kept], y[kept])[0] - b)
            np.testing.assert_allclose(told[participant], np.square(moved).sum() / x.shape[1] / variance, rtol=1e-8)


@pytest.mark.parametrize("family", ["ordered", "multinomial"])
def test_a_participant_with_much_influence_on_levels_moves_their_fit(family: str) -> None:
    table = cohort(200, seed=3)
    scm, found, _ = fit(table, [family])
    own, moved = found[found["model"] == family].reset_index(drop=True), []
    node = scm.nodes[family]
    for i in range(0, 200, 10):
        kept = table.drop(index=i).reset_index(drop=True)
        step = fit(kept, [family])[0].nodes[family].parameters - node.parameters
        moved.append(step @ np.linalg.solve(node.covariance, step) / len(step))
    assert np.corrcoef(np.log(moved), np.log(own["cooks_distance"][::10]))[0, 1] > 0.98
    np.testing.assert_allclose(np.median(own["cooks_distance"][::10] / moved), 1, atol=0.1)


def test_residuals_of_another_family_and_odds_that_are_not_proportional_are_told_of() -> None:
    rng = np.random.default_rng(1)
    table = cohort(400)
    # Age moves the first threshold up and the second down: most are in the middle when young, at the ends when old.
    edges = np.column_stack([-1 + 1.2 * table["age"], 1 - 1.2 * table["age"]])
    edges = np.column_stack([edges.min(axis=1), edges.max(axis=1)])
    table["ordered"] = np.array(LEVELS)[(rng.logistic(size=400)[:, None] > edges).sum(axis=1)]
    table["gaussian"] = table["gamma"]
    scm, found, _ = fit(table, ["gaussian", "ordered", "poisson"])
    checks = residual_checks(scm, found).set_index(["check", "item"])
    assert "not those of a gaussian node" in checks.loc[("residual_normality_p", "gaussian"), "warning"]
    assert "not proportional" in checks.loc[("proportional_odds_p", "ordered"), "warning"]
    assert pd.isna(checks.loc[("residual_normality_p", "poisson"), "warning"])
    assert ("max_cooks_distance", "image: latent") in checks.index


@pytest.mark.parametrize("errors", ["ordinary", "hc3"])
def test_skewed_residuals_are_told_of_where_errors_are_robust(errors: str) -> None:
    table = cohort(200)
    table["gm_ml"] = 600 - 20 * table["age"] + np.random.default_rng(5).exponential(30, 200)
    scm, found, z = fit(table, [], errors=errors)
    sample, x = scm.sample(z, range(200)), scm.design_matrix(table)
    told = residual_skewness(scm, found, sample).set_index("item")
    left = z - x @ np.linalg.lstsq(x, z)[0]
    assert told.loc["latent", "value"] == pytest.approx(np.median(np.abs(scipy.stats.skew(left))))
    assert told["value"].abs().gt(1).to_dict() == {"latent": False, "gm": True}
    warned = {"gm"} if errors == "hc3" else set()
    assert set(told.index[told["warning"].notna()]) == warned
    skewed = residual_skewness(scm, found, scm.sample(np.exp(z), range(200))).set_index("item")
    assert skewed.loc["latent", "value"] > 1
    assert (skewed.loc["latent", "warning"] is not None) == (errors == "hc3")


def test_p_of_proportional_odds_is_uniform_where_they_are() -> None:
    p = []
    for seed in range(40):
        scm, *_ = fit(cohort(150, seed=seed), ["ordered"])
        p.append(proportional_odds(scm, "ordered"))
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.05


def test_one_participant_who_moves_the_fit_is_told_of() -> None:
    table = cohort(40)
    table.loc[0, ["age", "gaussian"]] = [15.0, -90.0]
    scm, found, _ = fit(table, ["gaussian"])
    checks = residual_checks(scm, found).set_index(["check", "item"])
    assert "one participant alone moves" in checks.loc[("max_cooks_distance", "gaussian"), "warning"]
    worst = found[found["model"] == "gaussian"].sort_values("cooks_distance").iloc[-1]
    assert worst["scan"] == "scan-0000"


def test_another_program_makes_the_same_tests_of_the_exported_tables(tmp_path: Path) -> None:
    table = cohort(80)
    scm, _, z = fit(table, ["gamma"])
    write_designs(scm, tmp_path)
    design, contrasts = read_table(tmp_path / "image_design.tsv"), read_table(tmp_path / "contrasts.tsv")
    assert design["scan"].tolist() == table["scan"].tolist()
    columns = list(scm.design.columns)
    tests = contrast_tests(scm, scm.sample(z, range(len(z)))).set_index(["contrast", "effect"])
    for (contrast, effect), rows in contrasts.groupby(["contrast", "effect"]):
        found = [sm.OLS(each, design[columns].to_numpy()).fit().f_test(rows[columns].to_numpy()).pvalue for each in z.T]
        assert tests.loc[(contrast, effect), "min_p"] == pytest.approx(min(found), rel=1e-6)
    of_node = read_table(tmp_path / "gamma_design.tsv")
    peer = sm.GLM(table["gamma"], of_node[list(scm.nodes["gamma"].design.columns)], family=GLMS["gamma"]).fit()
    np.testing.assert_allclose(scm.nodes["gamma"].parameters, peer.params, rtol=1e-6)
