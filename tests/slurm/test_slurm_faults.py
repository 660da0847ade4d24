"""Jobs, nodes, the controller and the run itself fail on a real slurmctld with two slurmd, and nothing is lost.

Jobs are stubs, which are disturbed in the middle of their output; what they write depends on all that they read.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from slurm.local_cluster import LocalCluster, why_unavailable
from slurm.stubbed_study import KILL, TAKE_MEMORY, StubbedStudy, stubs, write_scans
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
    """A study that has been preprocessed on this machine alone."""
    study = StubbedStudy(tmp_path_factory.mktemp("undisturbed"), checkout, bids)
    run = study.start(cluster.environment, "--cores", "2", "preprocess")
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
    study.hold("preprocess_scan")
    alone = ["--group-components", "scans=1", "--retries", "2"]  # as some are disturbed twice
    asked = ["--set-resources", *(f"{rule}:mem_mb=800" for rule in ("preprocess_scan", "align_scan"))]
    run = study.start_on(cluster, "preprocess", *alone, *asked)

    # A node goes down under all jobs, and comes back.
    run.wait_until(lambda: study.started("preprocess_scan") == SCANS)
    study.disturb("preprocess_scan-sub-00", KILL)
    study.disturb("align_scan-sub-01", KILL)
    study.disturb("preprocess_scan-sub-02", TAKE_MEMORY)
    study.hold("preprocess_scan-sub-03")
    cluster.set_down("node1")
    run.wait_until(lambda: run.told().count("DUE TO NODE FAILURE") == SCANS)
    cluster.wait_for_nodes()
    study.release("preprocess_scan")

    # Of the second tries one is killed in its first step, one in its second, one over its memory, one over its time.
    run.wait_until(lambda: study.ended("align_scan") == SCANS - 1 and len(cluster.jobs()) == 1)
    [job] = cluster.jobs()
    cluster.run("scontrol", "update", f"JobId={job}", f"EndTime={datetime.now() + timedelta(seconds=1):%FT%T}")
    run.wait_until(lambda: "DUE TO TIME LIMIT" in run.told())

    # The controller is away while the last job ends.
    run.wait_until(lambda: study.ledger("start")["preprocess_scan-sub-03"] == 3)
    cluster.stop_controller()
    study.release("preprocess_scan-sub-03")
    run.wait_until(lambda: "SLURM does not answer" in run.told())
    cluster.start_controller()

    told = run.end()
    assert run.process.returncode == 0, told
    assert told.count("took more memory than it had asked for") == 1
    assert "SLURM answers again" in told
    assert study.results() == undisturbed.results()
    # What was at work when it was disturbed, and no more, has begun again; nothing has ended twice.
    assert study.ledger("end") == undisturbed.ledger("end") + Counter({"preprocess_scan-sub-01": 1})
    again = study.ledger("start") - undisturbed.ledger("start")
    thrice = {f"preprocess_scan-sub-{i:02d}": 2 for i in (0, 1, 2, 3)}
    once = {f"preprocess_scan-sub-{i:02d}": 1 for i in range(4, SCANS)}
    assert again == {**thrice, **once, "align_scan-sub-01": 1}


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
    assert study.results() == undisturbed.results()


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
        path.write_bytes(b"cut".ljust(3000))  # too large for a pointer, whose size the index looks at

    run = study.start(cluster.environment, "--cores", "2")
    told = run.end()
    assert run.process.returncode == 0, told
    assert "60 scans: 57 pass, 0 warn, 3 fail." in told
    assert "sub-20: the file is cut" in told
    assert (tmp_path / "results" / "report" / "index.html").read_text().count("\tpass\t") == 57

    for path in bad:
        path.write_bytes(b"whole".ljust(3000))
    run = study.start_on(cluster, "scm")
    told = run.end()
    assert run.process.returncode == 0, told
    assert "60 scans: 60 pass, 0 warn, 0 fail." in told
    done = run.finished()
    assert done["preprocess_scan"] == done["align_scan"] == 3
    assert done["index_cohort"] == 0
    for fitted in ("Training the autoencoder", "Fitting the structural causal model"):
        [reason] = re.findall(rf"{fitted}\nReason: (.*)", told)
        assert "results/preproc/qc.tsv" in reason.partition("Input files updated by another job: ")[2]
