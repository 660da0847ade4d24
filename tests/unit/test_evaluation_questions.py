"""What is said of a case before its image is made: steps, targets, and the intervals of regional volumes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brainscm.config import QueryOptions, ScmOptions
from brainscm.evaluation.cases import FOLLOW_UP, Case
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.intervals import Calibration
from brainscm.evaluation.questions import PreparedCase, prepare, queries_to_calibrate
from brainscm.scm.model import Scm
from brainscm.scm.slope_spread import Slopes

OPTIONS = {
    "nodes": {"age": {"unit": "years"}, "ventricles": {"unit": "ml", "formula": "age"}},
    "image": {"formula": "age + ventricles"},
}
REGIONS = ("gm", "ventricles")
OLDER = QueryOptions(name="older", do={"age": "+20"})
CALIBRATION = Calibration(REGIONS, bias_ml=np.array([6.0, -2.0]), sd_ml=np.array([4.0, 1.0]), participants=24)
MEASURED = {"gm": 600.0, "ventricles": 30.0}
REPEAT_SD = {"gm": 5.0, "ventricles": 3.0}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        age = 30.0 + number
        ventricles = 10 + 0.5 * age + rng.normal()
        row = {"scan": f"s{number}", "participant": f"p{number}", "split": "test" if number % 4 == 0 else "train"}
        row |= {"age": age, "ventricles_ml": ventricles, "gm_ml": 900 - 2 * age + rng.normal(), "head_size": 1.0}
        rows.append({**row, "mask_volume_ml": 1500 + rng.normal()})
    return pd.DataFrame(rows).set_index("scan", drop=False).rename_axis(None)


@pytest.fixture(scope="module")
def regional(table) -> RegionalModel:
    latents = table[["gm_ml"]].to_numpy().reshape(-1, 1, 1, 1, 1)
    scm = Scm.fit(table.reset_index(drop=True), latents, ScmOptions.model_validate(OPTIONS), seed=0)
    return RegionalModel.fit(scm, table, REGIONS)


def follow_up(scan: str, age: float) -> Case:
    return Case("follow-up", scan, "p", QueryOptions(name=FOLLOW_UP, do={"age": age}), "later")


def prepared(regional, table, query: QueryOptions = OLDER, source: str = "simulated") -> PreparedCase:
    """The query put to the participant of 34 years."""
    calibrated = {query.name: {"latent_glm": CALIBRATION}}
    return prepare([Case(source, "s4", "p4", query, "")], regional, table, calibrated)[0]


def test_a_total_effect_sets_the_regions_that_are_nodes_and_a_direct_one_leaves_them(regional, table):
    total = prepared(regional, table)
    assert set(total.targets_ml) == {"ventricles"}
    assert total.targets_ml["ventricles"] == pytest.approx(table.loc["s4", "ventricles_ml"] + 10, abs=1)
    assert total.years == 20
    direct = prepared(regional, table, OLDER.model_copy(update={"effect": "direct"}))
    assert direct.targets_ml == {}
    held = prepared(regional, table, QueryOptions(name="same", do={"ventricles": "+0"}))
    assert held.targets_ml == {"ventricles": table.loc["s4", "ventricles_ml"]}
    assert np.isnan(held.years)


def test_the_mean_step_is_that_of_the_training_scans_under_the_same_question(regional, table):
    to_seventy = prepared(regional, table, QueryOptions(name="seventy", do={"age": 70}))
    age = list(regional.scm.design.columns).index("age")
    assert to_seventy.step[age] == pytest.approx(70 - 34)
    assert to_seventy.mean_step[age] == pytest.approx(70 - regional.scm.training["age"].mean())


def test_a_method_states_intervals_where_it_was_calibrated_and_the_question_moves_anything(regional, table):
    case = prepared(regional, table)
    assert set(case.intervals("latent_glm", "residual", MEASURED, REPEAT_SD)) == set(REGIONS)
    assert case.intervals("latent_glm", "direct", MEASURED, REPEAT_SD) == {}
    assert case.intervals("mean_change", "residual", MEASURED, REPEAT_SD) == {}
    null = prepared(regional, table, QueryOptions(name="same", do={"age": "+0"}))
    assert null.intervals("latent_glm", "residual", MEASURED, REPEAT_SD) == {}


def test_a_second_scan_widens_the_interval_of_a_follow_up_and_of_nothing_else(regional, table):
    simulated = prepared(regional, table)
    later = replace(simulated, case=replace(simulated.case, source="follow-up"))
    narrow, wide = (case.intervals("latent_glm", "residual", MEASURED, REPEAT_SD)["gm"] for case in (simulated, later))
    assert wide.sd_ml**2 - narrow.sd_ml**2 == pytest.approx(REPEAT_SD["gm"] ** 2)


def test_participants_own_slopes_widen_the_interval_of_a_change_in_time(regional, table):
    differing = replace(regional, slopes={"gm": Slopes(-2.0, 0.3, 0.3 * 1.959964)})
    for query, years in ((OLDER, 20), (OLDER.model_copy(update={"effect": "direct"}), 0)):
        narrow, wide = (
            prepared(each, table, query).intervals("latent_glm", "residual", MEASURED, {})
            for each in (regional, differing)
        )
        assert wide["gm"].sd_ml ** 2 - narrow["gm"].sd_ml ** 2 == pytest.approx((0.3 * years) ** 2, rel=1e-6)
        assert wide["ventricles"].sd_ml == narrow["ventricles"].sd_ml


def test_follow_ups_are_calibrated_at_the_middle_interval_and_scaled_by_their_own(regional, table):
    cases = [follow_up("s0", 32.0), follow_up("s4", 38.0), follow_up("s8", 46.0)]  # 2, 4 and 8 years
    queries = queries_to_calibrate(cases, regional.scm, table, with_follow_ups=True)
    assert {name: query.do for name, query in queries.items()} == {FOLLOW_UP: {"age": "+4.0000"}}
    found = prepare(cases, regional, table, {FOLLOW_UP: {"latent_glm": CALIBRATION}})
    assert [case.years for case in found] == [2.0, 4.0, 8.0]
    assert [case.calibrations["latent_glm"].bias_ml[0] for case in found] == pytest.approx([3.0, 6.0, 12.0])
    age = list(regional.scm.design.columns).index("age")
    assert [case.mean_step[age] for case in found] == pytest.approx([2.0, 4.0, 8.0])


def test_follow_ups_without_a_noise_floor_are_not_calibrated_and_state_no_interval(regional, table):
    cases = [follow_up("s0", 32.0), Case("simulated", "s4", "p4", OLDER, "")]
    assert set(queries_to_calibrate(cases, regional.scm, table, with_follow_ups=False)) == {"older"}
    later, _ = prepare(cases, regional, table, {"older": {}})
    assert later.intervals("latent_glm", "residual", MEASURED, {}) == {}
