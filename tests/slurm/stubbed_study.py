"""A study whose jobs are stubs that can be held, or disturbed, in the middle of their output."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from slurm.local_cluster import LocalCluster
from slurm.runs import QUICK, Run, look_often
from workflows import GRAPH, ROOT, copy_checkout, scripted_rules

# A job writes what depends on all that it reads, half of it before it is held or disturbed, and keeps a ledger.
STUB = """
import hashlib, os, time
from pathlib import Path

NAME = "-".join([snakemake.rule, *snakemake.wildcards])


def digest(path):
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return "".join(hashlib.sha256(p.read_bytes()).hexdigest() for p in files)


def note(event):
    with open("ledger.txt", "a") as ledger:
        ledger.write(f"{event} {NAME} {os.getpid()}\\n")


made = hashlib.sha256("".join([NAME, *map(digest, map(Path, snakemake.input))]).encode()).hexdigest()
for place in map(Path, snakemake.output):
    if place.suffix in ("", ".zarr"):
        place.mkdir(parents=True, exist_ok=True)
    with (place / "content" if place.is_dir() else place).open("w") as file:
        file.write("scan\\tstatus\\treasons\\n")
        file.flush()
        if place == Path(snakemake.output[0]):
            note("start")
            fault = Path("faults", NAME)
            if fault.exists():
                code = fault.read_text()
                fault.unlink()
                exec(code)
            while any(Path("hold", name).exists() for name in (snakemake.rule, NAME)):
                time.sleep(0.1)
        file.write(f"{made}\\tpass\\t\\n")
note("end")
"""
KILL = "os.kill(os.getpid(), 9)"
# More than the 800 MB of a test's jobs.
TAKE_MEMORY = "taken = bytearray(os.urandom(1)) * int(1e9); time.sleep(4)"


def stubs(folder: Path) -> Path:
    """A checkout in `folder` whose jobs but the index are stubs, with its profiles."""
    copy_checkout(folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    for rule in scripted_rules():
        if rule != "index_cohort":
            (folder / "scripts" / f"{rule}.py").write_text(STUB)
    look_often(folder)
    return folder


def write_scans(bids: Path, n: int) -> Path:
    """A BIDS folder of `n` scans of 100 bytes."""
    rows = ["participant_id\tage\tsex"]
    for i in range(n):
        anat = bids / f"sub-{i:02d}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-{i:02d}_T1w.nii.gz").write_bytes(bytes(100))
        rows.append(f"sub-{i:02d}\t{20 + i}\t{'FM'[i % 2]}")
    (bids / "participants.tsv").write_text("\n".join(rows) + "\n")
    return bids


class StubbedStudy:
    """A study of the scans in `bids`, in `folder`."""

    def __init__(self, folder: Path, checkout: Path, bids: Path) -> None:
        self.folder, self.checkout = folder, checkout
        self.runs: list[Run] = []
        for name in ("hold", "faults"):
            (folder / name).mkdir()
        options: dict[str, Any] = {
            "bids_dir": str(bids),
            "scm": {**GRAPH, "contrasts": {"ageing": {"age": [20, 60]}}},
            "counterfactuals": [{"name": "older", "do": {"age": "+10"}}],
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(options, sort_keys=False))

    def start(self, environment: dict[str, str], *arguments: str) -> Run:
        command = ["snakemake", "--snakefile", str(self.checkout / "Snakefile"), *arguments]
        self.runs.append(Run([*command, "--configfile", "study.yaml"], self.folder, environment))
        return self.runs[-1]

    def start_on(self, cluster: LocalCluster, *arguments: str) -> Run:
        profile = ["--profile", str(self.checkout / "profiles" / "slurm"), *QUICK]
        return self.start(cluster.environment, *arguments, *profile)

    def hold(self, job: str) -> None:
        """Hold the jobs of a rule, or one job, in the middle of their output."""
        (self.folder / "hold" / job).touch()

    def release(self, job: str) -> None:
        (self.folder / "hold" / job).unlink()

    def disturb(self, job: str, code: str) -> None:
        """Have a job run `code` in the middle of its output, once."""
        (self.folder / "faults" / job).write_text(code)

    def ledger(self, event: str) -> Counter[str]:
        """How often each job has started, or ended."""
        path = self.folder / "ledger.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(job for told, job, _ in map(str.split, lines) if told == event)

    def started(self, rule: str) -> int:
        return self._count("start", rule)

    def ended(self, rule: str) -> int:
        return self._count("end", rule)

    def _count(self, event: str, rule: str) -> int:
        return sum(count for job, count in self.ledger(event).items() if job.partition("-")[0] == rule)

    def results(self) -> dict[str, str]:
        """A checksum of each file that jobs have written."""
        results = self.folder / "results"
        files = [path for path in sorted(results.rglob("*")) if path.is_file()]
        own = [path for path in files if path.relative_to(results).parts[0] not in ("logs", "benchmarks", "run.json")]
        return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in own}
