"""The first page's claims, drawn from the evaluation's complete table."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainscm.config import QueryOptions
from brainscm.report.badges import EXTRAPOLATION, FEW, NOT_CALIBRATED, SUPPORTED, badges
from brainscm.report.changes import Change, read_changes, read_follow_ups
from brainscm.report.headlines import (
    Evidence,
    Found,
    Margin,
    _compared,
    findings,
    headline_figures,
    millilitres,
    standing_still,
    wrong_ways,
)

# PSNR by method and query, one value a participant; the best baseline is not among those of summary.json.
PSNR = {
    "latent_glm": {"older": [29.0, 30.0, 31.0], "AD": [27.0, 27.5, 28.0]},
    "voxel_shrunken": {"older": [27.0, 28.0, 29.0], "AD": [28.0, 28.5, 29.0]},
    "persistence": {"older": [26.0, 27.0, 28.0], "AD": [26.0, 26.5, 27.0]},
    "latent_ceiling": {"older": [40.0, 40.0, 40.0], "AD": [40.0, 40.0, 40.0]},
}
QUERIES = [QueryOptions(name=name, do={"age": "+20"}) for name in ("older", "AD")]


def table(correlation: float = 0.7, slope: float = 0.6, coverage: float = 0.87, participants: int = 30) -> pd.DataFrame:
    """Means of BrainSCM's scores, and single measurements of PSNR, coverage and regional changes."""
    rows = []

    def row(level: str, metric: str, value: float, **more: object) -> None:
        about = {"level": level, "source": "simulated", "method": "latent_glm", "decode": "residual"}
        rows.append({**about, "metric": metric, "value": value, **more})

    for metric, mean, worst in (
        ("change_correlation", correlation, 0.1),
        ("change_slope", slope, 0.2),
        ("interval_coverage_95", coverage, 0.53),
    ):
        size = {"scans": participants, "participants": participants}
        row("mean", metric, mean, stratum="all", ci95_low=mean - 0.1, ci95_high=mean + 0.1, **size)
        for query, value in (("older", mean), ("AD", worst)):
            row("mean", metric, value, stratum=f"query={query}", **size)
    for method, by_query in PSNR.items():
        for query, values in by_query.items():
            for place, value in enumerate(values):
                who = {"scan": f"sub-{place}", "participant": f"sub-{place}"}
                row("scan", "psnr_brain_db", value, query=query, **who | {"method": method})
                held = float(query != "AD")
                row("scan", "interval_coverage_95", held, query=query, region="ventricles", **who)
    columns = ["level", "stratum", "source", "method", "decode", "query", "scan", "participant", "region", "metric",
               "value", "ci95_low", "ci95_high", "scans", "participants"]  # fmt: skip
    return pd.DataFrame(rows).reindex(columns=columns).astype({"region": object})


def study(metrics: pd.DataFrame, changes: dict | None = None, why_null: dict | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        metrics=metrics,
        summary={"methods": {"latent_glm": {"why_null": why_null or {}}}, "truth": {"source": "simulated"}},
        changes=changes or {},
        measured_changes={},
        coverage={"older": 0.95, "AD": 0.53},
        queries=QUERIES,
    )


def test_the_best_baseline_is_that_of_the_complete_table_and_no_ceiling():
    margin = Evidence.of(table(), "simulated").margin()
    assert margin.rival == "voxel_shrunken"
    assert margin.found.value == pytest.approx(0.5)
    assert margin.found.worst == ("AD", pytest.approx(-1.0))
    assert (margin.found.scans, margin.found.participants) == (3, 3)


def test_findings_give_interval_basis_and_the_worst_query():
    said = " ".join(findings(study(table())))
    assert "correlates 0.70 (0.60 to 0.80)" in said
    assert "30 scans of 30 participants" in said
    assert "Least is AD (0.10)" in said
    assert "too small: 0.60 of the true change (95 % interval 0.50 to 0.70)" in said
    assert "voxelwise GLM, shrunken" in said
    assert "Least is gained under AD (−1.0 dB)" in said
    assert "hold the truth in 87 % of cases" in said
    assert "Least often held: ventricles under AD, 0 of 12." in said
    assert "All regions under AD: 53 %." in said


def test_of_a_mean_without_an_interval_none_is_announced():
    of_one = table(participants=1).assign(ci95_low=np.nan, ci95_high=np.nan)
    said = findings(study(of_one))[0]
    assert said.startswith("The predicted change correlates 0.70 with the true one: 1 scan of 1 participant.")


def test_findings_do_not_hide_a_loss():
    assert "in the wrong direction (−0.20)" in " ".join(findings(study(table(slope=-0.2))))
    assert "too narrow" in " ".join(findings(study(table(coverage=0.5))))
    worse = table()
    is_own = (worse["method"] == "latent_glm") & (worse["metric"] == "psnr_brain_db")
    worse.loc[is_own, "value"] -= 5
    assert "4.5 dB further from the truth than those of the best baseline" in " ".join(findings(study(worse)))


def test_findings_give_the_reason_where_there_is_no_truth():
    nothing = study(table().head(0), why_null={"change_correlation": "no follow-up scan"})
    assert findings(nothing) == ["Whether the counterfactuals are right could not be measured: no follow-up scan."]
    assert [figure["note"] for figure in headline_figures(nothing)] == ["no follow-up scan", "no truth is known"]


@pytest.mark.parametrize(("participants", "said"), [(1, "rests on 1 participant:"), (19, "rests on 19"), (20, None)])
def test_findings_of_few_participants_say_so(participants, said):
    last = findings(study(table(participants=participants)))[-1]
    assert said in last if said else "rests on" not in last


def test_headline_figures_stand_beside_their_interval_and_the_worst_query():
    correlation, slope = headline_figures(study(table()))
    assert correlation["value"] == "0.70"
    assert "0.60 to 0.80; 30 scans of 30 participants" in correlation["note"]
    assert correlation["note"].endswith("worst under AD: 0.10")
    assert slope["note"].endswith("worst under AD: 0.20")


@pytest.mark.parametrize(
    ("coverage", "half", "participants", "said"),
    [
        (0.87, 0.05, 30, "too narrow"),
        (0.99, 0.01, 30, "wider than needed"),
        (0.94, 0.03, 30, "as they should"),
        (0.90, 0.08, 30, "cannot be told from 95 %"),
        # All hold: nothing bounds the share but the number of participants.
        (1.0, 0.0, 3, "cannot be told from 95 %"),
        (1.0, 0.0, 200, "wider than needed"),
    ],
)
def test_a_coverage_is_judged_by_its_interval(coverage, half, participants, said):
    metrics = table(coverage=coverage, participants=participants)
    own = metrics["metric"] == "interval_coverage_95"
    metrics.loc[own, ["ci95_low", "ci95_high"]] = [coverage - half, coverage + half]
    told = next(sentence for sentence in findings(study(metrics)) if "95 % intervals of regional volumes" in sentence)
    assert said in told


def test_of_few_participants_neither_baselines_nor_intervals_are_judged():
    few = table(coverage=0.8, participants=3)
    own = few["metric"] == "interval_coverage_95"
    few.loc[own, ["ci95_low", "ci95_high"]] = [0.75, 0.85]  # a bootstrap of three knows no others
    said = " ".join(findings(study(few)))
    assert "too narrow." not in said.partition("All this rests")[0]
    assert "cannot be told from 95 %" in said
    assert "95 % intervals from so few are themselves too narrow" in said


def test_a_gain_whose_interval_holds_zero_is_not_called_one():
    margin = Margin("voxel_glm", Found(1.0, -0.1, 1.7, 3, 3))
    assert _compared(margin) == (
        "Its volumes cannot be told from those of the best baseline, voxelwise GLM, by how near to the truth they are: "
        "a gain of 1.0 dB (95 % interval −0.1 to 1.7)."
    )


def test_a_question_under_which_nothing_moves_is_named():
    def changes(measured_ml: float) -> dict:
        of = {"ventricles": (20.0, 10.0), "gm": (600.0, -5.0)}
        return {("s1", "AD"): [Change(name, before, measured_ml, true_ml=true) for name, (before, true) in of.items()]}

    still = SimpleNamespace(queries=[QueryOptions(name="AD", do={"diagnosis": "AD"})], changes=changes(0.01))
    assert standing_still(still) == [
        "Under AD hardly anything moves: no region by 0.2 % or more, where +10.0 ml of ventricles are true."
    ]
    assert standing_still(still, only="older") == []
    assert standing_still(SimpleNamespace(queries=still.queries, changes=changes(3.0))) == []


def test_no_change_has_no_sign():
    assert [millilitres(value) for value in (0.0, -0.04, 0.04, -0.06, float("nan"))] == [
        "0.0",
        "0.0",
        "0.0",
        "−0.1",
        "–",
    ]


def test_a_mean_change_in_the_wrong_direction_is_named():
    grey = Change("gm", 600.0, measured_ml=-3.0, expected_ml=4.0)
    known = Change("wm", 500.0, measured_ml=5.0, expected_ml=-6.0, true_ml=6.0)  # as in truth: not wrong
    small = Change("csf", 500.0, measured_ml=-0.2, expected_ml=6.0)
    found = study(table(), {("sub-0", "older"): [grey, known, small]})
    (sentence,) = wrong_ways(found)
    assert sentence == ("Under older move in the wrong direction: grey matter (−3.0 ml where +4.0 are expected).")
    assert sentence in findings(found)


def test_of_a_trajectory_the_member_that_goes_furthest_the_wrong_way_is_named():
    members = [QueryOptions(name=f"ages-age{age}", do={"age": age}, trajectory="ages") for age in (50, 60, 70)]
    changes = {
        ("sub-0", member.name): [Change("gm", 600.0, measured_ml=measured, expected_ml=4.0)]
        for member, measured in zip(members, (-3.0, -9.0, 5.0), strict=True)
    }
    found = study(table(), changes)
    found.queries = [*QUERIES, *members]
    expected = (
        "Under ages move in the wrong direction: grey matter (−9.0 ml where +4.0 are expected, under ages-age60)."
    )
    assert wrong_ways(found) == [expected]
    assert wrong_ways(found, "older") == []


def test_changes_are_read_of_the_decoding_that_was_written():
    def row(method: str, decode: str, metric: str, value: float) -> dict:
        about = {"level": "scan", "source": "unanswered", "query": "older", "scan": "sub-0", "region": "gm"}
        return {**about, "method": method, "decode": decode, "metric": metric, "value": value}

    metrics = pd.DataFrame(
        [
            row("latent_glm", "residual", "region_change_ml", -12.0),
            row("latent_glm", "direct", "region_change_ml", -99.0),
            row("latent_glm", "residual", "region_change_low_95_ml", -20.0),
            row("latent_glm", "residual", "region_change_high_95_ml", -1.0),
            row("scm", "none", "region_change_ml", -18.0),
            row("voxel_glm", "residual", "region_change_ml", 7.0),
        ]
    )
    scans = pd.DataFrame({"gm_ml": [600.0]}, index=["sub-0"])
    (change,) = read_changes(metrics, scans, {"older": "residual"})["sub-0", "older"]
    assert (change.measured_ml, change.low_ml, change.high_ml, change.expected_ml) == (-12.0, -20.0, -1.0, -18.0)
    assert change.percent(change.measured_ml) == pytest.approx(-2.0)
    assert change.is_bounded
    assert not change.is_wrong_way


def test_the_changes_until_a_later_scan_are_told_apart_by_the_years():
    def row(years: float, method: str, decode: str, value: float) -> dict:
        about = {"level": "scan", "source": "follow-up", "query": "follow-up", "scan": "sub-0", "region": "gm"}
        return {
            **about,
            "years": years,
            "method": method,
            "decode": decode,
            "metric": "region_change_ml",
            "value": value,
        }

    rows = [row(2.0, "latent_glm", "residual", -3.0), row(2.0, "truth", "none", -2.0), row(2.0, "scm", "none", -4.0)]
    rows += [row(5.0, "latent_glm", "residual", -8.0), row(5.0, "latent_glm", "direct", -80.0)]
    found = read_follow_ups(pd.DataFrame(rows), pd.DataFrame({"gm_ml": [600.0]}, index=["sub-0"]))
    assert set(found) == {("sub-0", 2.0), ("sub-0", 5.0)}
    ((early,), (late,)) = found["sub-0", 2.0], found["sub-0", 5.0]
    assert (early.measured_ml, early.true_ml, early.expected_ml, late.measured_ml) == (-3.0, -2.0, -4.0, -8.0)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"extrapolation": False, "positivity": 9, "query": "older"}, [SUPPORTED]),
        ({"extrapolation": False, "positivity": 4, "query": "older"}, [FEW]),
        ({"extrapolation": True, "positivity": 0, "query": "older"}, [EXTRAPOLATION, FEW]),
        # Its intervals hold the truth in 53 % of cases.
        ({"extrapolation": False, "positivity": 9, "query": "AD"}, [NOT_CALIBRATED]),
        ({"extrapolation": False, "positivity": 9, "query": "unmeasured"}, [NOT_CALIBRATED]),
    ],
)
def test_badges_say_how_far_the_data_can_answer(item, expected):
    bounded = [Change("gm", 600.0, measured_ml=-12.0, low_ml=-20.0, high_ml=-1.0)]
    known = study(table(), {("sub-0", "older"): bounded, ("sub-0", "AD"): bounded})
    assert badges(known, {"scan": "sub-0", **item}) == expected
