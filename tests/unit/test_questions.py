"""Questions become queries: trajectories, tables, jobs, and the choice of scans."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from brainscm.config import Config, QueryOptions
from brainscm.config_files import questions_schema
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.questions import MOST_JOBS, evaluated_queries, group_queries, read_queries, select_scans
from brainscm.scm.graph import check_graph


def asked(*questions: dict[str, Any]) -> list[QueryOptions]:
    return read_queries(Config.model_validate({"counterfactuals": list(questions)}).counterfactuals)


def test_a_range_becomes_a_trajectory_of_named_members() -> None:
    queries = asked(
        {"name": "ageing", "do": {"diagnosis": "CN", "age": {"from": 50, "to": 61, "step": 5}}, "scans": "all"}
    )
    assert [query.name for query in queries] == ["ageing-age50", "ageing-age55", "ageing-age60"]
    assert [query.do for query in queries] == [{"diagnosis": "CN", "age": age} for age in (50, 55, 60)]
    assert {(query.trajectory, query.scans) for query in queries} == {("ageing", "all")}


@pytest.mark.parametrize(
    ("do", "names"),
    [
        ({"age": {"from": "-10", "to": "+5", "step": 7.5}}, ["x-ageminus10", "x-ageminus2p5", "x-ageplus5"]),
        ({"z": {"from": -0.2, "to": 0.1, "step": 0.1}}, ["x-zm0p2", "x-zm0p1", "x-z0", "x-z0p1"]),
        ({"dx": ["CN", "AD"], "age": [60, 70]}, ["x-dxCN-age60", "x-dxCN-age70", "x-dxAD-age60", "x-dxAD-age70"]),
        ({"age": 60, "dx": "CN"}, ["x"]),
    ],
)
def test_members_are_named_by_what_varies(do: dict[str, Any], names: list[str]) -> None:
    queries = asked({"name": "x", "do": do})
    assert [query.name for query in queries] == names
    assert all((query.trajectory is None) == (names == ["x"]) for query in queries)


def test_changes_stay_changes() -> None:
    queries = asked({"name": "x", "do": {"age": {"from": "-10", "to": "+10", "step": 10}}})
    assert [query.do["age"] for query in queries] == ["-10", "+0", "+10"]


def write(path: Path, text: str) -> Path:
    path.write_text(text.replace(" ", "\t"))
    return path


TABLE = """participant_id session_id name do_age do_diagnosis change_gm effect
01 n/a neverIll n/a CN n/a n/a
sub-02 1 neverIll n/a CN n/a n/a
sub-02 ses-1 ageing 50 CN n/a direct
sub-02 ses-1 ageing 62.5 CN n/a direct
sub-03 n/a ageing 50 CN n/a direct
sub-03 n/a less n/a n/a -5.5 n/a
"""


def test_rows_of_one_name_that_ask_the_same_are_one_query_and_others_a_trajectory(tmp_path: Path) -> None:
    never, at_50, at_62, less = read_queries(write(tmp_path / "q.tsv", TABLE))
    assert (never.name, never.do, never.scans, never.trajectory) == (
        "neverIll", {"diagnosis": "CN"}, ["sub-01", "sub-02_ses-1"], None,
    )  # fmt: skip
    assert (at_50.name, at_50.do, at_50.scans) == (
        "ageing-age50",
        {"age": 50, "diagnosis": "CN"},
        ["sub-02_ses-1", "sub-03"],
    )
    assert (at_62.name, at_62.do["age"], at_62.scans) == ("ageing-age62p5", 62.5, ["sub-02_ses-1"])
    assert (at_50.trajectory, at_50.effect, less.effect) == ("ageing", "direct", "total")
    assert less.do == {"gm": "-5.5"}


def test_the_schema_of_a_table_takes_what_the_reader_takes() -> None:
    header, *rows = (line.split(" ") for line in TABLE.splitlines())
    for row in rows:
        jsonschema.validate(dict(zip(header, row, strict=True)), json.loads(questions_schema()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"scan": "sub-01", "name": "x", "age": "3"}, json.loads(questions_schema()))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("scan name age\nsub-1 x 60\n", "the column 'age' is not understood; did you mean 'do_age' or 'change_age'"),
        ("scan nme do_age\nsub-1 x 60\n", "no name column"),
        ("id name do_age\nsub-1 x 60\n", "needs one of the columns 'participant_id' and 'scan'"),
        ("scan name do_age\nsub-1 x +10\n", "row 2: do_age '+10' is a change; write 10 into a column change_age"),
        ("scan name change_age\nsub-1 x old\n", "row 2: change_age 'old' is not a number"),
        ("scan name do_age change_age\nsub-1 x 60 5\n", "row 2: sets age and changes it"),
        ("scan name do_age\nsub-1 x n/a\n", "row 2: asks nothing; fill in a column do_<node>"),
        ("scan name do_age\nsub-1 x 60\n1 x 60\n", "row 3: asks what row 2 asks already"),
        ("scan name do_age effect\nsub-1 x 60 half\n", "effect 'half' is none of total, direct"),
        ("scan name do_age effect\nsub-1 x 60 total\nsub-2 x 60 direct\n", "rows of 'x' differ in effect;"),
        ("scan name do_age\nsub-1 2x 60\n", "beginning with a letter"),
        ("scan name do_age\nn/a x 60\n", "row 2: has no scan"),
        ("scan,name,do_age\n", "not separated by tabs"),
    ],
)
def test_a_table_that_cannot_be_asked_is_refused_in_one_sentence(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BrainSCMError) as caught:
        read_queries(write(tmp_path / "q.tsv", text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_is_checked_as_a_list_is(tmp_path: Path) -> None:
    options = Config.model_validate({}).scm
    queries = read_queries(write(tmp_path / "q.tsv", "scan name do_aeg\nsub-1 x 60\n"))
    with pytest.raises(ConfigError, match=r"q.tsv \(x\): 'aeg' is not a node; did you mean 'age'"):
        check_graph(options, queries, str(tmp_path / "q.tsv"))


def test_a_job_a_question_and_no_more_than_a_hundred() -> None:
    ageing = {"name": "ageing", "do": {"age": {"from": 50, "to": 90, "step": 5}}}
    groups = group_queries(asked(ageing, {"name": "never-ill", "do": {"diagnosis": "CN"}}))
    assert {label: len(queries) for label, queries in groups.items()} == {"ageing": 9, "neverIll": 1}
    many = [QueryOptions(name=f"q{i}", do={"age": i}) for i in range(1, 3001)]
    dealt, one_more = group_queries(many), group_queries([*many, QueryOptions(name="another", do={"age": 1})])
    assert len(dealt) <= MOST_JOBS
    assert sum(map(len, dealt.values())) == 3000
    assert sum(dealt.get(label) != queries for label, queries in one_more.items()) == 1


def test_the_evaluation_judges_the_ends_of_trajectories_and_a_dozen_questions() -> None:
    ageing = {"name": "ageing", "do": {"age": {"from": 50, "to": 90, "step": 5}}}
    queries = asked(ageing, {"name": "neverIll", "do": {"diagnosis": "CN"}})
    assert [query.name for query in evaluated_queries(queries)] == ["ageing-age50", "ageing-age90", "neverIll"]
    many = [QueryOptions(name=f"q{i}", do={"age": i}) for i in range(1, 101)]
    judged = [query.name for query in evaluated_queries(many)]
    assert (len(judged), judged[0], judged[-1]) == (12, "q1", "q100")
    assert evaluated_queries([]) == []


ROWS = pd.DataFrame(
    {
        "scan": ["sub-1_ses-1", "sub-1_ses-2", "sub-2", "sub-3"],
        "participant": ["sub-1", "sub-1", "sub-2", "sub-3"],
        "split": ["train", "train", "validation", "test"],
        "age": [50, 55, 60, 65],
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("scans", "taken"),
    [
        ("train", [0, 1]), ("validation", [2]), ("test", [3]), ("all", [0, 1, 2, 3]), (["1"], [0, 1]),
        (["sub-1_ses-2", "sub-3", "sub-3"], [1, 3]), ("age > 52 and split != 'test'", [1, 2]),
    ],
)  # fmt: skip
def test_scans_are_chosen(scans: Any, taken: list[int]) -> None:
    query = QueryOptions(name="x", do={"age": 1}, scans=scans)
    assert select_scans(ROWS, query).index.tolist() == taken


def test_an_unknown_scan_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"\(x\).scans: 'sub-1_ses-3' is neither .*; did you mean 'sub-1_ses-[12]'"):
        select_scans(ROWS, QueryOptions(name="x", do={"age": 1}, scans=["sub-1_ses-3"]))
