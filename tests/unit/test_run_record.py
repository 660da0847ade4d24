"""The record of a run tells the command, the code, the machine, and what each rule took."""

import json
import subprocess
from pathlib import Path

from brainscm.run_record import write_run_record


def test_a_run_is_recorded(tmp_path: Path) -> None:
    header = "s\th:m:s\tmax_rss\n"
    for name, cells in (("fit_scm", "12.5\t0:00:12\t900.5"), ("preprocess_scan/sub-1", "30\t0:00:30\t700")):
        path = tmp_path / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{header}{cells}\n")
    (tmp_path / "benchmarks" / "preprocess_scan" / "sub-2.tsv").write_text(f"{header}0.1\t0:00:00\t-\n")
    write_run_record(tmp_path, ["/bin/snakemake", "--configfile", "my study.yaml"], tmp_path, 7, succeeded=True)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == "snakemake --configfile 'my study.yaml'"
    assert record["seed"] == 7
    assert record["commit"] is None
    assert record["packages"]["numpy"]
    assert record["rules"]["fit_scm"] == {"jobs": 1, "seconds": 12.5, "longest_seconds": 12.5, "peak_mb": 900.5}
    assert record["rules"]["preprocess_scan"] == {"jobs": 2, "seconds": 30.1, "longest_seconds": 30.0, "peak_mb": 700.0}


def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    (tmp_path / "code.py").write_text("x = 1\n")
    git("init")
    git("add", "code.py")
    git("commit", "-m", "x")
    write_run_record(tmp_path, ["snakemake"], tmp_path, 1, succeeded=False)
    commit = json.loads((tmp_path / "run.json").read_text())["commit"]
    assert len(commit) == 40
    (tmp_path / "code.py").write_text("x = 2\n")
    write_run_record(tmp_path, ["snakemake"], tmp_path, 1, succeeded=False)
    assert json.loads((tmp_path / "run.json").read_text())["commit"] == f"{commit}-dirty"
