"""What the BIDS validator says of a folder that BrainSCM wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def validator_errors(folder: Path, *options: str) -> list[str]:
    """The errors of the validator of the BIDS standard, `<code>[ <field>] <file>`; none where the folder is BIDS.

    With `--recursive` those of the datasets in `derivatives/` come with them, whose files are told from their own tops.
    """
    start = "import bids_validator_deno; bids_validator_deno.cli()"
    done = subprocess.run(
        [sys.executable, "-c", start, str(folder), "--format", "json", *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "DENO_NO_UPDATE_CHECK": "1"},
    )
    assert done.stdout.startswith("{"), done.stderr
    found = json.loads(done.stdout)
    return sorted(
        " ".join(filter(None, (issue["code"], issue.get("subCode"), issue.get("location"))))
        for dataset in (found, *found.get("derivativesSummary", {}).values())
        for issue in dataset["issues"]["issues"]
        if issue["severity"] == "error"
    )
