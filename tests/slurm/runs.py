"""Runs of the workflow that tests watch, signal and disturb."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# As fast as a test may be: jobs on one machine see their files at once.
QUICK = ["--latency-wait", "5"]


def look_often(checkout: Path) -> None:
    """Have a copy of the project ask for its jobs every other second, not ever more seldom, up to three minutes."""
    module = checkout / "scripts" / "brainscm" / "workflow" / "slurm.py"
    text = module.read_text()
    assert text.count("self.next_seconds_between_status_checks") == 1
    module.write_text(text.replace("self.next_seconds_between_status_checks", "2"))


class Run:
    """A run of the workflow, as the leader of a session of its own, as from a terminal."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.log = folder / f"run-{len(list(folder.glob('run-*.log')))}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A test run in the background ignores Ctrl-C, and so would all that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def told(self) -> str:
        return self.log.read_text()

    def wait_until(self, holds: Callable[[], bool], seconds: float = 1200) -> None:
        """Wait for something that this run is to bring about."""
        until = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < until, self.told()
            time.sleep(0.2)

    def end(self, number: signal.Signals | None = None, seconds: float = 1200) -> str:
        """Wait for the end, or bring it about by a signal to the process; what the run has told."""
        if number:
            os.kill(self.process.pid, number)
        self.process.wait(timeout=seconds)
        return self.told()

    def interrupt(self) -> str:
        """Ctrl-C, as a terminal gives it to all processes of the run; what the run has told."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.end()

    def finished(self) -> Counter[str]:
        """The jobs that this run has seen finish, by rule."""
        return Counter(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", self.told()))


def process_that_writes(log: Path) -> int | None:
    """The id of a process that has a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(log):
                return int(link.parts[2])
        except OSError:
            continue
    return None
