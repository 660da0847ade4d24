"""What Snakemake and the index of the cohort cost, by the number of scans: processor time and memory, on empty scans.

    python benchmarks/bench_dag.py [--scans 10 1000 5000]

For each number a BIDS folder of empty files is made, and the workflow is asked to index it, to plan the whole study
(dry run), and to find that a finished study has nothing to do. Nothing is preprocessed: outputs are empty files that
`--touch` declares finished. Writes results/dag.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from growth import Cost, cost, growth_exponents
from record import RESULTS, circumstances, write

ROOT = Path(__file__).resolve().parents[1]
# `snakemake --touch` without its pause of 0.1 s a job.
TOUCH_AT_ONCE = """
import sys
from snakemake.cli import main
from snakemake.executors.touch import Executor

Executor.SLEEPING_TIME = 0
main(sys.argv[1:])
"""
# Tells how long the Snakefile, with all that it imports, took a job of the workflow.
TIME_SNAKEFILE = """
import sys, time
from snakemake.cli import main
from snakemake.workflow import Workflow

include = Workflow.include

def timed(self, snakefile, **options):
    start = time.process_time()
    include(self, snakefile, **options)
    if options.get("overwrite_default_target"):
        print("SECONDS", time.process_time() - start, flush=True)

Workflow.include = timed
main(sys.argv[1:])
"""
STEPS = ("index", "dry_run", "nothing_to_do")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, nargs="+", default=[10, 1000, 5000])
    parser.add_argument("--only", choices=STEPS, nargs="+", default=STEPS, help="the steps to measure")
    arguments = parser.parse_args()
    by_scans = {}
    for n in arguments.scans:
        by_scans[n] = measure(n, arguments.only)
        print(n, json.dumps(by_scans[n]), flush=True)
    figures = {"scans": by_scans, "growth_exponent": growth_exponents(by_scans), "snakefile_cpu_s": snakefile_seconds()}
    figures |= circumstances()
    print(write(figures, RESULTS / "dag.json"))


def measure(n: int, steps: list[str]) -> dict[str, Cost]:
    """Processor seconds and peak memory (MB) of each step on n scans."""
    with tempfile.TemporaryDirectory() as name:
        study = DummyStudy(Path(name), n)
        figures = {"index": study.run(str(study.results / "cohort" / "scans.tsv"))}
        if "dry_run" in steps:
            figures["dry_run"] = study.run("--dry-run", "--quiet")
        if "nothing_to_do" in steps:
            study.finish()
            figures["nothing_to_do"] = study.run("--dry-run")
            assert "Nothing to be done" in study.log.read_text(), study.log.read_text()[-2000:]
        return figures


def snakefile_seconds() -> float:
    """Processor seconds that a job spends on the Snakefile and all that it imports, beside Snakemake's own start."""
    with tempfile.TemporaryDirectory() as name:
        study = DummyStudy(Path(name), 10)
        study.run(str(study.results / "cohort" / "scans.tsv"))
        study.run("--dry-run", "--mode", "subprocess", program=("-c", TIME_SNAKEFILE))
        return round(float(study.log.read_text().partition("SECONDS ")[2].split()[0]), 2)


class DummyStudy:
    """A study of empty scans in a folder of its own."""

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.n = folder, n
        self.results, self.log = folder / "results", folder / "log.txt"
        rows = ["participant_id\tage\tsex"]
        for i in range(n):
            anat = folder / "bids" / f"sub-{i:06d}" / "anat"
            anat.mkdir(parents=True)
            (anat / f"sub-{i:06d}_T1w.nii.gz").touch()
            rows.append(f"sub-{i:06d}\t{20 + i % 60}\t{'FM'[i % 2]}")
        (folder / "bids" / "participants.tsv").write_text("\n".join(rows) + "\n")
        study = {
            "bids_dir": str(folder / "bids"),
            "output_dir": str(self.results),
            "work_dir": str(folder / "work"),
            "scm": {"nodes": {"age": {"unit": "years"}, "sex": {}}, "image": {"formula": "age + sex"}},
            "counterfactuals": [{"name": "older", "do": {"age": "+10"}}],
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    def run(self, *arguments: str, program: Sequence[str] = ("-m", "snakemake")) -> Cost:
        """Run snakemake on the study."""
        command = [sys.executable, *program, "--snakefile", str(ROOT / "Snakefile"), "--configfile", "study.yaml"]
        if "--cores" not in arguments:
            command += ["--cores", "1"]
        targets = ["--", *arguments] if arguments[0].startswith("/") else arguments
        return cost([*command, *targets], self.log, cwd=self.folder)

    def outputs(self) -> list[str]:
        """Everything that the workflow would write, relative to the study's folder."""
        self.run("--summary")
        listed = (Path(line.split("\t")[0]) for line in self.log.read_text().splitlines())
        return [str(path.relative_to(self.folder)) for path in listed if path.is_relative_to(self.folder)]

    def finish(self) -> None:
        """Leave an empty file for each output and declare the study finished."""
        for output in (self.folder / name for name in self.outputs()):
            if output.suffix in ("", ".zarr"):
                output.mkdir(parents=True, exist_ok=True)
            elif not output.exists():
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text("scan\tstatus\treasons\n")
        self.run("--touch", "--forceall", "--quiet", "--cores", "200", program=("-c", TOUCH_AT_ONCE))


if __name__ == "__main__":
    main()
