"""Several scans a participant, missing covariates, and regional effects: what a cohort that is not tidy needs."""

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from test_scm_model import Cohort as KnownCohort
from test_scm_model import Grid, LinearDecoder, latent_shift
from test_scm_model import options as known_options

from brainscm.cohort.index import index_cohort
from brainscm.config import CohortOptions, ScmOptions
from brainscm.errors import ConfigError
from brainscm.scans import ScanTable
from brainscm.scm import permutation, regional_effects
from brainscm.scm.covariates import node_column
from brainscm.scm.design import Array
from brainscm.scm.diagnostics import diagnose
from brainscm.scm.effects import write_effect_maps
from brainscm.scm.image import fit_image
from brainscm.scm.inference import contrast_tests, robust_errors_of, wald_test
from brainscm.scm.model import Scm, load_scm
from brainscm.scm.regional_effects import measured_effects
from brainscm.scm.sample import Sample
from brainscm.scm.sensitivity import robustness_value
from brainscm.tables import write_table
from brainscm.visits import add_years_since_baseline
from made_up_measure import measured_by

pytestmark = pytest.mark.slow

SIZE = 20
FAMILIES = {
    "gaussian": {},
    "gamma": {},
    "poisson": {},
    "binomial": {"levels": ["no", "yes"]},
    "ordered": {"levels": ["I", "II", "III"]},
    "multinomial": {"levels": ["I", "II", "III"]},
}


def visits(participants: int = 60, seed: int = 0) -> tuple[pd.DataFrame, Array, Array, Array]:
    """Two or three scans a participant, who differ by `across` a year at baseline and change by `along` a year."""
    rng = np.random.default_rng(seed)
    across, along = rng.normal(0, 0.05, SIZE), rng.normal(0, 0.3, SIZE)
    rows, z = [], []
    for participant in range(participants):
        baseline, own = rng.uniform(40, 80), 2 * rng.normal(size=SIZE)
        for visit in range(2 + participant % 2):
            years = visit * rng.uniform(2, 5)
            rows.append({"scan": f"s{participant}-{visit}", "participant": f"s{participant}", "age": baseline + years})
            z.append(across * baseline + along * years + own + 0.5 * rng.normal(size=SIZE))
    return pd.DataFrame(rows).assign(split="train"), np.array(z), across, along


def declared(nodes: dict[str, Any], image: str, **fields: Any) -> ScmOptions:
    return ScmOptions.model_validate({"nodes": nodes, "image": {"formula": image}, "permutations": 0, **fields})


def test_ageing_within_participants_is_told_from_differences_between_generations() -> None:
    table, z, across, along = visits()
    table = add_years_since_baseline(table)
    np.testing.assert_allclose(table["age_baseline"] + table["years_since_baseline"], table["age"])
    assert (table.groupby("participant")["years_since_baseline"].min() == 0).all()
    options = declared(
        {"age_baseline": {}, "years_since_baseline": {}},
        "age_baseline + years_since_baseline",
        contrasts={"generations": {"age_baseline": [50, 60]}, "ageing": {"years_since_baseline": [0, 5]}},
        permutations=50,
    )
    scm = Scm.fit(table, z, options, seed=1)
    participants = table.iloc[:1]
    later = latent_shift(scm, participants, scm.intervene(participants, {"years_since_baseline": "+5"}))[0]
    np.testing.assert_allclose(later, 5 * along, atol=0.6)
    assert np.corrcoef(later, along)[0, 1] > 0.98
    assert scm.image.coefficients[1] == pytest.approx(across, abs=0.12)
    tests = contrast_tests(scm, scm.sample(z, range(len(z)))).set_index(["contrast", "effect"])
    assert tests.loc[("generations", "total"), "exchanged"] == "whole participants"
    assert tests.loc[("ageing", "total"), "exchanged"] == "scans within participants"
    assert tests.loc[("ageing", "total"), "min_p_fwe"] == pytest.approx(1 / 51)


def test_the_halves_of_age_need_no_column_and_never_replace_one(tmp_path: Path) -> None:
    scans = pd.DataFrame({"scan": ["a1", "a2", "b1"], "participant": ["a", "a", "b"], "age": [60.0, 63.5, None]})
    scans["split"] = "train"
    write_table(scans, tmp_path / "scans.tsv")
    qc = scans[["scan"]].assign(status="pass", reasons=None, hippocampus_left_ml=[3.0, 2.9, 3.1])
    write_table(qc, tmp_path / "qc.tsv")
    table = ScanTable.read(tmp_path / "scans.tsv", tmp_path / "qc.tsv").rows
    assert table["years_since_baseline"].tolist()[:2] == [0, 3.5]
    assert table.loc["b1", ["age_baseline", "years_since_baseline"]].isna().all()
    own = add_years_since_baseline(scans.assign(age_baseline=1.0))
    assert own["age_baseline"].tolist() == [1, 1, 1]
    text = scans.assign(age=["60-65", "65-70", None])
    pd.testing.assert_frame_equal(add_years_since_baseline(text), text)
    # Any region that preprocessing measured is a node by its name, with or without the unit.
    for name in ("hippocampus_left", "hippocampus_left_ml"):
        options = declared({name: {}}, name)
        assert node_column(name, options, table) == "hippocampus_left_ml"


def test_an_index_knows_the_halves_of_age(tmp_path: Path) -> None:
    for participant in [f"sub-{i}" for i in range(1, 9)]:
        (tmp_path / participant / "anat").mkdir(parents=True)
        (tmp_path / participant / "anat" / f"{participant}_T1w.nii.gz").touch()
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\n" + "".join(f"sub-{i}\t{50 + i}\n" for i in range(1, 9))
    )
    scans = index_cohort(tmp_path, CohortOptions(stratify=[]), ["age_baseline", "years_since_baseline"], 1).scans
    assert len(scans) == 8
    with pytest.raises(ConfigError, match="no column 'years_since'"):
        index_cohort(tmp_path, CohortOptions(stratify=[]), ["years_since"], 1)


def holes(n: int = 400, seed: int = 0) -> tuple[pd.DataFrame, Array]:
    """age → ventricles → z, and age → z; a third of the ventricles and some ages are missing."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(30, 80, n)
    ventricles = np.exp(1.5 + 0.02 * age) * rng.gamma(30, 1 / 30, n)
    z = 1 + 0.02 * np.outer(age, np.ones(SIZE)) + np.outer(ventricles, np.linspace(-0.1, 0.1, SIZE))
    z += 0.3 * rng.normal(size=(n, SIZE))
    ids = [f"s{i}" for i in range(n)]
    table = pd.DataFrame({"scan": ids, "participant": ids, "age": age, "ventricles_ml": ventricles})
    table["split"] = np.where(np.arange(n) % 4 == 0, "test", "train")
    table.loc[rng.choice(n, n // 3, replace=False), "ventricles_ml"] = np.nan
    table.loc[[1, 2, 3], "age"] = np.nan
    return table, z


GAPS = {"age": {}, "ventricles": {"formula": "age", "family": "gamma"}}


def test_missing_mediators_are_imputed_from_their_model_and_missing_causes_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, z = holes()
    train = table["split"] == "train"
    options = declared(GAPS, "age + ventricles", missing="impute")
    with caplog.at_level(logging.WARNING, logger="brainscm"):
        scm = Scm.fit(table, z, options, seed=1)
    lacking = int((train & table["ventricles_ml"].isna() & table["age"].notna()).sum())
    assert "3 of 300 training scans are left out of the fit" in caplog.text
    assert f"{lacking} training scans lack ventricles, which is imputed" in caplog.text
    assert len(scm.training) == 297
    dropped = Scm.fit(table, z, declared(GAPS, "age + ventricles"), seed=1)
    assert len(dropped.training) == int((train & table["ventricles_ml"].notna() & table["age"].notna()).sum())
    # The node is fitted where it was measured, and the imputed value is its mean.
    np.testing.assert_array_equal(scm.nodes["ventricles"].parameters, dropped.nodes["ventricles"].parameters)
    row = scm.training[scm.training["ventricles_ml"].isna()].iloc[:1]
    expected = np.exp(scm.nodes["ventricles"].parameters @ [1, row["age"].iloc[0]])
    assert scm.values(row)["ventricles"].iloc[0] == pytest.approx(expected)
    np.testing.assert_allclose(scm.image.coefficients[2], np.linspace(-0.1, 0.1, SIZE), atol=0.05)
    found = diagnose(scm, 300).set_index(["check", "item"])
    assert found.loc[("imputed_scans", "ventricles"), "value"] == lacking
    scm.save(tmp_path)
    loaded = load_scm(tmp_path, options)
    asked = table[table["split"] == "test"]
    np.testing.assert_array_equal(loaded.design_matrix(asked), scm.design_matrix(asked))
    pd.testing.assert_frame_equal(loaded.training_values, scm.training_values)


def test_a_scan_without_its_mediator_is_asked_as_if_it_had_the_expected_one() -> None:
    table, z = holes()
    scm = Scm.fit(table, z, declared(GAPS, "age + ventricles", missing="impute"), seed=1)
    rows = table[(table["split"] == "test") & table["ventricles_ml"].isna()]
    filled = rows.assign(ventricles_ml=scm.values(rows)["ventricles"])
    assert (scm.problems(rows) == "").all()
    for effect in ("total", "direct"):
        mine, theirs = (scm.intervene(each, {"age": "+10"}, effect) for each in (rows, filled))  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(mine, theirs)
        np.testing.assert_array_equal(latent_shift(scm, rows, mine), latent_shift(scm, filled, theirs))
    same = scm.intervene(rows, {"age": "+0"})
    assert not latent_shift(scm, rows, same).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_expected_is_the_mean_or_the_commonest(family: str) -> None:
    rng = np.random.default_rng(0)
    n = 3000
    age = rng.uniform(30, 80, n)
    linear = (age - 55) / 10
    made: dict[str, Any] = {
        "gaussian": linear + rng.normal(size=n),
        "gamma": np.exp(0.2 * linear) * rng.gamma(10, 0.1, n),
        "poisson": rng.poisson(np.exp(1 + 0.3 * linear)),
        "binomial": np.array(["no", "yes"])[(linear + rng.logistic(size=n) > 0).astype(int)],
    }
    levels = np.array(["I", "II", "III"])[np.searchsorted([-1.5, 1.5], linear + rng.logistic(size=n))]
    table = pd.DataFrame({"scan": [str(i) for i in range(n)], "age": age, "y": made.get(family, levels)})
    table["participant"], table["split"] = table["scan"], "train"
    y = {"formula": "age", "family": family, **FAMILIES[family]}
    scm = Scm.fit(table, rng.normal(size=(n, 2)), declared({"age": {}, "y": y}, "age"), seed=1)
    old = table.iloc[:1].assign(age=70.0)
    expected = scm.nodes["y"].expected(scm.values(old))[0]
    near = table.loc[(age > 68) & (age < 72), "y"]
    if family in ("gaussian", "gamma"):
        assert expected == pytest.approx(near.mean(), abs=0.2)
    elif family == "poisson":
        assert expected == pytest.approx(near.median(), abs=1)
    else:
        assert expected == near.mode().iloc[0]


def test_regional_effects_are_those_of_statsmodels_with_the_mediators_uncertainty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regional_effects, "DRAWS", 20)
    cohort = KnownCohort(n=300)
    rng = np.random.default_rng(0)
    table = cohort.table.assign(
        gm_ml=700 - 2 * cohort.table["age"] - 3 * cohort.table["ventricles_ml"] + rng.normal(0, 20, 300)
    )
    scm = Scm.fit(table, cohort.latents, known_options(ageing={"age": [50, 80]}), seed=7)
    found = measured_effects(scm, table, ("gm", "ventricles", "absent")).set_index(["contrast", "effect", "region"])
    assert set(found.index.get_level_values("region")) == {"gm", "ventricles"}
    peer = sm.OLS(scm.training.merge(table[["scan", "gm_ml"]])["gm_ml"], scm.design_matrix(scm.training)).fit()
    at = list(scm.design.columns).index("age")
    direct = found.loc[("ageing", "direct", "gm")]
    test = peer.t_test(30 * np.eye(len(scm.design.columns))[at])
    assert direct["estimate_ml"] == pytest.approx(test.effect.item())
    np.testing.assert_allclose(direct[["ci95_low_ml", "ci95_high_ml"]].tolist(), np.squeeze(test.conf_int()))
    assert direct["p"] == pytest.approx(test.pvalue.item())
    assert direct["cohens_d"] == pytest.approx(test.effect.item() / np.sqrt(peer.mse_resid))
    total = found.loc[("ageing", "total", "gm")]
    assert total["ci95_low_ml"] < 30 * (-2 - 3 * 0.5) < total["ci95_high_ml"]
    assert total["estimate_percent"] == pytest.approx(100 * total["estimate_ml"] / total["mean_ml"])
    # Through the mediator: 3 ml for each ml of ventricles, known only as well as the ventricles' slope is.
    node = scm.nodes["ventricles"]
    slope = node.design.columns.index("age")
    through = 30 * np.sqrt(node.covariance[slope, slope])
    assert found.loc[("ageing", "total", "ventricles"), "standard_error_ml"] == pytest.approx(through, rel=0.5)
    assert found.loc[("ageing", "total", "ventricles"), "estimate_ml"] == pytest.approx(15, abs=2)
    assert total["standard_error_ml"] > 1.8 * through
    of_node = sm.OLS(scm.training["ventricles_ml"], node.design.matrix(scm.training_values)).fit()
    t2 = of_node.tvalues.iloc[slope] ** 2
    known = robustness_value(np.array([t2 / (t2 + of_node.df_resid)]))[0]
    assert found.loc[("ageing", "total", "ventricles"), "robustness_value"] == pytest.approx(known, rel=0.25)
    passed_on = found.loc[("ageing", "total", "ventricles")]
    half = (passed_on["ci95_high_ml"] - passed_on["estimate_ml"]) / passed_on["standard_error_ml"]
    assert half == pytest.approx(scipy.stats.t.ppf(0.975, 240 - len(node.design.columns)), rel=1e-6)
    assert ("ageing", "direct", "ventricles") not in found.index


def test_regional_effects_of_repeated_scans_have_clustered_errors() -> None:
    table, z, *_ = visits()
    volume = 700 - 2 * table["age"] + np.random.default_rng(0).normal(0, 20, len(table))
    table = table.assign(gm_ml=volume + 0.1 * table["participant"].str[1:].astype(int))
    scm = Scm.fit(table, z, declared({"age": {}}, "age", contrasts={"ageing": {"age": [50, 60]}}), seed=1)
    found = measured_effects(scm, table, ["gm"]).set_index("effect").loc["direct"]
    sample = Sample.of(
        scm.design_matrix(table), scm.design.columns, table["gm_ml"].to_numpy()[:, None], table["participant"].tolist()
    )
    c, model = np.array([[0, 10.0]]), fit_image(sample, seed=0)
    peer = wald_test(model, c, robust_errors_of("ordinary", model, c, sample)[0])
    assert found["estimate_ml"] == pytest.approx(10 * model.coefficients[1].item())
    assert found["standard_error_ml"] == pytest.approx(peer.standard_error.item())
    half = scipy.stats.t.ppf(0.975, peer.df2) * peer.standard_error.item()
    assert found["ci95_high_ml"] - found["estimate_ml"] == pytest.approx(half)
    assert found["p"] == pytest.approx(peer.p.item(), rel=1e-6)
    assert peer.df2 < table["participant"].nunique() - 1


def test_regions_of_the_decoded_maps_change_as_the_maps_do(tmp_path: Path) -> None:
    cohort = KnownCohort(n=120)
    scm = Scm.fit(cohort.table, cohort.latents, known_options(ageing={"age": [50, 80]}), seed=7)
    grid = Grid((4, 4, 4), np.diag([2.0, 2, 2, 1]))

    @measured_by
    def halves(volume: np.ndarray, mask: np.ndarray, head_size: float) -> dict[str, float]:
        assert (mask == brain_mask).all()
        assert head_size == 1
        return {"left": float(volume[:2].sum()), "right": float(volume[2:].sum())}

    brain_mask = np.ones((4, 4, 4), dtype=bool)
    found = write_effect_maps(scm, LinearDecoder(), grid, halves, brain_mask, tmp_path)
    found = found.set_index(["contrast", "effect", "region"])
    assert set(found.index.droplevel("region")) == {("ageing", "total"), ("ageing", "direct")}
    volume = np.asarray(nib.load(tmp_path / "ageing_desc-direct_T1w.nii.gz").dataobj)
    row = found.loc[("ageing", "direct", "left")]
    assert row["estimate_ml"] == pytest.approx(float(volume[:2].sum()), abs=1e-3)
    assert row["source"] == "decoded"
    assert row["ci95_high_ml"] - row["estimate_ml"] == pytest.approx(2.3060 * row["standard_error_ml"], rel=1e-3)


def test_errors_of_total_and_direct_effects_are_the_estimates_sd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regional_effects, "DRAWS", 20)
    names = [f"r{i}" for i in range(10)]
    truth = {"total": 10 * (-2 - 3 * 0.5), "direct": -20.0}
    covered: dict[str, list[bool]] = {"total": [], "direct": []}
    errors: dict[str, list[float]] = {"total": [], "direct": []}
    options = declared(
        {"age": {}, "ventricles": {"formula": "age"}}, "age + ventricles", contrasts={"ageing": {"age": [50, 60]}}
    )
    for seed in range(30):
        rng = np.random.default_rng(seed)
        age = rng.uniform(30, 80, 50)
        ventricles = 5 + 0.5 * age + rng.normal(0, 8, 50)
        ids = [str(i) for i in range(50)]
        table = pd.DataFrame({"scan": ids, "participant": ids, "age": age, "ventricles_ml": ventricles})
        table["split"] = "train"
        for name in names:
            table[f"{name}_ml"] = 700 - 2 * age - 3 * ventricles + rng.normal(0, 20, 50)
        scm = Scm.fit(table, rng.normal(size=(50, 2)), options, seed=seed)
        for row in measured_effects(scm, table, names).to_dict("records"):
            covered[row["effect"]].append(row["ci95_low_ml"] < truth[row["effect"]] < row["ci95_high_ml"])
            errors[row["effect"]].append((row["estimate_ml"] - truth[row["effect"]]) / row["standard_error_ml"])
    for effect, found in errors.items():  # an error that is wrong by 20 % gives 0.83 or 1.25
        assert np.sqrt(np.mean(np.square(found))) == pytest.approx(1, abs=0.12)
        assert np.mean(covered[effect]) == pytest.approx(0.95, abs=0.03)


def test_a_permutation_test_of_repeated_scans_does_not_take_them_for_participants() -> None:
    # A covariate of participants with 2 scans each, pure noise that these share: pairs kept together must not reject.
    rng = np.random.default_rng(0)
    hits = {"participants": 0, "scans": 0}
    for trial in range(60):
        x = np.repeat(np.column_stack([np.ones(12), rng.normal(size=12)]), 2, axis=0)
        z = np.repeat(rng.normal(size=(12, 10)), 2, axis=0) + 0.1 * rng.normal(size=(24, 10))
        c = np.array([[0, 1.0]])
        for kind, scans_each in (("participants", 2), ("scans", 1)):
            sample = Sample.of(x, ["1", "x"], z, [f"p{i // scans_each}" for i in range(24)])
            largest = permutation.max_statistics(sample, [c], 99, seed=trial)[0]
            basis = permutation.Basis.of(x, c)
            observed = permutation.permuted_maxima(basis, basis.unit_residuals(z), iter([np.arange(24)]))
            hits[kind] += permutation.family_wise_p(observed, largest)[0] <= 0.05
    assert hits["participants"] <= 10  # binomial(60, 0.05): more than 10 once in 3000
    assert hits["scans"] > 20
