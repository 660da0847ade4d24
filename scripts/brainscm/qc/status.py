"""What one scan's job tells of it, in a JSON file that is written however far it came: a bad scan is data."""

from __future__ import annotations

import json
import logging
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

import brainscm
from brainscm.errors import DISK_ERRORS, BrainSCMError, ConfigError, ScanError, one_line
from brainscm.files import write_json

logger = logging.getLogger("brainscm")

Stage = Literal["status", "alignment"]  # the folders of preproc/ in which the jobs of a stage leave theirs


@dataclass
class ScanStatus:
    """The status of one scan at one stage, filled in on the way.

    Attributes:
        outcome: `done`, whatever its metrics are: the limits are applied when the cohort is collected, so that another
            limit redoes nothing here; `fail`; or `skipped`, since an earlier stage had failed.
        reasons: why it failed, and what to know of a scan that is done.
        inputs: of each raw file its name, SHA-256, and which part of its header says how the head lies.
        why_null: why a metric has no value, by its name.
        outputs: the files by their role, relative to `preproc_dir`.
        seconds: what each step took.
        step_name: the step that is under way.
    """

    scan: str
    preproc_dir: Path
    stage: Stage
    software: dict[str, str]
    outcome: Literal["done", "fail", "skipped"] = "fail"
    reasons: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    why_null: dict[str, str] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    inputs: list[dict[str, str]] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    step_name: str = "start"

    @property
    def path(self) -> Path:
        return status_path(self.preproc_dir, self.stage, self.scan)

    @property
    def finite_metrics(self) -> dict[str, float | None]:
        """The metrics as JSON can hold them."""
        return {name: round(value, 6) if np.isfinite(value) else None for name, value in self.metrics.items()}

    def add(self, role: str, path: Path) -> None:
        """Remember a file that was written."""
        self.outputs[role] = path.relative_to(self.preproc_dir).as_posix()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.step_name, start = name, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start

    @contextmanager
    def working_on(self, what: Path) -> Iterator[None]:
        """Do the work on a file: at its end the scan is done, and an error is told in one sentence and not raised.

        Raises:
            ConfigError: the template or the atlas cannot be used; then no scan can be.
            BrainSCMError: nothing can be written.
            MemoryError: the machine lacks memory, which says nothing about the scan.
        """
        try:
            yield
            self.outcome = "done"
        except (ConfigError, MemoryError):
            raise
        except ScanError as error:
            self.reasons.insert(0, str(error))
        except Exception as error:  # whatever a library made of a bad scan must not stop the cohort
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:  # but a full disk says nothing about the scan
                raise BrainSCMError(
                    f"{self.scan}: nothing can be written under {self.preproc_dir} ({error.strerror}); make room or"
                    " mend the permissions, then run again"
                ) from error
            logger.warning("%s: unexpected error\n%s", self.scan, traceback.format_exc())
            cause = f"{type(error).__name__} in step {self.step_name} ({one_line(error)})"
            self.reasons.insert(0, f"{what}: {cause}; look at the scan and at this scan's log")

    def write(self) -> dict[str, Any]:
        """Write the status. Returns what was written."""
        content = {
            "scan": self.scan,
            "status": self.outcome,
            "reasons": self.reasons,
            "metrics": self.finite_metrics,
            "why_null": self.why_null,
            "volumes_ml": {name: round(value, 4) for name, value in self.volumes_ml.items()},
            "sources": self.sources,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "software": self.software,
        }
        level = logging.WARNING if self.outcome == "fail" else logging.INFO
        seconds = sum(self.seconds.values())
        logger.log(level, "%s: %s in %.0f s %s", self.scan, self.outcome, seconds, "; ".join(self.reasons))
        write_json(self.path, content)
        return content


def status_path(preproc_dir: Path, stage: Stage, scan: str) -> Path:
    return preproc_dir / stage / f"{scan}.json"


def read_status(preproc_dir: Path, stage: Stage, scan: str) -> dict[str, Any]:
    """What a job of `stage` told of a scan.

    Raises:
        BrainSCMError: it is missing or unreadable, or an image that it promises is gone.
    """
    path = status_path(preproc_dir, stage, scan)
    rerun = f"rerun it with: snakemake --cores all --force {path}"
    try:
        status: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BrainSCMError(f"{scan}: its status {path} is missing or unreadable; {rerun}") from error
    if status["status"] == "done":
        gone = [name for name in status["outputs"].values() if not (preproc_dir / name).is_file()]
        if gone:
            raise BrainSCMError(f"{scan}: {preproc_dir / gone[0]} was written but is gone; {rerun}")
    return status


def software_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of what shapes a result."""
    own = {"brainscm": brainscm.__version__, "python": platform.python_version()}
    return own | {name: version(name) for name in packages}
