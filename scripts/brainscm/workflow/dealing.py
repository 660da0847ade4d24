"""Into how many shards each stage deals the indexed cohort, and which scans lie in which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from brainscm.benchmark_files import benchmark_files, read_job_cost
from brainscm.config import Config, QueryOptions
from brainscm.counterfactuals.cost import recorded_cost
from brainscm.errors import ConfigError
from brainscm.questions import UNANSWERED_SCANS, select_scans
from brainscm.shards import Shard, deal
from brainscm.workflow.rates import LEAST_SECONDS, Rates

# In the folder of results, by the rule whose jobs write them.
FOLDERS = {
    "encode_scans": "latents/shards",
    "synthesize_counterfactuals": "counterfactuals/questions",
    "score_counterfactuals": "evaluation/shards",
    "render_scans": "scan_pages",
}


@dataclass(frozen=True)
class Dealing:
    """The dealing of a cohort.

    Attributes:
        scans: its index, a row a scan.
        questions: the queries of each question, by its label.
        evaluated: the queries that the evaluation asks.
        has_answers: whether the evaluation knows their answers.
    """

    config: Config
    scans: pd.DataFrame
    questions: Mapping[str, Sequence[QueryOptions]]
    evaluated: Sequence[QueryOptions]
    has_answers: bool
    rates: Rates

    def of_encoding(self) -> list[Shard]:
        return self._deal("encode_scans", len(self.scans))

    def of_question(self, label: str) -> list[Shard]:
        answers = sum(self._count(query) for query in self.questions[label])
        return self._deal("synthesize_counterfactuals", answers, label)

    def of_evaluation(self) -> list[Shard]:
        return self._deal("score_counterfactuals", self._asked_of(self.scans))

    def of_pages(self) -> list[Shard]:
        return self._deal("render_scans", len(self.scans))

    def rows_of(self, shard: Shard) -> pd.DataFrame:
        """The rows of the index that lie in a shard."""
        return self.scans[[shard.holds(scan) for scan in self.scans["scan"]]]

    def rates_after(self, results: Path) -> Rates:
        """The rates of the next run: what jobs have taken by now, and what the shards that are there were dealt by."""
        stages = [(rule, folder) for rule, folder in FOLDERS.items() if rule != "synthesize_counterfactuals"]
        answers = FOLDERS["synthesize_counterfactuals"]
        stages += [("synthesize_counterfactuals", f"{answers}/{label}") for label in self.questions]
        there = [(rule, folder) for rule, folder in stages if any((results / folder).glob("*-of-*"))]
        recorded = {rule: seconds for rule in FOLDERS if (seconds := self._recorded(rule, results)) is not None}
        dealt = {folder: self.rates.of(rule, folder) for rule, folder in there}
        return Rates({**self.rates.recorded, **recorded}, dealt)

    def _recorded(self, rule: str, results: Path) -> float | None:
        """Seconds that a rule takes for one of what it works on, at 2 mm; None where no job was long enough to tell."""
        if rule == "synthesize_counterfactuals":  # a job keeps the volumes that are there already
            seconds = recorded_cost(results).seconds
            return None if seconds is None else seconds / self._finer
        seconds, worked = 0.0, 0.0
        for file in benchmark_files(results / "benchmarks", rule):
            cost = read_job_cost(file)
            if cost is not None and cost.seconds >= LEAST_SECONDS:
                rows = self.rows_of(Shard.named(file.stem))
                seconds += cost.seconds
                worked += self._asked_of(rows) if rule == "score_counterfactuals" else len(rows)
        return seconds / worked / self._finer if worked else None

    def _asked_of(self, rows: pd.DataFrame) -> float:
        """How many questions the evaluation asks of some of the scans, as far as the index tells."""
        test = self.scans[self.scans["split"] == "test"]
        if test.empty:
            return 0
        participants = test["participant"].nunique()
        later = len(test) - participants
        asked = len(test) if self.has_answers else min(participants, UNANSWERED_SCANS)
        return (asked * len(self.evaluated) + later) * float((rows["split"] == "test").sum()) / len(test)

    @property
    def _finer(self) -> float:
        """How many times as many voxels there are as at 2 mm."""
        return float((2 / self.config.preprocess.voxel_mm) ** 3)

    def _deal(self, rule: str, count: float, question: str = "") -> list[Shard]:
        rate = self.rates.of(rule, f"{FOLDERS[rule]}/{question}".removesuffix("/"))
        return deal(count * rate * self._finer / 60, self.config.workflow.shard_minutes)

    def _count(self, query: QueryOptions) -> int:
        """How many scans a query is put to; all, if it asks for what quality control measures later."""
        try:
            return len(select_scans(self.scans, query))
        except ConfigError:
            return len(self.scans)
