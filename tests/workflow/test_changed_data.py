"""What a finished study does again after a change of its scans or tables: what depends on it, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from workflows import finished_jobs, plan, run_workflow, stubbed_checkout

pytestmark = pytest.mark.slow

AFTER_INDEX = {
    "fit_scm": 1,
    "calibrate_intervals": 1,
    "synthesize_counterfactuals": 1,
    "collect_counterfactuals": 1,
    "fit_peers": 1,
    "score_counterfactuals": 1,
    "evaluate_counterfactuals": 1,
    "render_scans": 1,
    "render_report": 1,
}
AFTER_TRAINING = {"encode_scans": 1, "collect_latents": 1, **AFTER_INDEX}
AFTER_PREPROCESSING = {"collect_preprocessing": 1, "train_autoencoder": 1, **AFTER_TRAINING}


class Study:
    """A study of scans that nothing reads, of which all jobs but the index write empty outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkout = folder, folder / "checkout"
        self.checkout.mkdir()
        stubbed_checkout(self.checkout)
        self.ages = {f"sub-{i}": 20 + i for i in range(8)}
        for participant in self.ages:
            self.write_scan(participant)
        self.write_table()
        self.options: dict[str, Any] = {
            "bids_dir": str(folder / "bids"),
            "scm": {"nodes": {"age": {"unit": "years"}}, "image": {"formula": "age"}},
            "cohort": {"split": {"train": 0.5, "validation": 0.25, "test": 0.25}},
            "counterfactuals": [{"name": "older", "do": {"age": "+10"}}],
        }

    def scan(self, participant: str) -> Path:
        return self.folder / "bids" / participant / "anat" / f"{participant}_T1w.nii.gz"

    def write_scan(self, participant: str, size: int = 2000) -> None:
        self.scan(participant).parent.mkdir(parents=True, exist_ok=True)
        self.scan(participant).write_bytes(bytes(size))

    def write_table(self) -> None:
        rows = [f"{participant}\t{age}\n" for participant, age in self.ages.items()]
        (self.folder / "bids" / "participants.tsv").write_text("participant_id\tage\n" + "".join(rows))

    def plan(self, **options: Any) -> dict[str, int]:
        """The jobs that a dry run announces, without `all`."""
        jobs = plan(self.folder, {**self.options, **options}, checkout=self.checkout)
        return {rule: count for rule, count in jobs.items() if rule != "all"}

    def run(self, *targets: str, **options: Any) -> Counter[str]:
        """The jobs that a run did, without `all`."""
        done = finished_jobs(run_workflow(self.folder, {**self.options, **options}, *targets, checkout=self.checkout))
        del done["all"]
        return done


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study, which each test leaves finished."""
    made = Study(tmp_path_factory.mktemp("study"))
    assert made.run()["preprocess_scan"] == 8
    return made


def test_a_mended_age_fits_again_and_trains_nothing(study: Study) -> None:
    study.ages["sub-0"] = 24  # in another quarter of the ages, so that the split would have been drawn otherwise
    study.write_table()
    after = {"index_cohort": 1, **AFTER_INDEX}
    # Which shards of scan pages there are is known once the index is made.
    assert study.plan() == {rule: jobs for rule, jobs in after.items() if rule != "render_scans"}
    assert study.run() == after
    study.write_table()
    assert study.run() == {"index_cohort": 1}  # saved without a change


def test_an_added_scan_is_preprocessed_alone_and_a_removed_one_not_at_all(study: Study) -> None:
    study.ages["sub-8"] = 30
    study.write_scan("sub-8")
    study.write_table()
    assert study.run() == {"index_cohort": 1, "preprocess_scan": 1, "align_scan": 1, **AFTER_PREPROCESSING}
    shutil.rmtree(study.scan("sub-8").parents[1])
    del study.ages["sub-8"]
    study.write_table()
    assert study.run() == {"index_cohort": 1, **AFTER_PREPROCESSING}


def test_a_scan_in_the_place_of_another_is_preprocessed_alone_even_if_it_is_older(study: Study) -> None:
    before = study.scan("sub-3").stat()
    study.write_scan("sub-3", size=3000)
    os.utime(study.scan("sub-3"), (1e9, 1e9))
    assert study.plan() == {"preprocess_scan": 1, "align_scan": 1, **AFTER_PREPROCESSING}
    study.write_scan("sub-3")
    os.utime(study.scan("sub-3"), ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_a_side_car_tells_now_is_preprocessed_again_and_nothing_else(study: Study) -> None:
    own, of_all = study.scan("sub-3").with_name("sub-3_T1w.json"), study.folder / "bids" / "T1w.json"
    for path in (own, of_all):
        path.write_text('{"RepetitionTime": 2}')  # preprocessing does not read it
    assert study.plan() == {}
    own.write_text('{"ContrastBolusIngredient": "GADOLINIUM"}')
    assert study.plan() == {"preprocess_scan": 1, "align_scan": 1, **AFTER_PREPROCESSING}
    for path in (own, of_all):
        path.unlink()


def test_another_split_trains_again_and_options_that_are_changed_back_redo_nothing(study: Study) -> None:
    index = str(study.folder / "results" / "cohort" / "scans.tsv")
    other = {"cohort": {**study.options["cohort"], "stratify": []}}
    assert study.run(index, **other) == {"index_cohort": 1}
    assert study.plan(**other) == {"train_autoencoder": 1, **AFTER_TRAINING}
    assert study.run() == {"index_cohort": 1}
    assert study.plan() == {}


def test_ratings_redo_what_depends_on_them_and_preprocess_nothing(study: Study) -> None:
    index, ratings = {"index_cohort": 1}, study.folder / "ratings.tsv"
    rated = {"cohort": {**study.options["cohort"], "exclude": str(ratings)}}

    def rate(*rows: str) -> None:
        ratings.write_text("\n".join(["scan\trating\texcluded_from", *rows]) + "\n")

    rate("sub-1\tpass\t", "sub-2\tdoubtful\t")
    assert study.run(**rated) == {
        **index,
        "render_scans": 1,
        "render_report": 1,
    }  # nobody is excluded; methods tell the configuration
    rate("sub-1\texclude\tscm")
    assert study.run(**rated) == {**index, **AFTER_INDEX}
    rate("sub-1\texclude\teverything")
    assert study.run(**rated) == {**index, **AFTER_PREPROCESSING}
    assert study.run(**rated) == {}
    excluded = (study.folder / "results" / "cohort" / "excluded.tsv").read_text()
    assert "sub-1\t" in excluded
    assert study.run() == {**index, **AFTER_PREPROCESSING}


# Writes as the real jobs do; the first time it is killed after half of it, and with it the whole run.
DIES = """
import os, signal
from pathlib import Path
from brainscm.files import whole, write_text

with whole(Path(snakemake.output[0])) as folder:
    folder.mkdir()
    write_text(folder / "first.html", "whole")
    if not Path({killed!r}).exists():
        Path({killed!r}).touch()
        os.killpg(0, signal.SIGKILL)
    write_text(folder / "second.html", "whole")
"""


@pytest.mark.parametrize(
    ("rule", "folder", "then"),
    [
        ("score_counterfactuals", "evaluation/shards", ("evaluate_counterfactuals", "render_scans", "render_report")),
        ("render_scans", "scan_pages", ("render_report",)),
    ],
)
def test_a_shard_that_is_killed_in_the_middle_is_made_again_and_nothing_else(
    study: Study, tmp_path: Path, rule: str, folder: str, then: tuple[str, ...]
) -> None:
    script = study.checkout / "scripts" / f"{rule}.py"
    script.write_text(DIES.format(killed=str(tmp_path / "killed")))
    killed = run_workflow(study.folder, study.options, checkout=study.checkout, own_session=True)
    assert killed.returncode == -signal.SIGKILL
    shard = study.folder / "results" / folder / "1-of-1"
    assert not shard.exists()
    assert study.run() == dict.fromkeys((rule, *then), 1)
    assert {path.name for path in shard.glob("*.html")} == {"first.html", "second.html"}
    assert [path.name for path in shard.parent.iterdir()] == ["1-of-1"]
