"""What a job tells on the terminal and keeps in its log, and the words that a run ends with."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from brainscm.errors import BrainSCMError
from brainscm.job import job
from brainscm.run_summary import run_summary
from brainscm.tables import write_table


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    logger = logging.getLogger("brainscm")
    monkeypatch.setattr(logger, "handlers", logger.handlers)
    monkeypatch.setattr(logger, "level", logger.level)
    return SimpleNamespace(rule="fit_scm", threads=1, log=[str(tmp_path / "logs" / "fit_scm.log")])


def test_progress_reaches_the_terminal_and_the_log(rule: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    with job(rule) as logger:
        logger.info("encoded 3 of 9 scans")
    assert "encoded 3 of 9 scans" in capfd.readouterr().err
    assert "encoded 3 of 9 scans" in Path(rule.log[0]).read_text()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BrainSCMError("scans.tsv: mend it."), "fit_scm: scans.tsv: mend it.\n"),
        (
            OSError(28, "No space left on device"),
            "fit_scm: unexpected OSError: [Errno 28] No space left on device; its",
        ),
    ],
)
def test_an_error_is_one_line_on_the_terminal(
    rule: SimpleNamespace, capfd: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    with pytest.raises(SystemExit), job(rule):
        raise error
    shown = capfd.readouterr().err
    assert shown.startswith(told)
    assert shown.count("\n") == 1
    assert ("Traceback" in Path(rule.log[0]).read_text()) == (not isinstance(error, BrainSCMError))


def test_a_run_ends_with_what_failed_and_where_the_report_is(tmp_path: Path) -> None:
    assert run_summary(tmp_path) == ""
    qc, report = tmp_path / "preproc" / "qc.tsv", tmp_path / "report" / "index.html"
    rows = [{"scan": f"sub-{i:02d}", "status": "fail" if i < 30 else "pass", "reasons": "cut short"} for i in range(40)]
    write_table(pd.DataFrame(rows), qc)
    words = run_summary(tmp_path)
    assert words.startswith("40 scans: 10 pass, 0 warn, 30 fail.\n  sub-00: cut short\n")
    assert f"and 10 more, in {qc}" in words
    assert words.endswith(f"The table of all scans: {qc}")
    report.parent.mkdir()
    report.write_text("")
    assert run_summary(tmp_path).endswith(f"The report: {report}")
    os.utime(report, (0, 0))
    assert "The report" not in run_summary(tmp_path)
