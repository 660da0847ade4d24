"""How every benchmark records its figures: with the machine, the day and the command, as a JSON file in results/."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def circumstances(*details: str, machine: str | None = None, command: str | None = None) -> dict[str, str]:
    """Entries `machine`, `date` and `command`.

    Args:
        details: of the machine, such as its cores or its load.
        machine: its name; the processor's architecture unless given.
        command: the one that was typed unless given, as where it names files of this machine.
    """
    return {
        "machine": ", ".join([machine or platform.machine(), *details]),
        "date": datetime.date.today().isoformat(),
        "command": command or shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def write(figures: dict[str, Any], path: Path) -> str:
    """Write the figures to the file and return its text."""
    text = json.dumps(figures, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    return text
