"""The run record, `run.json`: by what command, code and machine the results came about, and what each rule took."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import brainscm
from brainscm.benchmark_files import read_job_cost
from brainscm.files import write_json

FILE = "run.json"
PACKAGES = ("snakemake", "numpy", "scipy", "pandas", "nibabel", "nilearn", "antspyx", "torch", "dcm2niix")


def write_run_record(
    results: Path,
    command: Sequence[str],
    checkout: Path,
    seed: int,
    succeeded: bool,
    rates: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write `run.json` into the results folder, in place of that of an earlier call.

    Args:
        command: the words that were typed.
        checkout: the folder of BrainSCM's own code.
        succeeded: whether all that was asked for is there.
        rates: what the next run deals its shards by (see `brainscm.workflow.rates`).
    """
    record = {
        "command": shlex.join(["snakemake", *command[1:]]),
        "folder": str(Path.cwd()),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "succeeded": succeeded,
        "seed": seed,
        "version": brainscm.__version__,
        "commit": commit_of(checkout),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "host": {"name": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()},
        "rules": _cost_by_rule(results / "benchmarks"),
        "rates": rates or {},
    }
    write_json(results / FILE, record)


def commit_of(checkout: Path) -> str | None:
    """The commit of the code in a folder, with `-dirty` where files differ from it; None without git or its history."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cost_by_rule(benchmarks: Path) -> dict[str, dict[str, Any]]:
    """Jobs, wall seconds (sum and longest) and the largest memory of each rule, from Snakemake's benchmark files."""
    costs: dict[str, dict[str, Any]] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        if job := read_job_cost(path):
            cost = costs.setdefault(rule, {"jobs": 0, "seconds": 0.0, "longest_seconds": 0.0, "peak_mb": 0.0})
            cost["jobs"] += 1
            cost["seconds"] = round(cost["seconds"] + job.seconds, 1)
            cost["longest_seconds"] = max(cost["longest_seconds"], round(job.seconds, 1))
            cost["peak_mb"] = max(cost["peak_mb"], job.peak_mb)
    return costs
