"""Jobs, nodes, the controller and the run itself fail on a real slurmctld with two slurmd, and nothing is lost.

Jobs are stubs, which are disturbed in the middle of their output; what they write depends on all that they read.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slurm.local_cluster import LocalCluster, why_unavailable
from slurm.stubbed_study import TAKE_MEMORY, StubbedStudy, stubs, write_scans
from workflows import ROOT

UNAVAILABLE = why_unavailable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UNAVAILABLE is not None, reason=f"NO SLURM: {UNAVAILABLE}"),
]
SCANS = 8
PAIRS = ["--group-components", "scans=2"]
# Of the scans that share a job as many are at work side by side as the machine has cores.
AT_WORK = SCANS // 2 * min(2, len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """With room for second tries, which ask for twice the memory."""
    cluster = LocalCluster(tmp_path_factory.mktemp("slurm"), memory_mb=64000)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stubs(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("bids"), SCANS)


@pytest.fixture(scope="module")
def undisturbed(
    cluster: LocalCluster, checkout: Path, bids: Path, tmp_path_factory: pytest.TempPathFactory
) -> StubbedStudy:
    """A study that has been run to its end on this machine alone."""
    study = StubbedStudy(tmp_path_factory.mktemp("undisturbed"), checkout, bids)
    run = study.start(cluster.environment, "--cores", "2")
    assert "(100%) done" in run.end()
    return study


@pytest.fixture
def study(checkout: Path, bids: Path, tmp_path: Path) -> Iterator[StubbedStudy]:
    study = StubbedStudy(tmp_path, checkout, bids)
    yield study
    for run in study.runs:  # those that a failed test has left
        run.process.kill()


def test_a_run_outlives_its_jobs_a_node_and_the_controller(
    cluster: LocalCluster, study: StubbedStudy, undisturbed: StubbedStudy
) -> None:
    for rule in ("preprocess_scan", "train_autoencoder", "fit_scm"):
        study.hold(rule)
    study.disturb("collect_preprocessing", TAKE_MEMORY)
    study.disturb("encode_scans-1-1", "os.kill(os.getpid(), 9)")
    run = study.start_on(cluster, "scm", *PAIRS)

    # A node goes down under a job of four scans, and comes back.
    run.wait_until(lambda: study.started("preprocess_scan") == AT_WORK)
    cluster.set_node("node1", "down")
    run.wait_until(lambda: "DUE TO NODE FAILURE" in run.told())
    study.release("preprocess_scan")

    # The training's time is up.
    run.wait_until(lambda: study.started("train_autoencoder") == 1)
    [training] = cluster.jobs("RUNNING")
    cluster.run("scontrol", "update", f"JobId={training}", f"EndTime={datetime.now() + timedelta(seconds=1):%FT%T}")
    run.wait_until(lambda: "TIMEOUT" in run.told())
    study.release("train_autoencoder")

    # The controller is away while a job ends, and while the next ones would be submitted.
    run.wait_until(lambda: study.started("fit_scm") == 1)
    cluster.stop_controller()
    study.release("fit_scm")
    run.wait_until(lambda: "SLURM does not answer" in run.told())
    cluster.start_controller()

    told = run.end()
    assert run.process.returncode == 0, told
    assert "exceeded memory limit" in told
    # The later stages are the same anywhere.
    told = study.start(cluster.environment, "--cores", "2").end()
    assert study.results() == undisturbed.results(), told
    # What was at work when it was disturbed, and no more, has begun twice; nothing has ended twice.
    assert study.ledger("end") == undisturbed.ledger("end")
    twice = study.ledger("start") - undisturbed.ledger("start")
    assert twice.keys() >= {"collect_preprocessing", "encode_scans-1-1", "train_autoencoder"}
    assert {job.partition("-")[0] for job in twice} == {
        "preprocess_scan",
        "collect_preprocessing",
        "train_autoencoder",
        "encode_scans",
    }


def test_the_run_itself_is_killed_interrupted_and_told_to_end(
    cluster: LocalCluster, study: StubbedStudy, undisturbed: StubbedStudy
) -> None:
    study.hold("preprocess_scan")
    first = study.start_on(cluster, "preprocess", *PAIRS)
    first.wait_until(lambda: study.started("preprocess_scan") == AT_WORK)

    second = study.start_on(cluster, "preprocess", *PAIRS)
    assert "no other Snakemake process" in second.end()
    assert second.process.returncode != 0

    # Killed: its jobs are still at work. The same command ends them, so that no two jobs write the same file.
    first.end(signal.SIGKILL)
    left = cluster.jobs()
    again = study.start_on(cluster, "preprocess", *PAIRS)
    again.wait_until(lambda: study.started("preprocess_scan") == 2 * AT_WORK)
    assert f"Cancelling {len(left)} jobs of a run that was killed" in again.told()
    assert not set(left) & set(cluster.jobs())

    # Ctrl-C: no job stays behind.
    assert "Traceback" not in again.interrupt()
    assert cluster.jobs() == []
    assert study.ended("preprocess_scan") == 0

    # SIGTERM: what is at work ends, nothing else begins.
    drained = study.start_on(cluster, "preprocess", *PAIRS)
    drained.wait_until(lambda: study.started("preprocess_scan") == 3 * AT_WORK)
    os.kill(drained.process.pid, signal.SIGTERM)
    drained.wait_until(lambda: "Will exit after finishing currently running jobs" in drained.told())
    study.release("preprocess_scan")
    drained.end()
    assert study.started("collect_preprocessing") == 0

    # The same command does what is left, and nothing twice.
    last = study.start_on(cluster, "preprocess", *PAIRS)
    told = last.end()
    assert last.process.returncode == 0, told
    assert last.finished() == {"collect_preprocessing": 1, "preprocess": 1}
    assert study.ended("preprocess_scan") == study.ended("align_scan") == SCANS
    assert study.results().items() <= undisturbed.results().items()


# What the two jobs of a scan tell: that a file which begins so cannot be used.
STATUS = """
import json
from pathlib import Path

raw = Path("bids", snakemake.wildcards.scan, "anat", f"{snakemake.wildcards.scan}_T1w.nii.gz").read_bytes()
status = {"scan": snakemake.wildcards.scan, "metrics": {}, "volumes_ml": {}, "outputs": {}}
status |= {"status": "done", "reasons": []}
if raw.startswith(b"cut"):
    status |= {"status": "fail", "reasons": ["the file is cut"]}
Path(snakemake.output[0]).write_text(json.dumps(status))
"""
# What a report tells of quality control.
REPORT = """
from pathlib import Path

Path(snakemake.output[0]).mkdir()
Path(snakemake.output[0], "index.html").write_text(Path("results/preproc/qc.tsv").read_text())
"""


def test_three_bad_scans_of_sixty_fail_alone_and_once_mended_they_and_the_gathers_are_redone(
    cluster: LocalCluster, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkout = stubs(tmp_path_factory.mktemp("checkout"))
    for script, text in (("preprocess_scan", STATUS), ("align_scan", STATUS), ("render_report", REPORT)):
        (checkout / "scripts" / f"{script}.py").write_text(text)
    name = "collect_preprocessing.py"
    shutil.copy(ROOT / "scripts" / name, checkout / "scripts" / name)
    study = StubbedStudy(tmp_path, checkout, write_scans(tmp_path / "bids", 60))
    bad = [tmp_path / f"bids/{scan}/anat/{scan}_T1w.nii.gz" for scan in ("sub-07", "sub-20", "sub-59")]
    for path in bad:
        path.write_bytes(b"cut")
    report = tmp_path / "results" / "report" / "index.html"

    run = study.start(cluster.environment, "--cores", "2")
    told = run.end()
    assert run.process.returncode == 0, told
    assert "60 scans: 57 pass, 0 warn, 3 fail." in told
    assert "sub-20: the file is cut" in told
    assert report.read_text().count("\tpass\t") == 57

    for path in bad:
        path.write_bytes(b"whole")
    run = study.start_on(cluster, "scm")
    told = run.end()
    assert run.process.returncode == 0, told
    assert "60 scans: 60 pass, 0 warn, 0 fail." in told
    done = run.finished()
    assert done["preprocess_scan"] == done["align_scan"] == 3
    assert done["index_cohort"] == 0
    for fitted in ("Training the autoencoder", "Fitting the structural causal model"):
        [reason] = re.findall(rf"{fitted}\nReason: (.*)", told)
        assert "Input files updated by another job: results/preproc/qc.tsv" in reason
    told = study.start(cluster.environment, "--cores", "2").end()
    assert report.read_text().count("\tpass\t") == 60, told
