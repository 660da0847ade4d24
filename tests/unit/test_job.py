"""What a job tells on the terminal and keeps in its log."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from brainscm.errors import BrainSCMError
from brainscm.job import job


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
            OSError(28, "No space left on device", "/r/scm"),
            "fit_scm: /r/scm: nothing can be written there (No space left on device); make room, then run the same",
        ),
        (ValueError("odd\nthings"), "fit_scm: unexpected ValueError: odd things; its traceback is in"),
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
