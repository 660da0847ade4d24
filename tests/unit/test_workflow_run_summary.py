"""The lines that a run ends with: how the scans fared, which failed and why, and where the report is."""

import os
from pathlib import Path

import pandas as pd
import pytest

from brainscm.tables import write_table
from brainscm.workflow.run_summary import run_summary


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder of 40 scans, of which 30 failed, 1 has a warning and 9 passed."""
    statuses = ["fail"] * 30 + ["warn"] + ["pass"] * 9
    rows = [{"scan": f"sub-{i:02d}", "status": status, "reasons": "cut short"} for i, status in enumerate(statuses)]
    write_table(pd.DataFrame(rows), tmp_path / "preproc" / "qc.tsv")
    return tmp_path


def write_report(results: Path, seconds: float) -> Path:
    """An overview page that is so many seconds younger than the table of quality control."""
    index = results / "report" / "index.html"
    index.parent.mkdir(exist_ok=True)
    index.write_text("")
    written = (results / "preproc" / "qc.tsv").stat().st_mtime + seconds
    os.utime(index, (written, written))
    return index


def test_a_run_that_has_preprocessed_nothing_says_nothing(tmp_path: Path) -> None:
    assert run_summary(tmp_path) == ""


def test_scans_are_counted_and_those_that_failed_are_listed_with_their_reasons(results: Path) -> None:
    lines = run_summary(results).splitlines()
    assert lines[0] == "40 scans: 9 pass, 1 warn, 30 fail."
    assert lines[1:21] == [f"  sub-{i:02d}: cut short" for i in range(20)]
    assert lines[21:] == [
        f"  and 10 more, in {results / 'preproc' / 'qc.tsv'}",
        f"The table of all scans: {results / 'preproc' / 'qc.tsv'}",
    ]


def test_the_report_of_this_run_is_offered(results: Path) -> None:
    index = write_report(results, seconds=10)
    assert run_summary(results).endswith(f"\nThe report: {index}")


@pytest.mark.parametrize("newer", ["preproc/qc.tsv", "evaluation/summary.json"])
def test_a_report_that_is_older_than_what_it_reports_is_not(results: Path, newer: str) -> None:
    index = write_report(results, seconds=10)
    path = results / newer
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (index.stat().st_mtime + 1,) * 2)
    assert "The report" not in run_summary(results)
