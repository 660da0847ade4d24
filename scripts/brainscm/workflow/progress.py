"""How far a run has come and how long it will still take, a line now and then on the terminal and in the logs."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

from brainscm.benchmark_files import benchmark_files, read_job_cost

FILE = "logs/progress.log"
PAUSE = 60  # seconds between two lines
NAMED = 3  # rules of which no time is known
SAMPLED = 20  # jobs of a rule that tell how long one takes


class Rule(Protocol):
    name: str
    norun: bool  # a target, which names files and does nothing itself


class Job(Protocol):
    rule: Rule


class Dag(Protocol):
    """What is asked of Snakemake's graph of jobs."""

    def needrun_jobs(self, exclude_finished: bool) -> Iterable[Job]: ...


class ProgressLine(logging.Handler):
    """Listens to Snakemake, which tells whenever a job has ended."""

    def __init__(self, dag: Dag, results: Path) -> None:
        super().__init__()
        self.dag, self.results = dag, results
        self.started = self.last = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if getattr(record, "event", None) != "progress" or now - self.last < PAUSE:
            return
        self.last = now
        planned, waiting = (
            Counter(job.rule.name for job in self.dag.needrun_jobs(finished) if not job.rule.norun)
            for finished in (False, True)
        )
        seconds = recorded_seconds(self.results / "benchmarks", planned)
        left = time_left(planned, waiting, seconds, now - self.started)
        # Of these two numbers the graph is one job late.
        told = f"{record.__dict__['done']} of {record.__dict__['total']} jobs done, {left}"
        print(told, file=sys.stderr, flush=True)
        with suppress(OSError):  # on a full disk jobs fail, and say so; the run goes on
            (self.results / FILE).parent.mkdir(parents=True, exist_ok=True)
            with (self.results / FILE).open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M} {told}\n")


def time_left(
    planned: Mapping[str, int], waiting: Mapping[str, int], seconds: Mapping[str, float], elapsed: float
) -> str:
    """How long a run will still take, in words.

    Jobs are taken to go on as many side by side as so far in this run.

    Args:
        planned, waiting: jobs of each rule, all and those that have not ended.
        seconds: that a job of a rule takes, where it is known.
        elapsed: seconds of the run.
    """
    worked = sum((count - waiting.get(rule, 0)) * seconds.get(rule, 0) for rule, count in planned.items())
    side_by_side = max(1.0, worked / elapsed)
    left = sum(seconds[rule] * count / min(side_by_side, count) for rule, count in waiting.items() if rule in seconds)
    unknown = sorted(set(waiting) - set(seconds))
    named = unknown if len(unknown) <= NAMED else [*unknown[:NAMED], f"{len(unknown) - NAMED} other rules"]
    without = f", beside {', '.join(named)}, of which no time is known" if unknown else ""
    return f"about {in_words(left)} left{without}"


def in_words(seconds: float) -> str:
    """`40 min`, `3 h 20 min`."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def recorded_seconds(benchmarks: Path, rules: Iterable[str]) -> dict[str, float]:
    """What a job of each rule took, in the mean of some, from Snakemake's benchmark files; without those not known."""
    found = {}
    for rule in rules:
        files = benchmark_files(benchmarks, rule)
        took = [cost.seconds for file in files[:: 1 + len(files) // SAMPLED] if (cost := read_job_cost(file))]
        if took:
            found[rule] = sum(took) / len(took)
    return found
