"""What jobs took, from the files that Snakemake writes: `benchmarks/<rule>.tsv` or `benchmarks/<rule>/….tsv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobCost:
    """Wall seconds and largest memory (MB; 0 where the job was too short to be measured) of one job."""

    seconds: float
    peak_mb: float


def benchmark_files(benchmarks: Path, rule: str) -> list[Path]:
    """The files of a rule's jobs."""
    own = benchmarks / f"{rule}.tsv"
    return [own] if own.exists() else sorted((benchmarks / rule).glob("**/*.tsv"))


def read_job_cost(benchmark: Path) -> JobCost | None:
    """What a benchmark file tells; None where there is none, or none that is whole."""
    try:
        with benchmark.open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return JobCost(float(row["s"]), _memory_mb(row.get("max_rss")))
    except (OSError, ValueError, KeyError, StopIteration):
        return None


def _memory_mb(cell: str | None) -> float:
    try:
        return float(cell or 0)
    except ValueError:  # a dash
        return 0.0
