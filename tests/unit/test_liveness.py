"""Locks that a killed run has left are removed; those of a run, or of its jobs, that are at work are not."""

import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest

from brainscm.liveness import ALIVE, LOCKS, hold

HOLD = """
import os, sys
from pathlib import Path
from threading import Timer
from brainscm.liveness import hold
kept = hold(Path(sys.argv[1]), {main})
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock of Snakemake in a folder where a run was at work and was killed."""
    killed = HOLD.format(main=True) + "os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)])
    path = tmp_path / LOCKS / "0.output.lock"
    path.parent.mkdir()
    path.write_text("results/preproc/qc.tsv\n")
    return path


def test_what_a_killed_run_has_locked_is_free_again(lock: Path, tmp_path: Path) -> None:
    assert hold(tmp_path, is_main=True) is not None
    assert not lock.exists()


@pytest.mark.parametrize("main", [True, False])
def test_the_lock_of_a_run_or_job_at_work_stays(lock: Path, tmp_path: Path, main: bool) -> None:
    code = HOLD.format(main=main) + "print(flush=True); sys.stdin.read()"
    # A job of a run that was killed may still be at work, too.
    lock_text, other = lock.read_text(), [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        lock.write_text(lock_text)
        assert hold(tmp_path, is_main=True) is not None
        assert lock.exists()
        process.kill()
    assert hold(tmp_path, is_main=True) is not None
    assert not lock.exists()


def test_a_lock_of_another_machine_stays(lock: Path, tmp_path: Path) -> None:
    (tmp_path / ALIVE).write_text("another-node")
    assert hold(tmp_path, is_main=True) is not None
    assert lock.exists()
    assert (tmp_path / ALIVE).read_text() == "another-node"


def test_a_folder_that_cannot_be_written_to_is_left_as_it_is(tmp_path: Path) -> None:
    assert hold(tmp_path / "absent" / "folder", is_main=True) is None


def test_a_run_waits_for_others_that_are_about_to_end(lock: Path, tmp_path: Path) -> None:
    ending = [sys.executable, "-c", HOLD.format(main=False) + "print(flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(ending, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Timer(1, process.kill).start()
        assert hold(tmp_path, is_main=True, patience=30) is not None
    assert not lock.exists()
