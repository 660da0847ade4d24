"""Whether anybody is at work in a folder of Snakemake, so that what a killed run has locked need not stay locked."""

from __future__ import annotations

import fcntl
import platform
import time
from pathlib import Path
from typing import IO

LOCKS, ALIVE = Path(".snakemake/locks"), Path(".snakemake/brainscm.alive")


def hold(folder: Path, is_main: bool, patience: float = 0.0) -> IO[str] | None:
    """Say, for as long as the returned file is open, that a process of the workflow is at work in `folder`.

    Runs and the jobs that they start on this machine hold the file together; the system lets go of it when a process
    dies. A run that finds itself alone removes Snakemake's locks, which a killed run has left behind: Snakemake itself
    cannot tell them from those of another run, and would refuse to start. Where another machine was at work last,
    whose processes cannot be seen from here, they stay.

    Args:
        is_main: the process is a run, and no job of one.
        patience: seconds that a run waits for others, of which it is known that they are about to end.

    Returns:
        None where the file system has no such locks, or cannot be written to; then the locks stay, too.
    """
    try:
        (folder / ALIVE).parent.mkdir(exist_ok=True)
        file = (folder / ALIVE).open("a+", encoding="utf-8")
        if is_main:
            _clear_if_alone(folder, file, time.monotonic() + patience)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return None
    return file


def _clear_if_alone(folder: Path, file: IO[str], until: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                return
            time.sleep(0.5)
    left = list((folder / LOCKS).glob("*.lock"))
    file.seek(0)
    if left and file.read() != platform.node():
        return
    for lock in left:
        lock.unlink()
    file.truncate(0)
    file.write(platform.node())
    file.flush()
