"""Refuters: nothing is found where nothing is, the same where it should stay, and a confounder does what is said."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from brainscm.config import QueryOptions, ScmOptions
from brainscm.scm import refutation, regional_effects
from brainscm.scm.model import Scm
from brainscm.scm.refutation import COLUMNS, _bootstrap, _half, refute
from brainscm.scm.regional_effects import contrast_change, estimates, measured_effects

OPTIONS = {
    "nodes": {
        "age": {},
        "sex": {"levels": ["F", "M"]},
        "ventricles": {"column": "ventricles_ml", "formula": "age"},
    },
    "image": {"formula": "age + sex + ventricles", "shrinkage": "none"},
    "contrasts": {"ageing": {"age": [50, 80]}},
    "permutations": 0,
}
REGIONS = ("gm", "csf", "ventricles")


def cohort(n: int = 80, visits: int = 1, seed: int = 0) -> pd.DataFrame:
    """Age takes grey matter and widens ventricles; CSF has nothing to do with anything."""
    rng = np.random.default_rng(seed)
    participant = np.repeat(np.arange(n // visits), visits)
    age = rng.uniform(40, 85, n // visits)[participant] + np.arange(n) % visits
    ventricles = 20 + 0.5 * age + rng.normal(0, 6, n)
    return pd.DataFrame(
        {
            "scan": [f"s{i:03d}" for i in range(n)],
            "participant": [f"p{i:03d}" for i in participant],
            "split": "train",
            "age": age,
            "sex": np.array(["F", "M"])[participant % 2],
            "ventricles_ml": ventricles,
            "gm_ml": 800 - 1.5 * age - 1.0 * ventricles + rng.normal(0, 20, n),
            "csf_ml": 300 + rng.normal(0, 20, n),
        }
    )


def refuted(table: pd.DataFrame, seed: int = 1, **options: object) -> pd.DataFrame:
    scm = fitted(table, seed, **options)
    return refute(scm, table, effects_of(scm, table), REGIONS)


def effects_of(scm: Scm, table: pd.DataFrame) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regional_effects, "DRAWS", 10)
        return measured_effects(scm, table, REGIONS)


def fitted(table: pd.DataFrame, seed: int = 1, **options: object) -> Scm:
    latents = np.random.default_rng(9).normal(size=(len(table), 3))
    return Scm.fit(table, latents, ScmOptions.model_validate(OPTIONS | options), seed)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return cohort()


@pytest.fixture(scope="module")
def found(table: pd.DataFrame) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refutation, "REPEATS", 20)
        patch.setattr(refutation, "LEVEL", 0.1)
        return refuted(table)


@pytest.mark.slow
def test_an_effect_vanishes_with_a_placebo_and_with_other_peoples_volumes(found: pd.DataFrame) -> None:
    rows = found.set_index(["refuter", "effect", "region"])
    for key in [("total", "gm"), ("direct", "gm"), ("total", "ventricles")]:
        for refuter in ("placebo", "outcome"):
            row = rows.loc[(refuter, *key)]
            assert row["low_95_ml"] < 0 < row["high_95_ml"]
            assert abs(row["mean_ml"]) < 0.2 * abs(row["estimate_ml"])
            assert row["p"] == pytest.approx(1 / 21)
            assert row["holds"]
            assert row["repeats"] == 20
    # What is not there is no larger than a placebo's.
    assert not rows.loc[("placebo", "total", "csf"), "holds"]
    assert not rows.loc[("outcome", "direct", "csf"), "holds"]


@pytest.mark.slow
def test_an_effect_stays_in_parts_of_the_participants(table: pd.DataFrame, found: pd.DataFrame) -> None:
    errors = effects_of(fitted(table), table).set_index(["effect", "region"])["standard_error_ml"]
    rows = found.set_index(["refuter", "effect", "region"])
    for key in [("total", "gm"), ("direct", "gm"), ("total", "ventricles")]:
        for refuter in ("half", "bootstrap"):
            row = rows.loc[(refuter, *key)]
            assert row["mean_ml"] == pytest.approx(row["estimate_ml"], abs=0.7 * errors[key])
            assert row["holds"]
            # Both spread by about the standard error: half of the participants, about their own whole.
            assert 0.4 < (row["high_95_ml"] - row["low_95_ml"]) / (4 * errors[key]) < 1.7
    assert not rows.loc[("bootstrap", "total", "csf"), "holds"]
    assert not rows.loc[("half", "total", "csf"), "holds"]


@pytest.mark.slow
def test_a_confounder_leaves_what_one_of_that_strength_leaves(table: pd.DataFrame, found: pd.DataFrame) -> None:
    x = np.column_stack([np.ones(80), table["sex"] == "M", table["ventricles_ml"], table["age"]]).astype(float)
    age, y = x[:, 3], table["gm_ml"].to_numpy()
    cause = sm.OLS(age, x[:, :3]).fit().resid
    left = sm.OLS(y, x).fit().resid
    other = sm.OLS(np.random.default_rng(4).normal(size=80), np.column_stack([x, left])).fit().resid
    cause, left, other = (each / np.linalg.norm(each) for each in (cause, left, other))
    rows = found[found["refuter"] == "confounder"].set_index(["strength", "effect", "region"])
    for strength in refutation.STRENGTHS:
        root, rest = np.sqrt(strength), np.sqrt(1 - strength)
        # Age takes grey matter: a cause that goes with age, and takes it.
        unmeasured = root * cause - rest * (root * left + rest * other)
        slope = sm.OLS(y, np.column_stack([x, unmeasured])).fit().params[3]
        row = rows.loc[(strength, "direct", "gm")]
        assert row["mean_ml"] == pytest.approx(30 * slope, rel=1e-6)
        assert row["holds"] == (np.sign(slope) == np.sign(row["estimate_ml"]))
    # Of a node's own model, by its t: the stronger the cause, the less is left.
    of_node = [rows.loc[(strength, "total", "ventricles")] for strength in refutation.STRENGTHS]
    assert of_node[0]["estimate_ml"] > of_node[0]["mean_ml"] > of_node[1]["mean_ml"] > of_node[2]["mean_ml"]


def test_the_seed_decides(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refutation, "REPEATS", 1)
    monkeypatch.setattr(refutation, "FEWEST", 1)
    first, again, other = (refuted(table, seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert list(first.columns) == COLUMNS
    drawn = first["refuter"] != "confounder"
    assert (other.loc[drawn, "mean_ml"] != first.loc[drawn, "mean_ml"]).all()


def test_scans_of_a_participant_stay_together_and_a_second_draw_is_another_person() -> None:
    table = cohort(visits=2)
    half = _half(table, np.random.default_rng(0))
    assert half["participant"].nunique() == 20
    assert (half.groupby("participant").size() == 2).all()
    drawn = _bootstrap(table, np.random.default_rng(0))
    assert drawn["participant"].nunique() == 40
    assert (drawn.groupby("participant").size() == 2).all()
    assert drawn["scan"].is_unique
    assert drawn["age"].nunique() < 80


def test_what_cannot_be_fitted_is_counted_and_not_told(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half holds two of the three participants of site B every other time."""
    monkeypatch.setattr(refutation, "REPEATS", 6)
    monkeypatch.setattr(refutation, "FEWEST", 6)
    found = refuted(
        table.assign(site=[*"BBB", *["A"] * 77]),
        nodes={"age": {}, "site": {}},
        image={"formula": "age + site", "shrinkage": "none"},
        contrasts={"site": {"site": ["A", "B"]}},
    )
    rows = found[found["region"] == "gm"].set_index(["refuter", "effect"])
    assert rows.loc[("placebo", "total"), "repeats"] == 6
    assert np.isfinite(rows.loc[("placebo", "total"), "p"])
    assert rows.loc[("half", "total"), "repeats"] < 6
    assert np.isnan(rows.loc[("half", "total"), "p"])
    assert pd.isna(rows.loc[("half", "total"), "holds"])


def test_estimates_are_those_of_the_table(table: pd.DataFrame) -> None:
    scm = fitted(table)
    effects = effects_of(scm, table).set_index(["effect", "region"])["estimate_ml"]
    found = pd.Series(estimates(scm, table, REGIONS, contrast_change(scm, "ageing")))
    pd.testing.assert_series_equal(found.sort_index(), effects.sort_index(), check_names=False, rtol=1e-9)


@pytest.mark.slow
def test_questions_are_refuted_as_contrasts_are(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refutation, "REPEATS", 12)
    monkeypatch.setattr(refutation, "FEWEST", 12)
    monkeypatch.setattr(refutation, "LEVEL", 0.2)
    monkeypatch.setattr(regional_effects, "DRAWS", 10)
    asked = [
        {"name": "older", "do": {"age": "+10"}, "scans": "sex == 'F'", "effect": "direct"},
        {"name": "women", "do": {"sex": "F"}, "scans": "sex == 'F'"},  # changes nothing
        {"name": "a80", "trajectory": "path", "do": {"age": 80}, "scans": "all"},
        {"name": "a90", "trajectory": "path", "do": {"age": 90}, "scans": "all"},
        {"name": "fourth", "do": {"age": 60}, "scans": "all"},
    ]
    scm = fitted(table, contrasts={})
    queries = [QueryOptions.model_validate(query) for query in asked]
    found = refute(scm, table, effects_of(scm, table), REGIONS, queries)
    of_queries = found[found["asked"] == "counterfactual"]
    assert list(of_queries["contrast"].unique()) == ["older", "a80"]
    rows = of_queries.set_index(["contrast", "effect", "region", "refuter"]).sort_index()
    x = np.column_stack([np.ones(80), table["age"], table["sex"] == "M", table["ventricles_ml"]]).astype(float)
    slope = sm.OLS(table["gm_ml"], x).fit()
    for refuter, vanishes in (("placebo", True), ("outcome", True), ("half", False), ("bootstrap", False)):
        row = rows.loc[("older", "direct", "gm", refuter)]
        assert row["estimate_ml"] == pytest.approx(10 * slope.params.iloc[1])
        assert row["effect_p"] == pytest.approx(slope.pvalues.iloc[1])
        assert row["holds"]
        assert (abs(row["mean_ml"]) < 0.3 * abs(row["estimate_ml"])) == vanishes
    to_80 = rows.loc[("a80", "total", "ventricles", "bootstrap"), "estimate_ml"].item()
    ventricles = sm.OLS(table["ventricles_ml"], x[:, :2]).fit().params.iloc[1]
    assert to_80 == pytest.approx(ventricles * (80 - table["age"]).mean())
