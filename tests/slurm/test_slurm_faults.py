"""The run itself fails on a real slurmctld with two slurmd, and nothing is lost.

Jobs are stubs, which are disturbed in the middle of their output; what they write depends on all that they read.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.local_cluster import LocalCluster, why_unavailable
from slurm.stubbed_study import StubbedStudy, stubs, write_scans

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
