"""The profiles, from a study's own folder: what a cluster would be asked for, by dry runs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflows import ROOT, indexed_study

SITE = {
    "default-resources": {"slurm_account": "brains", "slurm_partition": "long", "mem_mb": 2000, "runtime": 30},
    "set-resources": {"train_autoencoder": {"slurm_partition": "gpus", "constraint": "a100"}},
}


# In place of telling what would be run, tell what would be asked for.
TELL = """
import json, sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(self):
    for job in self.workflow.dag.needrun_jobs():
        asked = {key: value for key, value in job.resources.items() if isinstance(value, int | str)}
        print("JOB", job.rule.name, json.dumps(asked), flush=True)
    return True

JobScheduler.schedule = schedule
main(sys.argv[1:])
"""


def asked_for(folder: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """The resources of a job of each rule, in a run from the folder of a study that lies away from the checkout."""
    command = [sys.executable, "-c", TELL, "--snakefile", str(ROOT / "Snakefile"), "--dry-run", *arguments]
    done = subprocess.run(
        [*command, "--configfile", "study.yaml"],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("JOB ")]
    return {rule: json.loads(asked) for _, rule, asked in lines}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder: its configuration, results and data."""
    folder = tmp_path_factory.mktemp("study")
    study = indexed_study(folder)
    (folder / "study.yaml").write_text(yaml.safe_dump({**study, "bids_dir": "bids"}))
    return folder


def test_one_file_of_the_sites_own_names_account_and_partition(folder: Path) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "config.yaml").write_text(yaml.safe_dump(SITE))
    jobs = asked_for(folder, "--profile", str(ROOT / "slurm"), "--workflow-profile", "site")
    scan = {"slurm_account": "brains", "slurm_partition": "long", "mem_mb": 2000, "runtime": 15}
    assert scan.items() <= jobs["preprocess_scan"].items()
    training = {"slurm_account": "brains", "slurm_partition": "gpus", "constraint": "a100", "mem_mb": 16000, "gpu": 1}
    assert training.items() <= jobs["train_autoencoder"].items()


@pytest.mark.parametrize("name", ["lsf", "sge"])
def test_other_schedulers_plan_the_same_jobs(folder: Path, name: str) -> None:
    if importlib.util.find_spec(f"snakemake_executor_plugin_{name}") is None:
        pytest.skip(
            f"NO {name.upper()}: its plugin is not in the lock file; pip install snakemake-executor-plugin-{name}"
        )
    jobs = asked_for(folder, "--profile", str(ROOT / "profiles" / name))
    assert jobs["train_autoencoder"]["mem_mb"] == 16000
    assert jobs["preprocess_scan"]["runtime"] == 15


# In place of telling jobs, tell which scans share one.
TELL_GROUPS = """
import json, sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(self):
    for group in self.workflow.dag.ready_jobs:
        print("GROUP", json.dumps(sorted({job.wildcards.scan for job in group.jobs})), flush=True)
    return True

JobScheduler.schedule = schedule
main(sys.argv[1:])
"""


def test_each_scan_is_sent_once_where_the_cohort_is_indexed_already(folder: Path) -> None:
    command = [sys.executable, "-c", TELL_GROUPS, "--snakefile", str(ROOT / "Snakefile"), "--dry-run"]
    command += ["--profile", str(ROOT / "slurm"), "--configfile", "study.yaml"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    groups = [json.loads(line.removeprefix("GROUP ")) for line in done.stdout.splitlines() if line.startswith("GROUP")]
    assert sorted(map(len, groups)) == [2, 4, 4], done.stdout + done.stderr
    assert len({scan for group in groups for scan in group}) == 10
