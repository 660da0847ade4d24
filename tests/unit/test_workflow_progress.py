"""The line that tells how far a run is: by the times that are recorded, and what it does not know it says."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from brainscm.workflow import progress as module
from brainscm.workflow.progress import ProgressLine, in_words, recorded_seconds, time_left


def test_time_left_is_that_of_the_waiting_jobs_as_many_side_by_side_as_so_far() -> None:
    planned, waiting = {"scan": 400, "fit": 1, "page": 1}, {"scan": 300, "fit": 1, "page": 1}
    # 100 scans of a minute in 10 minutes: ten side by side; the other 300 take half an hour, and then the fit an hour.
    told = time_left(planned, waiting, {"scan": 60, "fit": 3600}, elapsed=600)
    assert told == "about 1 h 30 min left, beside page, of which no time is known"
    told = time_left({}, dict.fromkeys("edcba", 1), {}, 60)
    assert told == "about 0 min left, beside a, b, c, 2 other rules, of which no time is known"
    assert time_left({"fit": 2}, {"fit": 2}, {"fit": 90}, elapsed=1) == "about 3 min left"


@pytest.mark.parametrize(("seconds", "words"), [(29, "0 min"), (3570, "1 h 0 min"), (12000, "3 h 20 min")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def write_benchmark(path: Path, seconds: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\tmax_rss\n{seconds}\t100\n")


def test_times_are_those_of_benchmark_files(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "fit.tsv", "12.5")
    for i in range(60):
        write_benchmark(tmp_path / "scan" / "older" / f"{i}.tsv", "3")
    (tmp_path / "torn.tsv").write_text("s")
    assert recorded_seconds(tmp_path, ["fit", "scan", "torn", "none"]) == {"fit": 12.5, "scan": 3}


def test_a_line_is_written_when_a_job_has_ended_and_not_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    job, target = (SimpleNamespace(rule=SimpleNamespace(name=name, norun=name == "all")) for name in ("fit", "all"))
    jobs = [job, job, target]
    line = ProgressLine(SimpleNamespace(needrun_jobs=lambda left: jobs[1:] if left else jobs), tmp_path)
    for now[0], event in ((61.0, "job_info"), (62.0, "progress"), (63.0, "progress"), (130.0, "progress")):
        line.handle(logging.makeLogRecord({"event": event, "done": 1, "total": 2}))
    told = capsys.readouterr().err.splitlines()
    assert told == ["1 of 2 jobs done, about 0 min left, beside fit, of which no time is known"] * 2
    assert len((tmp_path / "logs" / "progress.log").read_text().splitlines()) == 2
