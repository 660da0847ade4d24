"""Intervals of regional changes: how wide they are, whom that is learnt from, and how often they hold the truth."""

from pathlib import Path

import numpy as np
import pytest
from test_counterfactuals_synthesis import Halving, Study, measure, query, study  # noqa: F401

from brainscm.counterfactuals.intervals import FEW, NEEDED, STILL, UNKNOWN, IntervalFactors, regions_table
from brainscm.counterfactuals.prediction import Draws
from brainscm.counterfactuals.queries import plan_query
from brainscm.counterfactuals.regional import RegionChange
from brainscm.counterfactuals.synthesis import ReadScan, make_counterfactual, read_factual
from brainscm.evaluation import interval_factors
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.interval_factors import learn_factors, questions
from brainscm.latents.encoded import EncodedScans
from brainscm.regions import MeasureRegions
from brainscm.scans import ScanTable
from brainscm.scm.slope_spread import Slopes
from brainscm.tables import read_table, write_table


def test_intervals_hold_a_new_participants_truth_as_often_as_they_say() -> None:
    """Whatever the distribution of errors, and where each participant has several, which resemble one another."""
    rng = np.random.default_rng(0)

    def scores(participants: int) -> np.ndarray:
        return np.abs(rng.standard_t(3, (participants, 1)) + 0.5 * rng.standard_normal((participants, 6)))

    held = []
    for _ in range(400):
        learnt = IntervalFactors.learn({"gm": {str(who): own for who, own in enumerate(scores(24))}})
        held.append((scores(50) <= learnt.factors["gm"]).mean())
    assert 0.95 <= np.mean(held) <= 0.985


def test_the_intervals_that_are_written_hold_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    """Through the file that a bundle holds to the bounds in regions.tsv, of changes that are unlike in size and error;
    a factor that were half as wide would not."""
    rng = np.random.default_rng(1)

    def answers(n: int) -> tuple[np.ndarray, list[RegionChange]]:
        truth, spread = rng.normal(-5, 4, n), rng.uniform(0.2, 3, n)
        found = truth + spread * 0.4 * rng.standard_t(3, n)
        return truth, [RegionChange(100, *each, 8) for each in zip(found, spread, strict=True)]

    def held(factors: IntervalFactors) -> float:
        truth, changes = answers(60)
        rows = [
            {"scan": str(at), "query": "q", "years": 0.0, "regions": {"gm": change}}
            for at, change in enumerate(changes)
        ]
        table = regions_table(rows, factors)
        return float(((table["low_95_ml"] <= truth) & (truth <= table["high_95_ml"])).mean())

    whole, half = [], []
    for _ in range(120):
        truth, changes = answers(30)
        off = [abs(change.change_ml - true) / change.error_ml for true, change in zip(truth, changes, strict=True)]
        IntervalFactors.learn({"gm": {str(who): np.array([each]) for who, each in enumerate(off)}}).write(
            tmp_path / "intervals.tsv"
        )
        learnt = IntervalFactors.read(tmp_path / "intervals.tsv")
        whole.append(held(learnt))
        half.append(held(IntervalFactors({"gm": learnt.factors["gm"] / 2}, learnt.participants)))
    assert 0.94 <= np.mean(whole) <= 0.985
    assert np.mean(half) < 0.92


def test_a_participant_counts_once_however_often_asked() -> None:
    few = {str(who): np.array([1.0]) for who in range(40)}
    many = {**few, "0": np.full(1000, 9.0)}
    assert IntervalFactors.learn({"gm": many}).factors["gm"] == 1.0


def test_where_no_interval_can_be_given_it_is_said_why(tmp_path: Path) -> None:
    ones = {str(who): np.ones(3) for who in range(NEEDED)}
    first = dict(list(ones.items())[1:])
    IntervalFactors.learn({"gm": ones, "wm": first}).write(tmp_path / "intervals.tsv")
    read = IntervalFactors.read(tmp_path / "intervals.tsv")
    moved, still = RegionChange(100, -3, 0.5, 8), RegionChange(100, 0, 0.0, 8)
    assert read.half_width_ml("gm", moved) == pytest.approx(0.5)
    assert read.half_width_ml("gm", still) == STILL
    assert read.half_width_ml("wm", moved) == FEW
    assert read.half_width_ml("insula", moved) == UNKNOWN
    assert read.participants == {"gm": 19, "wm": 18}
    assert not read.slopes


def test_what_participants_own_slopes_add_grows_with_the_years_asked(tmp_path: Path) -> None:
    ones = {str(who): np.ones(3) for who in range(NEEDED)}
    IntervalFactors.learn({"gm": ones, "wm": ones}, {"gm": Slopes(-3.0, 0.5, 1.3)}).write(tmp_path / "intervals.tsv")
    read = IntervalFactors.read(tmp_path / "intervals.tsv")
    assert read.slopes == {"gm": Slopes(-3.0, 0.5, 1.3, pytest.approx(np.nan, nan_ok=True))}
    moved = RegionChange(100, -30, 2.0, 8)
    by_slopes = 1.3 * 10
    assert read.half_width_ml("gm", moved, -10) == pytest.approx(np.hypot(2.0, by_slopes), rel=1e-5)
    assert read.half_width_ml("gm", moved) == read.half_width_ml("wm", moved, 10) == pytest.approx(2.0)
    row = {"scan": "s", "regions": {"gm": moved}, "years": 10.0}
    (written,) = regions_table([row], read).to_dict("records")
    assert written["high_95_ml"] - written["change_ml"] == pytest.approx(np.hypot(2.0, by_slopes), rel=1e-5)


def test_a_study_learns_them_on_nobody_of_its_test_and_they_hold_what_is_expected_there(
    study: Study,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside = np.arange(4)[:, None, None] * np.ones((4, 4, 4)) > 0
    noise = np.random.default_rng(1).normal(0, 0.01, 60)
    qc = read_table(study.folder / "preproc" / "qc.tsv")
    qc["gm_ml"] = [volume[inside].sum() / 20 for volume in study.volumes] + noise
    qc["mask_volume_ml"] = 4.8 + noise[::-1]
    write_table(qc, study.folder / "preproc" / "qc.tsv")
    scans = ScanTable.read(study.folder / "scans.tsv", study.folder / "preproc" / "qc.tsv")
    encoded = EncodedScans(scans, study.store, Halving())
    read: list[str] = []

    def reading(encoded: EncodedScans, scan: str, measure: MeasureRegions) -> ReadScan:
        read.append(scan)
        return read_factual(encoded, scan, measure)

    monkeypatch.setattr(interval_factors, "read_factual", reading)
    learnt = learn_factors(study.scm, encoded, measure)
    assert learnt.participants == {"gm": 24, "csf": 0}  # the latter is in the table, and nothing measures it
    assert set(scans.rows.loc[read, "split"]) == {"train"}
    tested = scans.of_split("test")
    plan = plan_query(study.scm, tested, query(do={"age": "-15"}))
    expected = RegionalModel.fit(study.scm, scans.usable, ["gm"]).expect(plan.query, tested)
    held, draws = [], Draws(encoded.encoder, study.scm.image)
    for at, scan in enumerate(tested["scan"]):
        asked = read_factual(encoded, scan, measure)
        change = make_counterfactual(study.scm, plan, at, asked.factual, asked.measure, draws).regions["gm"]
        half = learnt.half_width_ml("gm", change)
        assert isinstance(half, float)
        held.append(np.abs(change.change_ml - expected.drawn_ml[:, at]) <= half)
    assert np.mean(held) > 0.85
    assert half < abs(expected.change_ml[at])
    read.clear()
    monkeypatch.setattr(interval_factors, "calibration_scans", lambda table: table.head(NEEDED - 1))
    few = learn_factors(study.scm, encoded, measure)
    assert (few.factors, few.participants["gm"]) == ({}, NEEDED - 1)
    assert not read  # nothing is made that no factor could come of


def test_every_node_is_asked_about_towards_the_middle_of_the_training_scans(study: Study) -> None:  # noqa: F811
    asked = list(questions(study.scm, study.table[study.table["split"] == "train"]))
    mean, sd = (getattr(study.scm.training_values["age"], name)() for name in ("mean", "std"))
    (node, up), (_, down) = (({**query.do}, rows) for query, rows in asked if "age" in query.do)
    assert float(node["age"]) == pytest.approx(sd)
    assert up["age"].max() <= mean < down["age"].min()
    levels = [(query.do["sex"], set(rows["sex"])) for query, rows in asked if "sex" in query.do]
    assert levels == [("F", {"M"}), ("M", {"F"})]
    assert {node for query, _ in asked for node in query.do} == {"age", "sex", "csf"}
