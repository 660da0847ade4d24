"""Run the workflow from a test, in a folder of its own, as a user would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
# All that the workflow reads of a checkout.
CHECKOUT = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "report", "schemas")
GRAPH = {"nodes": {"age": {"unit": "years"}, "sex": {}}, "image": {"formula": "age + sex"}}


def scripted_rules() -> dict[str, str]:
    """The text of each rule that runs a script, by the rule's name."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    blocks = re.split(r"^(?:rule|checkpoint) (\w+):$", text, flags=re.MULTILINE)[1:]
    return {name: block for name, block in zip(blocks[::2], blocks[1::2], strict=True) if "script:" in block}


def copy_checkout(folder: Path) -> Path:
    """Copy what the workflow reads into `folder`, to be changed there."""
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            # Without what other tests compile meanwhile.
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


STUB = """
from pathlib import Path
for output in map(Path, snakemake.output):
    if output.suffix in ("", ".zarr"):
        output.mkdir(parents=True, exist_ok=True)
    else:
        output.write_text("scan\\tstatus\\treasons\\n")
"""


def stubbed_checkout(folder: Path) -> Path:
    """A checkout in `folder` in which all jobs but the index write empty outputs, in a moment each."""
    copy_checkout(folder)
    for rule in scripted_rules():
        if rule != "index_cohort":
            (folder / "scripts" / f"{rule}.py").write_text(STUB)
    return folder


def finished_jobs(done: subprocess.CompletedProcess[str]) -> Counter[str]:
    """The jobs that a run has done, by rule."""
    assert done.returncode == 0, done.stdout
    return Counter(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", done.stdout))


def run_workflow(
    folder: Path,
    study: dict[str, Any],
    *arguments: str,
    environment: dict[str, str] | None = None,
    timeout: float = 1200,
    checkout: Path = ROOT,
    own_session: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `snakemake` on a study whose results and work lie in `folder`; stdout and stderr come back as one text.

    Args:
        own_session: whether the run and its jobs are a process group of their own, which a job may kill as a whole.
    """
    configfile = folder / "study.yaml"
    configfile.write_text(
        yaml.safe_dump(
            {"output_dir": str(folder / "results"), "work_dir": str(folder / "work"), **study}, sort_keys=False
        )
    )
    snakefile = str(checkout / "Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--directory", str(folder)]
    if not any(a in ("--cores", "-c", "--profile") for a in arguments):
        command += ["--cores", "2"]
    return subprocess.run(
        [*command, *arguments, "--configfile", str(configfile)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
        start_new_session=own_session,
    )


def plan(folder: Path, study: dict[str, Any], *arguments: str, checkout: Path = ROOT) -> dict[str, int]:
    """The number of jobs that a dry run announces, by rule."""
    done = run_workflow(folder, study, "--dry-run", *arguments, checkout=checkout)
    assert done.returncode == 0, done.stdout
    table = done.stdout.partition("Job stats:")[2]
    return {rule: int(n) for rule, n in re.findall(r"^(\w+)\s+(\d+)$", table, flags=re.MULTILINE) if rule != "total"}


def indexed_study(folder: Path, checkout: Path = ROOT) -> dict[str, Any]:
    """A study of ten (empty) scans in `folder`, one of them in two runs, whose cohort has been indexed for real."""
    bids = folder / "bids"
    rows = ["participant_id\tage\tsex"]
    for i in range(10):
        anat = bids / f"sub-{i:02d}" / "anat"
        anat.mkdir(parents=True)
        for run in ("run-1_", "run-2_") if i == 0 else ("",):
            (anat / f"sub-{i:02d}_{run}T1w.nii.gz").write_bytes(b"")
        rows.append(f"sub-{i:02d}\t{20 + i}\t{'FM'[i % 2]}")
    (bids / "participants.tsv").write_text("\n".join(rows) + "\n")
    study = {"bids_dir": str(bids), "scm": GRAPH, "counterfactuals": [{"name": "older", "do": {"age": "+10"}}]}
    done = run_workflow(folder, study, str(folder / "results" / "cohort" / "scans.tsv"), checkout=checkout)
    assert done.returncode == 0, done.stdout
    return study
