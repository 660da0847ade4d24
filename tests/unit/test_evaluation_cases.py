"""Which questions are asked of whom."""

import pandas as pd

from brainscm.config import QueryOptions
from brainscm.evaluation.cases import UNANSWERED_SCANS, find_cases, follow_up_cases, simulated_cases, unanswered_cases
from brainscm.tables import write_table

OLDER = QueryOptions(name="older", do={"age": "+20"})


def scan(name: str, participant: str, split: str, age: float = 60.0) -> dict[str, object]:
    return {"scan": name, "participant": participant, "split": split, "age": age}


def write_answers(bids_dir, scans: dict[str, str | None]) -> None:
    rows = [{"scan": name, "query": "older", "effect": "total", "path": path} for name, path in scans.items()]
    write_table(pd.DataFrame(rows), bids_dir / "derivatives" / "truth" / "counterfactuals.tsv")


def test_cases_are_usable_test_scans_whose_answer_was_written(tmp_path):
    write_answers(
        tmp_path, {"sub-1": "derivatives/truth/a.nii.gz", "sub-2": None, "sub-3": "derivatives/truth/c.nii.gz"}
    )
    table = pd.DataFrame([scan(f"sub-{n}", f"sub-{n}", "train" if n == 3 else "test") for n in (1, 2, 3)])
    cases = simulated_cases(tmp_path, table, [OLDER])
    assert [(case.scan, case.answer) for case in cases] == [("sub-1", str(tmp_path / "derivatives/truth/a.nii.gz"))]
    assert simulated_cases(tmp_path, table, [OLDER.model_copy(update={"effect": "direct"})]) == []
    assert simulated_cases(tmp_path / "elsewhere", table, [OLDER]) == []


def test_follow_ups_start_from_the_first_scan_and_stay_in_the_test_split():
    table = pd.DataFrame(
        [
            scan("sub-1_ses-b", "sub-1", "test", 66.0),
            scan("sub-1_ses-a", "sub-1", "test", 60.0),
            scan("sub-1_ses-c", "sub-1", "test", 60.1),  # too soon to have changed
            scan("sub-2_ses-a", "sub-2", "train", 50.0),
            scan("sub-2_ses-b", "sub-2", "train", 55.0),
            scan("sub-3_ses-a", "sub-3", "test", 70.0),
        ]
    )
    (case,) = follow_up_cases(table, "age")
    assert (case.scan, case.answer, case.query.do) == ("sub-1_ses-a", "sub-1_ses-b", {"age": 66.0})


def test_a_query_without_answers_is_put_to_one_scan_each_of_some_test_participants(tmp_path):
    rows = [scan(f"s{n}_{visit}", f"p{n}", "test") for n in range(50) for visit in "ab"]
    table = pd.DataFrame([*rows, scan("s99", "p99", "train")])
    cases = unanswered_cases(table, [OLDER], [])
    assert len(cases) == UNANSWERED_SCANS
    assert all(case.scan.endswith("a") and case.participant != "p99" for case in cases)

    write_answers(tmp_path, {"s0_a": "derivatives/truth/a.nii.gz"})
    younger = QueryOptions(name="younger", do={"age": "-20"})
    found = find_cases(tmp_path, table, [OLDER, younger], None)
    assert {(case.source, case.query.name) for case in found} == {("simulated", "older"), ("unanswered", "younger")}
