"""The declared model is the one that the participants follow, and interventions keep the participant."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.miscmodels.ordinal_model import OrderedModel

from brainscm.errors import BrainSCMError
from brainscm.simulation.causal_model import (
    COEFFICIENTS,
    DIAGNOSES,
    LIMITS,
    draw_nodes,
    draw_noise,
    intervene,
    later,
)

SEED = 4


@pytest.fixture(scope="module")
def participants() -> pd.DataFrame:
    table = pd.DataFrame([vars(draw_nodes(draw_noise(SEED, number))) for number in range(1, 401)])
    table["intercept"] = 1.0
    table["d"] = (table["age"] - 50) / 10
    table["d2"] = table["d"] ** 2
    table["male"] = (table["sex"] == "M").astype(float)
    table["d_male"] = table["d"] * table["male"]
    table["mci"] = (table["diagnosis"] == "MCI").astype(float)
    table["ad"] = (table["diagnosis"] == "AD").astype(float)
    table["log_head_size_ratio"] = np.log(table["head_size"] / 1400)
    return table


@pytest.mark.parametrize(
    "equation", [name for name in COEFFICIENTS if not name.startswith(("disease", "white_matter"))]
)
def test_declared_coefficients_are_recovered(participants, equation):
    declared = {**COEFFICIENTS[equation]}
    noise = declared.pop("noise")
    node = participants[equation.removeprefix("log_")]
    fit = sm.OLS(np.log(node) if equation.startswith("log_") else node, participants[list(declared)]).fit()
    low, high = fit.conf_int(alpha=0.002)[0], fit.conf_int(alpha=0.002)[1]
    for term, value in declared.items():
        assert low[term] < value < high[term], f"{term}: {value} not in {low[term]:.3f} to {high[term]:.3f}"
    assert math.sqrt(fit.scale) == pytest.approx(noise, rel=0.15)


def test_diagnosis_is_an_ordered_logit_of_age_and_sex(participants):
    codes = pd.Series(pd.Categorical(participants["diagnosis"], categories=DIAGNOSES, ordered=True))
    fit = OrderedModel(codes, participants[["d", "male"]], distr="logit").fit(disp=False)
    for term in ("d", "male"):
        assert abs(fit.params[term] - COEFFICIENTS["disease"][term]) < 3 * fit.bse[term]
    assert participants["diagnosis"].value_counts(normalize=True).min() > 0.1


def test_a_cohort_of_ten_covers_the_covariates():
    for seed in range(5):
        table = pd.DataFrame([vars(draw_nodes(draw_noise(seed, number))) for number in range(1, 11)])
        assert np.ptp(table["age"]) > 50
        assert set(table["sex"]) == {"F", "M"}
        assert set(table["site"]) == {"A", "B"}


@pytest.mark.parametrize("effect", ["total", "direct"])
@pytest.mark.parametrize("do", [{"age": "+0"}, {"age": "-0"}, {"ventricles": "+0"}])
def test_a_null_intervention_changes_nothing(do, effect):
    noise = draw_noise(SEED, 3)
    nodes = draw_nodes(noise)
    assert intervene(nodes, noise, do, effect) == nodes
    assert intervene(nodes, noise, {"age": nodes.age, "sex": nodes.sex}, effect) == nodes


def test_a_total_effect_lets_the_mediators_respond_and_a_direct_one_holds_them():
    noise = draw_noise(SEED, 2)
    nodes = draw_nodes(noise)
    total = intervene(nodes, noise, {"age": 90}, "total")
    direct = intervene(nodes, noise, {"age": 90}, "direct")
    assert total.ventricles > nodes.ventricles
    assert total.medial_temporal_gm < nodes.medial_temporal_gm
    held = ("diagnosis", "ventricles", "medial_temporal_gm", "head_size")
    assert [getattr(direct, node) for node in held] == [getattr(nodes, node) for node in held]
    assert direct.sulcal_widening > nodes.sulcal_widening
    assert total.head_size == nodes.head_size


def test_a_mediator_that_is_set_stays_set():
    noise = draw_noise(SEED, 2)
    nodes = draw_nodes(noise)
    changed = intervene(nodes, noise, {"age": 85, "diagnosis": "CN", "ventricles": 20}, "total")
    assert (changed.age, changed.diagnosis, changed.ventricles) == (85, "CN", 20)


def test_years_later_is_the_intervention_on_age():
    for number in range(1, 20):
        noise = draw_noise(SEED, number)
        nodes = draw_nodes(noise)
        assert later(nodes, noise, 5.0) == intervene(nodes, noise, {"age": round(nodes.age + 5, 1)}, "total")


def test_nobody_gets_healthier_by_ageing():
    for number in range(1, 60):
        noise = draw_noise(SEED, number)
        path = [intervene(draw_nodes(noise), noise, {"age": age}, "total").diagnosis for age in (20, 40, 60, 80, 100)]
        assert path == sorted(path, key=DIAGNOSES.index)


@pytest.mark.parametrize(
    ("do", "says"),
    [
        ({"education": 12}, "no node 'education'"),
        ({"head_size": 1500}, "no node 'head_size'"),
        ({"diagnosis": "FTD"}, "levels CN, MCI, AD"),
        ({"age": 140}, f"{LIMITS['age'][1]:g}"),
        ({"age": "old"}, "give a number"),
    ],
)
def test_what_the_simulator_does_not_know_is_said(do, says):
    noise = draw_noise(SEED, 1)
    with pytest.raises(BrainSCMError, match=says):
        intervene(draw_nodes(noise), noise, do, "total")
