"""Which questions the evaluation asks: the simulator's answered ones, later scans, and queries without an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from brainscm.config import QueryOptions
from brainscm.questions import ANSWERS, UNANSWERED_SCANS
from brainscm.scans import records
from brainscm.tables import evenly_spaced, read_table

FOLLOW_UP = "follow-up"
SHORTEST_INTERVAL_YEARS = 0.25


@dataclass(frozen=True)
class Case:
    """One question to one scan.

    Attributes:
        source: `simulated` (the answer is the simulator's true counterfactual head), `follow-up` (a later scan of the
            participant), or `unanswered`: nobody knows, and only what needs no truth is measured.
        scan: the factual scan. query: what is asked of it.
        answer: the raw head of a simulated case (a path), the scan id of the follow-up, or "".
    """

    source: Literal["simulated", "follow-up", "unanswered"]
    scan: str
    participant: str
    query: QueryOptions
    answer: str


def find_cases(
    bids_dir: Path, table: pd.DataFrame, queries: Sequence[QueryOptions], age_column: str | None
) -> list[Case]:
    """All questions to the test scans of `table`, which holds usable scans; follow-ups only where there is an age."""
    cases = simulated_cases(bids_dir, table, queries)
    cases += unanswered_cases(table, queries, cases)
    return cases if age_column is None else cases + follow_up_cases(table, age_column)


def simulated_cases(bids_dir: Path, table: pd.DataFrame, queries: Sequence[QueryOptions]) -> list[Case]:
    """Cases of the usable test scans in `table` for which the simulator wrote the true counterfactual of a query."""
    path = bids_dir / ANSWERS
    if not path.exists():
        return []
    truth = read_table(path)
    written = records(truth[truth["path"].notna()])
    path_of = {(row["scan"], row["query"], row["effect"]): bids_dir / row["path"] for row in written}
    cases = []
    for query in queries:
        for scan in records(table[table["split"] == "test"]):
            answer = path_of.get((scan["scan"], query.name, query.effect))
            if answer is not None:
                cases.append(Case("simulated", scan["scan"], scan["participant"], query, str(answer)))
    return cases


def unanswered_cases(table: pd.DataFrame, queries: Sequence[QueryOptions], answered: Sequence[Case]) -> list[Case]:
    """Queries to which no answer is known, each put to at most `UNANSWERED_SCANS` test scans, evenly spaced."""
    known = {case.query.name for case in answered}
    test = evenly_spaced(table[table["split"] == "test"].drop_duplicates("participant"), UNANSWERED_SCANS)
    asked = [(query, scan) for query in queries if query.name not in known for scan in records(test)]
    return [Case("unanswered", scan["scan"], scan["participant"], query, "") for query, scan in asked]


def follow_up_cases(table: pd.DataFrame, age_column: str) -> list[Case]:
    """Each later scan of a test participant as the answer to do(age = age then), asked of the first scan."""
    test = table[(table["split"] == "test") & table[age_column].notna()].sort_values([age_column, "scan"])
    cases = []
    for participant, scans in test.groupby("participant"):
        first, *later = records(scans)
        for scan in later:
            if scan[age_column] - first[age_column] >= SHORTEST_INTERVAL_YEARS:
                query = QueryOptions(name=FOLLOW_UP, do={"age": float(scan[age_column])})
                cases.append(Case("follow-up", first["scan"], str(participant), query, scan["scan"]))
    return cases
