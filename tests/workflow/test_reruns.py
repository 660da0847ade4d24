"""What a finished study does again after a change of its code or options: what that can reach, and nothing else."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from workflows import GRAPH, copy_checkout, indexed_study, plan, run_workflow


class Finished(NamedTuple):
    """A study of ten scans that is finished, as far as Snakemake knows, and the checkout that it ran from."""

    folder: Path
    study: dict[str, Any]
    checkout: Path

    def plan_after(self, added: dict[str, str]) -> dict[str, int]:
        """The jobs of another run, by rule, if these modules of the library had these lines more."""
        paths = {module: self.checkout / "scripts" / "brainscm" / module for module in added}
        before = {module: path.read_text() for module, path in paths.items()}
        for module, path in paths.items():
            path.write_text(before[module] + added[module])
        try:
            return plan(self.folder, self.study, checkout=self.checkout)
        finally:
            for module, path in paths.items():
                path.write_text(before[module])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    folder = tmp_path_factory.mktemp("study")
    study = indexed_study(folder, checkout)
    listed = run_workflow(folder, study, "--summary", checkout=checkout).stdout.splitlines()
    for output in (Path(line.split("\t")[0]) for line in listed if line.startswith(str(folder))):
        if output.suffix in ("", ".zarr"):
            output.mkdir(parents=True)
        elif not output.exists():
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text("scan\tstatus\treasons\n")
    done = run_workflow(folder, study, "--touch", "--forceall", checkout=checkout)
    assert done.returncode == 0, done.stdout
    return Finished(folder, study, checkout)


# Which rules import a module is asked of their scripts in test_provenance.
@pytest.mark.parametrize(
    ("module", "redone", "kept"),
    [
        (
            "preprocess/skullstrip.py",
            {"preprocess_scan", "align_scan", "collect_preprocessing", "train_autoencoder", "render_report"},
            {"index_cohort"},
        ),
        ("scm/inference.py", {"fit_scm", "render_report"}, {"preprocess_scan", "train_autoencoder", "encode_scans"}),
    ],
)
def test_a_change_of_a_module_redoes_what_imports_it(
    finished: Finished, module: str, redone: set[str], kept: set[str]
) -> None:
    jobs = finished.plan_after({module: "EDITED = True\n"})
    assert redone <= set(jobs)
    assert not kept & set(jobs)
    assert jobs.get("preprocess_scan", 10) == 10


def test_a_comment_or_a_colour_redoes_nothing(finished: Finished) -> None:
    added = {
        "preprocess/skullstrip.py": "# Found by comparing 98 heads.\n",
        "preprocess/figures.py": "ORANGE = (230, 159, 0)\n",
        "config.py": "EDITED = True\n",
    }
    assert finished.plan_after(added) == {}


AFTER_TRAINING = (
    "encode_scans",
    "collect_latents",
    "fit_scm",
    "calibrate_intervals",
    "synthesize_counterfactuals",
    "collect_counterfactuals",
    "fit_peers",
    "score_counterfactuals",
    "evaluate_counterfactuals",
    "render_scans",
    "render_report",
)
OLDER, YOUNGER = {"name": "older", "do": {"age": "+10"}}, {"name": "younger", "do": {"age": "-10"}}
AGEING = {"name": "ageing", "do": {"age": {"from": 50, "to": 90, "step": 5}}, "scans": "split == 'test' and age > 20"}


@pytest.mark.parametrize(
    ("options", "redone"),
    [
        ({"quality": {"ncc_fail": 0.1}}, {"collect_preprocessing", "train_autoencoder", *AFTER_TRAINING}),
        ({"autoencoder": {"max_steps": 10}}, {"train_autoencoder", *AFTER_TRAINING}),
        ({"scm": {**GRAPH, "permutations": 9}}, set(AFTER_TRAINING[2:])),
    ],
)
def test_a_changed_option_redoes_its_stage_and_what_follows(
    finished: Finished, options: dict[str, Any], redone: set[str]
) -> None:
    jobs = set(plan(finished.folder, {**finished.study, **options}, checkout=finished.checkout))
    # A changed configuration is looked at again where the cohort is indexed, which takes a second.
    assert jobs - {"all", "index_cohort"} == redone


@pytest.mark.parametrize(
    ("questions", "volumes"),
    [
        ([OLDER, YOUNGER, AGEING], 2),  # two are added, of which a trajectory is one job
        ([{**OLDER, "do": {"age": "+20"}}], 1),  # it is changed
        ([], 0),  # it is removed, and its files with it
    ],
)
def test_volumes_are_made_of_a_question_that_is_new_or_changed_alone(
    finished: Finished, questions: list[dict[str, Any]], volumes: int
) -> None:
    jobs = plan(finished.folder, {**finished.study, "counterfactuals": questions}, checkout=finished.checkout)
    assert jobs.get("synthesize_counterfactuals", 0) == volumes
    assert set(jobs) - {"all", "index_cohort"} <= set(AFTER_TRAINING[4:])
    assert jobs["collect_counterfactuals"] == 1


def test_a_row_of_a_table_redoes_its_own_question_alone(finished: Finished) -> None:
    table = finished.folder / "questions.tsv"
    header, rows = "participant_id\tname\tdo_age", ["sub-00\tageing\t50", "sub-00\tageing\t60", "sub-01\tonce\t40"]
    study = {**finished.study, "counterfactuals": str(table)}

    def jobs_with(*lines: str) -> tuple[int, int]:
        table.write_text("\n".join([header, *lines]) + "\n")
        jobs = plan(finished.folder, study, "counterfactuals", checkout=finished.checkout)
        return jobs.get("synthesize_counterfactuals", 0), jobs.get("collect_counterfactuals", 0)

    for name in ("ageing", "once"):
        for part in ("questions", "regions"):
            made = finished.folder / "results" / "counterfactuals" / part / name / "1-of-1.tsv"
            made.parent.mkdir(exist_ok=True)
            made.write_text("")
    table.write_text("\n".join([header, *rows]) + "\n")
    done = run_workflow(finished.folder, study, "--touch", "counterfactuals", "--forceall", checkout=finished.checkout)
    try:
        assert done.returncode == 0, done.stdout
        assert jobs_with(*rows) == (0, 0)
        assert jobs_with(*rows, "sub-02\tageing\t50") == (1, 1)
        assert jobs_with(*rows, "sub-02\tanother\t50") == (1, 1)
        assert jobs_with(*rows[:2]) == (0, 1)
    finally:
        run_workflow(finished.folder, finished.study, "--touch", "--forceall", checkout=finished.checkout)
