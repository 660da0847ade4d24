"""Run the workflow from a test, in a folder of its own, as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def scripted_rules() -> dict[str, str]:
    """The text of each rule that runs a script, by the rule's name."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    blocks = re.split(r"^(?:rule|checkpoint) (\w+):$", text, flags=re.MULTILINE)[1:]
    return {name: block for name, block in zip(blocks[::2], blocks[1::2], strict=True) if "script:" in block}


def run_workflow(
    folder: Path,
    study: dict[str, Any],
    *arguments: str,
    environment: dict[str, str] | None = None,
    timeout: float = 1200,
) -> subprocess.CompletedProcess[str]:
    """Run `snakemake` on a study whose results and work lie in `folder`; stdout and stderr come back as one text."""
    configfile = folder / "study.yaml"
    configfile.write_text(
        yaml.safe_dump(
            {"output_dir": str(folder / "results"), "work_dir": str(folder / "work"), **study}, sort_keys=False
        )
    )
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    if not any(a in ("--cores", "-c", "--profile") for a in arguments):
        command += ["--cores", "2"]
    return subprocess.run(
        [*command, *arguments, "--configfile", str(configfile)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
    )
