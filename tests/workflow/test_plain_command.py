"""`snakemake --cores all --configfile my-study.yaml`, without a profile, has the settings of the profiles."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflows import ROOT

# In place of running jobs, tell by what settings they would be run.
TELL = """
import json, sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(self):
    limiter, workflow = self.job_rate_limiter, self.workflow
    told = {
        "keep_going": self.keepgoing,
        "rerun_incomplete": workflow.dag_settings.force_incomplete,
        "show_failed_logs": workflow.output_settings.show_failed_logs,
        "scheduler": workflow.scheduling_settings.scheduler,
        "subsample": self.subsample,
        "rate": limiter and [limiter.max_jobs, limiter.timespan],
    }
    print("SETTINGS", json.dumps(told), flush=True)
    return True

JobScheduler.schedule = schedule
main(sys.argv[1:])
"""


def settings_of(folder: Path, *arguments: str) -> dict[str, Any]:
    """The settings by which the demo would be run from `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", TELL, "--snakefile", str(ROOT / "Snakefile"), "--cores", "2", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("SETTINGS")]
    assert told, done.stdout
    return json.loads(told[0].removeprefix("SETTINGS"))


def test_the_plain_command_is_as_good_as_the_profile(tmp_path: Path) -> None:
    plain = settings_of(tmp_path)
    assert plain == settings_of(tmp_path, "--profile", str(ROOT / "profiles" / "local"))
    assert plain["keep_going"]
    assert plain["rerun_incomplete"]
    assert plain["show_failed_logs"]
    assert plain["scheduler"] == "greedy"
    # Else Snakemake's own process wakes ever more often, the more jobs have finished.
    assert plain["rate"] is None


def test_a_rate_that_is_asked_for_is_kept(tmp_path: Path) -> None:
    assert settings_of(tmp_path, "--max-jobs-per-timespan", "10/1m")["rate"] == [10, 60]


@pytest.mark.parametrize("name", ["local", "slurm", "slurm-gpu-multinode", "lsf", "sge"])
def test_the_default_profile_contradicts_no_other(name: str) -> None:
    # Snakemake lays it over any `--profile`.
    default, other = (
        yaml.safe_load((ROOT / "profiles" / profile / "config.yaml").read_text()) for profile in ("default", name)
    )
    assert default.items() <= other.items()
