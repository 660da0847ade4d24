"""What a command costs, and how that grows with the number of scans."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Cost = dict[str, float]
# Runs a command and writes what it used. A small process of its own: the peak of one that starts another is counted as
# the other's, too.
WATCH = """
import os, resource, subprocess, sys
done = subprocess.run(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(f"{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(done.returncode)
"""


def cost(command: Sequence[str], log: Path, **arguments: Any) -> Cost:
    """Run a command: its processor seconds, with its children's, and the peak memory (MB) of its largest process.

    Processor time and not that of the clock, since the machine may have other work.

    Args:
        log: receives what it tells.
        arguments: of `subprocess.run`.

    Raises:
        RuntimeError: it failed.
    """
    with log.open("w") as out, tempfile.NamedTemporaryFile() as used:
        watched = [sys.executable, "-ISc", WATCH, used.name, *command]
        done = subprocess.run(watched, stdout=out, stderr=subprocess.STDOUT, **arguments)
        if done.returncode != 0:
            raise RuntimeError(f"{command} failed:\n{log.read_text()[-3000:]}")
        seconds, kilobytes = map(float, used.read().split())
    return {"cpu_s": round(seconds, 2), "peak_mb": round(kilobytes / 1024)}


def growth_exponents(by_scans: Mapping[int, Mapping[str, Cost]]) -> dict[str, float]:
    """By step, k where its processor time grows as n^k beyond that of the least number of scans.

    Between the two largest numbers; what a process costs at its start, whatever the number, is so left out.
    """
    if len(by_scans) < 3:
        return {}
    least, *_, fewer, more = sorted(by_scans)

    def beyond_start(step: str, n: int) -> float:
        return by_scans[n][step]["cpu_s"] - by_scans[least][step]["cpu_s"]

    return {
        step: round(math.log(beyond_start(step, more) / beyond_start(step, fewer)) / math.log(more / fewer), 2)
        for step in by_scans[more]
        if min(beyond_start(step, fewer), beyond_start(step, more)) > 0
    }
