"""How long a job of a stage takes for a scan or an answer: what the size of shards is reckoned from.

A rate changes nothing that is there. A stage whose shards exist keeps the rate by which they were dealt, so that it is
not dealt anew, and done again, because its jobs took longer or shorter than was thought.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from brainscm.run_record import FILE

# Seconds of a job with its threads at 2 mm for a scan, an answer, a question to a test scan, and a page: of the truth
# benchmark, whose 3 mm were scaled, and of bench_report.
ASSUMED = {"encode_scans": 0.6, "synthesize_counterfactuals": 6.0, "score_counterfactuals": 4.0, "render_scans": 0.3}
LEAST_SECONDS = 60.0  # a shorter job is mostly start


@dataclass(frozen=True)
class Rates:
    """Seconds at 2 mm.

    Attributes:
        recorded: by rule, what its jobs have taken in earlier runs.
        dealt: by folder of shards, what these were dealt by.
    """

    recorded: Mapping[str, float] = field(default_factory=dict)
    dealt: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, results: Path) -> Rates:
        """The rates that the last run has left in its record; during a run they stay as they are."""
        try:
            told = json.loads((results / FILE).read_text(encoding="utf-8"))["rates"]
            return cls(told["recorded"], told["dealt"])
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def as_json(self) -> dict[str, Mapping[str, float]]:
        return {"recorded": self.recorded, "dealt": self.dealt}

    def of(self, rule: str, shards: str) -> float:
        """By which the shards of a folder are dealt."""
        return self.dealt.get(shards) or self.recorded.get(rule) or ASSUMED[rule]
