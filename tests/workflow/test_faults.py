"""What becomes of a run that is killed or interrupted on this machine, and what the same command does next."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflows import (
    GRAPH,
    ROOT,
    STUB,
    copy_checkout,
    finished_jobs,
    indexed_study,
    plan,
    run_workflow,
    stubbed_checkout,
)

# A run that has come to the start of its jobs and stays there.
WAIT = """
import sys, time
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(self):
    print("AT WORK", flush=True)
    time.sleep(600)

JobScheduler.schedule = schedule
main(sys.argv[1:])
"""


def made_study(folder: Path) -> dict[str, Any]:
    """A study of ten empty scans that nothing has been done with."""
    rows = ["participant_id\tage\tsex"]
    for i in range(10):
        anat = folder / "bids" / f"sub-{i}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-{i}_T1w.nii.gz").touch()
        rows.append(f"sub-{i}\t{20 + i}\t{'FM'[i % 2]}")
    (folder / "bids" / "participants.tsv").write_text("\n".join(rows) + "\n")
    return {"bids_dir": str(folder / "bids"), "scm": GRAPH, "counterfactuals": []}


def start(folder: Path, study: dict[str, Any], checkout: Path, *program: str) -> subprocess.Popen[str]:
    """Start a run that indexes the study, as the leader of a session of its own, as from a terminal."""
    options = {"output_dir": str(folder / "results"), "work_dir": str(folder / "work"), **study}
    (folder / "study.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
    command = [sys.executable, *program, "--snakefile", str(checkout / "Snakefile"), "--directory", str(folder)]
    return subprocess.Popen(
        [*command, "--cores", "1", "--configfile", str(folder / "study.yaml"), "--", index_of(folder)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def index_of(folder: Path) -> str:
    return str(folder / "results" / "cohort" / "scans.tsv")


def session_members(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            members.append(int(stat.parent.name))
    return members


def test_a_second_run_is_refused_and_the_same_command_goes_on_after_a_kill(tmp_path: Path) -> None:
    study = made_study(tmp_path)
    with start(tmp_path, study, ROOT, "-c", WAIT) as first:
        assert first.stdout is not None
        assert any("AT WORK" in line for line in first.stdout)
        second = run_workflow(tmp_path, study, index_of(tmp_path))
        os.kill(first.pid, signal.SIGKILL)
    assert second.returncode != 0
    assert "no other Snakemake process" in second.stdout
    assert "Traceback" not in second.stdout
    again = run_workflow(tmp_path, study, index_of(tmp_path))
    assert again.returncode == 0, again.stdout
    assert Path(index_of(tmp_path)).exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes as Linux shows them")
def test_an_interrupted_run_leaves_no_job_behind(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    copy_checkout(checkout)
    started = tmp_path / "started"
    (checkout / "scripts" / "index_cohort.py").write_text(
        f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(600)\n"
    )
    with start(tmp_path, made_study(tmp_path), checkout, "-m", "snakemake") as run:
        while not started.exists() and run.poll() is None:
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)  # what Ctrl-C does in a terminal
        told, _ = run.communicate(timeout=300)
    assert started.exists(), told
    assert run.returncode != 0
    assert session_members(run.pid) == []
    assert not Path(index_of(tmp_path)).exists()
    assert not list((tmp_path / ".snakemake" / "locks").glob("*.lock"))


def stubbed_study(folder: Path) -> tuple[Path, dict[str, Any], str]:
    """A checkout of stubs, a study whose cohort is indexed, and the last file of one of its scans."""
    (folder / "checkout").mkdir()
    checkout = stubbed_checkout(folder / "checkout")
    return checkout, indexed_study(folder, checkout), str(folder / "results" / "preproc" / "alignment" / "sub-03.json")


def test_a_run_tells_how_far_it_is_on_the_terminal_and_in_the_logs(tmp_path: Path) -> None:
    checkout, study, aligned = stubbed_study(tmp_path)
    module = checkout / "scripts" / "brainscm" / "workflow" / "progress.py"
    module.write_text(module.read_text().replace("PAUSE = 60", "PAUSE = 0"))
    done = run_workflow(tmp_path, study, aligned, checkout=checkout)
    told = ("1 of 2 jobs done, about 0 min left, beside align_scan, of which no time is known", "2 of 2 jobs done")
    assert all(line in done.stdout for line in told)
    assert all(line in (tmp_path / "results" / "logs" / "progress.log").read_text() for line in told)


def test_nodes_whose_clocks_differ_by_seconds_make_nothing_twice(tmp_path: Path) -> None:
    checkout, study, aligned = stubbed_study(tmp_path)
    # What the first node writes is of the future for the second.
    ahead = "\nimport os, time\nos.utime(snakemake.output[0], (time.time() + 3,) * 2)\n"
    (checkout / "scripts" / "preprocess_scan.py").write_text(STUB + ahead)
    done = finished_jobs(run_workflow(tmp_path, study, aligned, checkout=checkout))
    assert done == {"preprocess_scan": 1, "align_scan": 1}
    assert plan(tmp_path, study, aligned, checkout=checkout) == {}


@pytest.mark.parametrize("late", [False, True])
def test_files_that_appear_late_are_waited_for_and_no_longer_than_said(tmp_path: Path, late: bool) -> None:
    checkout, study, aligned = stubbed_study(tmp_path)
    (checkout / "scripts" / "preprocess_scan.py").write_text(
        "import subprocess\n"
        "subprocess.Popen(['sh', '-c', 'sleep 8; echo whole > \"$1\"', 'sh', snakemake.output[0]],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
    )
    done = run_workflow(tmp_path, study, aligned, "--latency-wait", "1" if late else "60", checkout=checkout)
    assert (done.returncode != 0) == late
    assert Path(aligned).exists() != late
