"""Runs on SLURM that outlive their controller, end with all their jobs, and end the jobs of a run that was killed.

Snakemake's plugin (2.8) forgets the jobs that it waits for when it cannot ask about them, takes a job that nobody was
there to accept for one that failed, and leaves jobs in the queue when it is interrupted while it submits or asks.
"""

from __future__ import annotations

import asyncio
import fcntl
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import snakemake_executor_plugin_slurm as plugin

from brainscm.errors import BrainSCMError

RECORD = Path(".snakemake/brainscm.slurm")
NO_CONTROLLER = "Unable to contact slurm controller"
# As SLURM's own watch says it, or the system's.
OVER_MEMORY = re.compile(r"exceeded memory limit|oom[-_ ]kill", re.IGNORECASE)
PAUSE = 10  # seconds until a job is submitted again
PATIENCE = 120  # seconds that cancelled jobs may take to end

_ask = plugin.query_job_status


class Executor(plugin.Executor):
    """Snakemake's executor for SLURM, where it may be away for a while."""

    def __post_init__(self, test_mode: bool = False) -> None:
        super().__post_init__(test_mode)
        self._is_answering = True
        self._record = _record_run(Path.cwd(), self.run_uuid)

    def additional_general_args(self) -> str:
        """How a job starts Snakemake: once, and the scans that share it side by side on its cores.

        The plugin's own way is another start for each of them, one after the other.
        """
        return "--executor local"

    async def _wait_for_jobs(self) -> None:
        plugin.query_job_status = self._status_of_jobs
        await super()._wait_for_jobs()

    async def _status_of_jobs(self, command: str, logger: Any) -> tuple[dict[str, str], float]:
        """What SLURM tells of the jobs: nothing while it does not answer. Of what it does not tell is asked again."""
        states, seconds = await _ask(command, logger)
        self._note(is_answering=states is not None)
        return states or {}, seconds or 0.0

    def _note(self, is_answering: bool) -> None:
        if self._is_answering and not is_answering:
            self.logger.warning("SLURM does not answer. The run waits for it; jobs that have started go on meanwhile.")
        elif is_answering and not self._is_answering:
            self.logger.warning("SLURM answers again.")
        self._is_answering = is_answering

    def _report_job_error_threadsafe(self, job_info: Any, msg: str) -> None:
        """Tell of a job that could not be submitted; if only the controller was away, submit it once more."""
        if NO_CONTROLLER not in msg:
            super()._report_job_error_threadsafe(job_info, msg)
            return
        self._note(is_answering=False)
        for _ in range(PAUSE):
            if self.wait:
                time.sleep(1)
        if self.wait:
            self._job_submission_executor.submit(self.run_job, job_info.job)

    def report_job_error(self, job_info: Any, msg: str | None = None, **told: Any) -> None:
        """Tell of a job that failed, and why, where SLURM's log knows more than the status."""
        logs = [Path(log) for log in told.get("aux_logs", []) if log]
        if any(OVER_MEMORY.search(log.read_text(errors="replace")) for log in logs if log.exists()):
            self.logger.error(
                f"SLURM-job '{job_info.external_jobid}' took more memory than it had asked for, and was killed. "
                "Another try asks for more; `set-resources` of a profile can give the rule another mem_mb."
            )
        super().report_job_error(job_info, msg=msg, **told)

    async def sleep(self) -> None:
        """Until the next look at the jobs, or the end of the run."""
        until = time.monotonic() + self.next_seconds_between_status_checks
        while self.wait and time.monotonic() < until:
            await asyncio.sleep(1)

    def cancel(self) -> None:
        self.wait = False
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        super().cancel()

    def cancel_jobs(self, active_jobs: list[Any]) -> None:
        """Cancel all jobs of this run: also those that are asked about right now, and the last one submitted."""
        clusters = ["--clusters=all"] if self._submitted_job_clusters else []
        done = subprocess.run(["scancel", *clusters, "--name", self.run_uuid], capture_output=True, text=True)
        if done.returncode != 0:
            self._record = None
            self.logger.error(
                "The jobs of this run go on, since SLURM does not answer. When it does, the next run here ends them; "
                f"so does `scancel --name {self.run_uuid}`."
            )

    def shutdown(self) -> None:
        super().shutdown()
        if self._record:
            self._record.truncate(0)


def _record_run(folder: Path, run: str) -> IO[str] | None:
    """Note in `folder` on which machine a run is, and under which name its jobs are; locked for as long as it lives.

    Returns:
        None where the file system has no such locks.
    """
    file = (folder / RECORD).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    file.truncate(0)
    file.write(f"{platform.node()} {run}")
    file.flush()
    return file


def end_left_jobs(folder: Path) -> bool:
    """Cancel the jobs that a run in `folder` which was killed has left in the queue, and wait for their end.

    Otherwise they would write the same files as those of the next run.

    Returns:
        Whether there were any.

    Raises:
        BrainSCMError: there may be some, and they cannot be cancelled; the message says what to do.
    """
    try:
        file = (folder / RECORD).open("r+", encoding="utf-8")
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # the run is at work, or nobody can tell
            return False
        node, _, run = file.read().partition(" ")
        if not run:
            return False
        n = len(_jobs(run))
        if n and node != platform.node():
            raise BrainSCMError(
                f"the run that was started on {node} has {n} jobs on SLURM: let it end, or go on there. If it was "
                f"killed, `scancel --name {run}` ends them; then run the same command again."
            )
        if n:
            print(f"Cancelling {n} jobs of a run that was killed.", file=sys.stderr, flush=True)
            subprocess.run(["scancel", "--name", run], check=True)
        until = time.monotonic() + PATIENCE
        while _jobs(run):
            if time.monotonic() > until:
                raise BrainSCMError(f"jobs of a run that was killed do not end: `squeue --name {run}` lists them.")
            time.sleep(1)
        file.truncate(0)
    return n > 0


def _jobs(run: str) -> list[str]:
    """The jobs of a run that have not ended."""
    done = subprocess.run(["squeue", "--noheader", "--format=%i", "--name", run], capture_output=True, text=True)
    if done.returncode != 0:
        raise BrainSCMError(
            "a run in this folder was killed, and its jobs may still be at work: SLURM does not answer "
            f"({done.stderr.strip()}). Run the same command again when it does."
        )
    return done.stdout.split()
