"""Multiple imputation: Rubin's rules as elsewhere, draws from the right posterior, and what the pooled model says."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from statsmodels.imputation.bayes_mi import MI

from brainscm.config import ScmOptions
from brainscm.scm import imputation
from brainscm.scm.designs import write_designs
from brainscm.scm.diagnostics import diagnose
from brainscm.scm.imputation import scan_scores
from brainscm.scm.inference import contrast_tests
from brainscm.scm.model import Scm, load_scm
from brainscm.scm.pooling import pool, pool_covariance
from brainscm.scm.portable import load_portable, save_portable
from brainscm.scm.regional_effects import measured_effects
from brainscm.scm.sample import Sample
from brainscm.tables import read_table

NODES: dict[str, Any] = {"age": {}, "score": {"formula": "age"}}
EFFECTS = np.linspace(-0.6, 0.6, 12)  # of score on the latent


def options(m: int, nodes: dict[str, Any] | None = None, image: str = "age + score", **more: Any) -> ScmOptions:
    nodes = nodes or NODES
    declared = {"nodes": nodes, "image": {"formula": image, "shrinkage": "none"}, "missing": "impute"}
    contrasts = {"scores": {"score": [0, 1]}} if "score" in nodes else {}
    return ScmOptions.model_validate({**declared, "contrasts": contrasts, "permutations": 0, "imputations": m, **more})


def cohort(n: int = 120, seed: int = 0, share: float = 0.4) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """age → score → latent and volume. A score is missing the more likely the larger the volume is, which it causes."""
    rng = np.random.default_rng(seed)
    age = rng.normal(size=n)
    score = 0.8 * age + rng.normal(size=n)
    volume = 500 + 10 * age + 15 * score + rng.normal(0, 15, n)
    z = 0.3 * age[:, None] + score[:, None] * EFFECTS + rng.normal(size=(n, len(EFFECTS)))
    ids = [f"s{i}" for i in range(n)]
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age, "score": score})
    table["gm_ml"] = volume
    rank = scipy.stats.rankdata(volume + rng.normal(0, 20, n)) / n
    return table.assign(score=np.where(rank > 1 - share, np.nan, score)), z, score


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough where nothing is extreme, and fast."""
    monkeypatch.setattr(imputation, "CANDIDATES", 100)


def test_rubins_rules_are_those_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    sets = [pd.DataFrame({"y": rng.normal(size=30), "x": rng.normal(size=30)}) for _ in range(5)]

    class Sets:
        def __init__(self) -> None:
            self.left, self.data = iter([*sets, *sets]), sets[0]

        def update(self) -> None:
            self.data = next(self.left)

    peer = MI(Sets(), sm.OLS, model_args_fn=lambda data: (data,), formula="y ~ x", burn=0, nrep=5, skip=0).fit()
    fits = [sm.OLS.from_formula("y ~ x", each).fit() for each in sets]
    estimates, covariances = [fit.params.to_numpy() for fit in fits], [fit.cov_params().to_numpy() for fit in fits]
    found = pool(estimates, [np.diag(each) for each in covariances], 28.0)
    np.testing.assert_allclose(found.estimate, peer.params)
    np.testing.assert_allclose(pool_covariance(estimates, covariances), peer.cov_params())
    np.testing.assert_allclose(found.variance, np.diag(peer.cov_params()))
    np.testing.assert_allclose(found.missing_information, peer.fmi)


def test_degrees_of_freedom_are_barnard_and_rubins() -> None:
    # By hand: W = 1, B = 0.5, m = 4: T = 1.625, λ = 0.3846; ν_m = 3/λ² = 20.28, ν_obs = 20·21/23·(1 - λ) = 11.24.
    found = pool(list(np.sqrt(0.5) * np.array([-1.0, -1, 1, 1]) * np.sqrt(3 / 4)), [1.0] * 4, 20.0)
    assert found.variance == pytest.approx(1.625)
    assert found.freedom == pytest.approx(1 / (1 / 20.28 + 1 / 11.238), rel=1e-3)
    assert pool([1.0, 1.0], [2.0, 2.0], 20.0).freedom == 20


def test_scores_far_from_what_their_causes_make_likely_are_reached() -> None:
    table, z, score = cohort(n=150, seed=2)
    scm = Scm.fit(table, z + 6 * score[:, None] * EFFECTS, options(2), seed=1)
    far = table["score"].isna().to_numpy() & (np.abs(score - 0.8 * table["age"]) > 1.8).to_numpy()
    assert far.sum() >= 4
    drawn = np.array([values["score"] for values in scm.imputed])
    assert np.abs(drawn - score)[:, far].mean() < 0.2


def test_missing_scores_are_drawn_from_their_posterior(few_candidates: None) -> None:
    table, z, _ = cohort(n=250)
    scm = Scm.fit(table, z, options(20), seed=1)
    drawn = np.array([values["score"] for values in scm.imputed])
    missing = table["score"].isna().to_numpy()
    np.testing.assert_array_equal(drawn[:, ~missing], np.tile(table["score"][~missing], (20, 1)))
    # score | age, volume, latent is normal, by the model that made them.
    precision = 1 + 15**2 / 15**2 + np.square(EFFECTS).sum()
    told = 15 * (table["gm_ml"] - 500 - 10 * table["age"]) / 15**2
    mean = (0.8 * table["age"] + told + (z - 0.3 * table["age"].to_numpy()[:, None]) @ EFFECTS) / precision
    off = drawn.mean(axis=0) - mean
    assert np.abs(off[missing].mean()) < 0.12
    assert off[missing].std() < 0.5 / np.sqrt(precision)
    assert drawn.std(axis=0)[missing].mean() == pytest.approx(precision**-0.5, rel=0.15)


def test_missing_levels_are_as_probable_as_bayes_rule_says(few_candidates: None) -> None:
    rng = np.random.default_rng(3)
    n = 200
    age, ids = rng.normal(size=n), [f"s{i}" for i in range(n)]
    ill = rng.uniform(size=n) < 1 / (1 + np.exp(-age))
    mark = 1.5 * ill + rng.normal(size=n)
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age, "mark": mark})
    table["diagnosis"] = pd.Series(np.where(ill, "AD", "CN")).mask(rng.uniform(size=n) < 0.3)
    nodes = {
        "age": {},
        "diagnosis": {"levels": ["CN", "AD"], "formula": "age"},
        "mark": {"formula": "diagnosis"},
    }
    scm = Scm.fit(table, rng.normal(size=(n, 5)), options(25, nodes, "age + diagnosis"), seed=2)
    missing = table["diagnosis"].isna().to_numpy()
    share = np.mean([(values["diagnosis"] == "AD").to_numpy() for values in scm.imputed], axis=0)[missing]
    odds = np.exp(age + 1.5 * mark - 1.5**2 / 2)[missing]
    assert np.abs(share - odds / (1 + odds)).mean() < 0.11
    assert share.mean() == pytest.approx(ill[missing].mean(), abs=0.08)


@pytest.mark.slow
def test_pooled_effects_lie_about_the_truth_where_single_ones_and_dropping_do_not(few_candidates: None) -> None:
    """Scores are missing where the volume is large: those that are left are no fair sample of volumes."""
    effects: dict[str, list[float]] = {"pooled": [], "dropped": []}
    held, errors = [], []
    for seed in range(12):
        table, z, _ = cohort(seed=seed)
        scm = Scm.fit(table, z, options(4), seed=seed)
        (row,) = measured_effects(scm, table, ["gm"]).query("effect == 'direct'").to_dict("records")
        effects["pooled"].append(row["estimate_ml"])
        held.append(row["ci95_low_ml"] < 15 < row["ci95_high_ml"])
        errors.append(row["standard_error_ml"])
        assert 0 < row["missing_information"] < 1
        dropped = Scm.fit(table, z, options(1, missing="drop"), seed=seed)
        (row,) = measured_effects(dropped, table, ["gm"]).query("effect == 'direct'").to_dict("records")
        effects["dropped"].append(row["estimate_ml"])
    assert np.mean(effects["pooled"]) == pytest.approx(15, abs=0.8)
    assert np.mean(effects["dropped"]) < 14
    assert np.mean(held) >= 0.8
    assert np.std(effects["pooled"]) == pytest.approx(np.mean(errors), rel=0.6)


def test_tests_nodes_and_draws_are_pooled(few_candidates: None) -> None:
    table, z, _ = cohort()
    scm = Scm.fit(table, z, options(6, permutations=30), seed=1)
    sample = scm.sample(z, range(len(z)))
    assert len(sample.imputed) == 6
    (test,) = contrast_tests(scm, sample).query("effect == 'direct'").to_dict("records")
    assert test["imputations"] == 6
    by_hand = []
    for x in sample.imputed:
        fits = [sm.OLS(column, x).fit() for column in z.T]
        by_hand.append([(fit.params[2], fit.bse[2] ** 2) for fit in fits])
    estimates, variances = np.moveaxis(np.array(by_hand), 2, 0)
    peer = pool(list(estimates), list(variances), 117.0)
    t = peer.estimate / np.sqrt(peer.variance)
    assert test["max_abs_statistic"] == pytest.approx(np.abs(t).max())
    assert test["min_p"] == pytest.approx((2 * scipy.stats.t.sf(np.abs(t), peer.freedom)).min(), rel=1e-6)
    assert test["df2"] == pytest.approx(np.median(peer.freedom))
    assert test["median_missing_information"] == pytest.approx(np.median(peer.missing_information))
    assert test["min_p_fwe"] == pytest.approx(1 / 31)
    np.testing.assert_allclose(scm.image.coefficients[2], peer.estimate)
    # The draws hold what differs between imputations.
    spread = np.array([Scm.fit(table, z, options(6), seed=k).image.draws[:, 2] for k in range(4)])
    assert np.sqrt(np.square(spread).mean(axis=(0, 1))) == pytest.approx(np.sqrt(peer.variance), rel=0.5)
    assert np.square(spread).mean() == pytest.approx(peer.variance.mean(), rel=0.3)
    node = scm.nodes["score"]
    assert (node.missing_information[node.terms.index("age")]) > 0.05
    assert scm.nodes["score"].table(scm.training_values)["missing_information"].notna().all()


def test_a_pooled_model_is_the_same_once_it_is_read_and_a_bundle_has_nobodys_values(tmp_path: Path) -> None:
    table, z, _ = cohort(60)
    declared = options(3)
    scm = Scm.fit(table, z, declared, seed=1)
    scm.save(tmp_path / "own")
    loaded = load_scm(tmp_path / "own", declared)
    assert len(loaded.imputed) == 3
    for ours, theirs in zip(scm.imputed, loaded.imputed, strict=True):
        pd.testing.assert_frame_equal(ours, theirs)
    pd.testing.assert_frame_equal(
        contrast_tests(loaded, loaded.sample(z, range(60))), contrast_tests(scm, scm.sample(z, range(60)))
    )
    save_portable(scm, tmp_path / "bundle")
    assert not load_portable(tmp_path / "bundle", declared).imputed
    assert not any("imputed" in name for name in np.load(tmp_path / "bundle" / "node_models.npz").files)
    again = Scm.fit(table, z, declared, seed=1)
    np.testing.assert_array_equal(again.image.coefficients, scm.image.coefficients)


def test_imputed_values_are_listed_and_told_of(tmp_path: Path) -> None:
    table, z, _ = cohort(40)
    scm = Scm.fit(table, z, options(2), seed=1)
    write_designs(scm, tmp_path)
    listed = read_table(tmp_path / "imputed.tsv")
    lacking = table.loc[table["score"].isna(), "scan"].tolist()
    assert listed.loc[listed["imputation"] == 2, "scan"].tolist() == lacking
    values = scm.imputed[1]["score"][table["score"].isna().to_numpy()]
    np.testing.assert_allclose(listed.loc[listed["imputation"] == 2, "value"].astype(float), values)
    told = diagnose(scm, 40).set_index(["check", "item"])["warning"]["imputed_scans", "score"]
    assert told.endswith("it is imputed 2 times, and estimates are pooled")


def test_nothing_is_imputed_where_nothing_is_missing() -> None:
    table, z, score = cohort(40)
    whole = table.assign(score=score)
    several, once = (Scm.fit(whole, z, options(m), seed=1) for m in (5, 1))
    assert not several.imputed
    np.testing.assert_array_equal(several.image.draws, once.image.draws)


def test_imputed_values_stay_where_formulas_have_a_value() -> None:
    table, z, _ = cohort(60)
    table["score"] = np.exp(table["score"])
    nodes = {"age": {}, "score": {"formula": "age"}}
    scm = Scm.fit(table, z, options(3, nodes, "age + log(score)"), seed=1)
    assert all((values["score"] > 0).all() for values in scm.imputed)


def test_scores_are_of_the_volumes_and_of_the_latents_leading_components() -> None:
    rng = np.random.default_rng(0)
    known, factor = np.column_stack([np.ones(80), rng.normal(size=80)]), rng.normal(size=80)
    z = np.outer(factor, rng.normal(size=200)) + 0.1 * rng.normal(size=(80, 200)) + known[:, 1:] * 3
    volume = rng.normal(size=(80, 1))
    ids = [str(i) for i in range(80)]
    scores = scan_scores(Sample.of(known, ["1", "x"], z, ids), known, np.column_stack([volume, 2 * volume]), 80)
    np.testing.assert_allclose(scores.T @ scores, np.eye(scores.shape[1]), atol=1e-10)
    np.testing.assert_allclose(known.T @ scores, 0, atol=1e-8)
    left = [column - known @ np.linalg.lstsq(known, column)[0] for column in (volume[:, 0], factor)]
    for place, column in enumerate(left):
        assert abs(np.corrcoef(column, scores[:, place])[0, 1]) > 0.98
    assert scores.shape[1] == 12
    assert scan_scores(Sample.of(known, ["1", "x"], z, ids), known, volume, 20).shape == (80, 3)


def test_a_handful_of_scans_is_imputed_by_the_graph_alone() -> None:
    table, z, _ = cohort(12, share=0.5)
    scm = Scm.fit(table, z, options(2), seed=1)
    assert len(scm.imputed) == 2
    assert np.isfinite(scm.image.coefficients).all()


def test_several_imputations_need_something_to_impute() -> None:
    with pytest.raises(ValueError, match="needs missing: impute"):
        options(5, missing="drop")
