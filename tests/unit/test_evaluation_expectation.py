"""What the causal model expects of regional volumes, and how far repeated scans come apart."""

import numpy as np
import pandas as pd
import pytest

from brainscm.config import QueryOptions, ScmOptions
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.repeats import measure_repeats
from brainscm.scm.model import Scm

OPTIONS = {
    "nodes": {
        "age": {"unit": "years"},
        "sex": {"levels": ["F", "M"]},
        "ventricles": {"unit": "ml", "formula": "age", "family": "gamma"},
    },
    "image": {"formula": "age + sex + ventricles"},
}
REGIONS = ["gm", "ventricles", "csf"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """120 participants: in a head of size 1, 1.5 ml of grey matter are lost a year, and 2 ml for each ml of ventricles.

    CSF is what grey matter leaves of the mask, and the mask of an older participant leaves more of it out.
    """
    rng = np.random.default_rng(3)
    rows = []
    for number in range(120):
        age, sex = rng.uniform(20, 80), "FM"[number % 2]
        ventricles = np.exp(2.5 + 0.015 * age + rng.normal(0, 0.2))
        head_size = rng.uniform(0.7, 1.3)
        gm = (900 + 40 * (sex == "M") - 1.5 * age - 2 * ventricles + rng.normal(0, 5)) / head_size
        mask = (1200 - age + rng.normal(0, 20)) / head_size
        rows.append(
            {"scan": f"s{number}", "participant": f"p{number}", "split": "test" if number % 6 == 0 else "train"}
            | {"age": age, "sex": sex, "ventricles_ml": ventricles, "gm_ml": gm, "csf_ml": mask - gm}
            | {"mask_volume_ml": mask, "head_size": head_size}
        )
    return pd.DataFrame(rows).set_index("scan", drop=False).rename_axis(None)


@pytest.fixture(scope="module")
def model(table) -> RegionalModel:
    latents = table[["gm_ml"]].to_numpy().reshape(-1, 1, 1, 1, 1)
    scm = Scm.fit(table.reset_index(drop=True), latents, ScmOptions.model_validate(OPTIONS), seed=0)
    return RegionalModel.fit(scm, table, REGIONS)


def expected(model, table, effect):
    tested = table[table["split"] == "test"]
    found = model.expect(QueryOptions(name="older", do={"age": "+20"}, effect=effect), tested)
    return tested, found, pd.DataFrame(found.change_ml, index=tested.index, columns=REGIONS)


def test_a_total_effect_holds_what_the_ventricles_pass_on_and_scales_with_the_head(model, table):
    tested, _, change = expected(model, table, "total")
    widening = tested["ventricles_ml"] * np.expm1(0.015 * 20)
    true = (-1.5 * 20 - 2 * widening) / tested["head_size"]
    assert np.abs(change["gm"] - true).max() < 0.15 * np.abs(true).mean()
    assert change["gm"].corr(true) > 0.95
    pd.testing.assert_series_equal(change["ventricles"], widening, rtol=0.25, check_names=False)


def test_what_fills_the_mask_of_a_scan_changes_by_nothing_together(model, table):
    for effect in ("total", "direct"):
        _, _, change = expected(model, table, effect)
        assert change["gm"].mean() < -20
        assert np.abs(change["gm"] + change["csf"]).max() < 1e-6


def test_a_direct_effect_leaves_the_ventricles_as_they_are(model, table):
    tested, _, change = expected(model, table, "direct")
    assert (change["ventricles"] == 0).all()
    assert (change["gm"] * tested["head_size"]).mean() == pytest.approx(-30, abs=4)


def test_draws_spread_as_far_as_the_parameters_are_uncertain(model, table):
    _, found, change = expected(model, table, "total")
    sd = found.drawn_ml.std(axis=0, ddof=1)
    errors = np.abs(change.to_numpy().mean(axis=0) - found.drawn_ml.mean(axis=(0, 1)))
    assert (sd > 0).all()
    assert (errors < 2 * sd.mean(axis=0)).all()


def test_a_null_question_changes_nothing(model, table):
    found = model.expect(QueryOptions(name="same", do={"age": "+0"}), table.head(5))
    assert not found.change_ml.any()
    assert not found.drawn_ml.any()


def repeated(table: pd.DataFrame, pairs: int, years: float, noise_ml: float, split: str) -> pd.DataFrame:
    first = table[table["split"] == split].head(pairs)
    rng = np.random.default_rng(5)
    noise = rng.normal(0, noise_ml, len(first))
    again = first.assign(scan=first["scan"] + "b", age=first["age"] + years, gm_ml=first["gm_ml"] - 2 * years + noise)
    return pd.concat([table, again.set_index("scan", drop=False).rename_axis(None)])


def test_rescans_on_one_day_give_the_noise_floor(model, table):
    found = measure_repeats(repeated(table, 60, 0.0, 3.0, "train"), model.scm, REGIONS)
    assert found.sd_ml["gm"] == pytest.approx(3.0, rel=0.25)
    assert found.source == "60 repeated scans"


def test_later_scans_stand_in_for_repeats_once_their_common_slope_is_taken_out(model, table):
    found = measure_repeats(repeated(table, 60, 4.0, 3.0, "train"), model.scm, REGIONS)
    assert found.sd_ml["gm"] == pytest.approx(3.0, rel=0.25)
    assert "later scans" in found.source


def test_the_test_split_does_not_enter_and_no_repeats_are_no_floor(model, table):
    found = measure_repeats(repeated(table, 20, 0.0, 3.0, "test"), model.scm, REGIONS)
    assert found.sd_ml == {}
    assert "outside the test split" in found.source
