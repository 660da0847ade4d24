"""What the workflow plans to do, seen through dry runs: targets, reruns, and refusal of a bad config."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from workflows import GRAPH, ROOT, indexed_study, plan, run_workflow, scripted_rules

# The rule at which each named target ends.
TARGETS = {
    "preprocess": "collect_preprocessing",
    "train": "train_autoencoder",
    "latents": "collect_latents",
    "scm": "fit_scm",
    "counterfactuals": "collect_counterfactuals",
    "evaluation": "evaluate_counterfactuals",
    "report": "render_report",
}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study of ten (empty) scans, one of them in two runs, whose cohort has been indexed for real."""
    folder = tmp_path_factory.mktemp("study")
    return folder, indexed_study(folder)


@pytest.fixture(scope="module")
def needed_rules(indexed: tuple[Path, dict[str, Any]]) -> dict[str, set[str]]:
    """All rules that each rule needs, those of rules that it needs included, by one look at the graph of them."""
    graph = run_workflow(*indexed, *TARGETS, "--rulegraph", "dot").stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    direct: dict[str, set[str]] = {name: set() for name in names.values()}
    for first, then in re.findall(r"(\d+) -> (\d+)", graph):
        direct[names[then]].add(names[first])

    def all_of(rule: str) -> set[str]:
        return direct[rule].union(*map(all_of, direct[rule]))

    return {rule: all_of(rule) for rule in direct}


def test_demo_starts_from_a_simulated_cohort(tmp_path: Path) -> None:
    jobs = plan(tmp_path, {})
    assert jobs["simulate_cohort"] == 1
    assert jobs["simulate_truth"] == 1
    assert jobs["render_report"] == 1


def test_dicom_is_converted_first(tmp_path: Path) -> None:
    (tmp_path / "dicom" / "sub-1").mkdir(parents=True)
    jobs = plan(tmp_path, {"dicom_dir": str(tmp_path / "dicom")})
    assert jobs["convert_dicom"] == 1
    assert not {"simulate_cohort", "simulate_truth"} & set(jobs)


def test_another_query_simulates_its_answers_and_no_scan_again(tmp_path: Path) -> None:
    study = {
        "simulation": {"participants": 8, "voxel_mm": 4.0, "follow_up_share": 0, "truncated_scans": 0},
        "cohort": {"split": {"train": 0.5, "validation": 0.25, "test": 0.25}},
        "scm": {"nodes": {"age": {"unit": "years"}}, "image": {"formula": "age"}},
        "counterfactuals": [{"name": "older", "do": {"age": "+10"}}],
    }
    answers = f"{tmp_path}/work/simulation/bids/derivatives/truth/counterfactuals.tsv"
    index = [f"{tmp_path}/results/cohort/{name}.tsv" for name in ("scans", "excluded", "notes")]
    for path in (f"{tmp_path}/work/simulation/bids/dataset_description.json", *index, answers):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("")
    done = run_workflow(tmp_path, study, answers, "--touch", "--forceall")  # as if it had been simulated
    assert done.returncode == 0, done.stdout
    assert plan(tmp_path, study, answers) == {}
    study["counterfactuals"] = [{"name": "younger", "do": {"age": "-10"}}]
    jobs = plan(tmp_path, study, answers)
    assert set(jobs) == {"simulate_truth"}


@pytest.mark.parametrize(("target", "last"), TARGETS.items())
def test_named_targets_stop_where_they_say(needed_rules: dict[str, set[str]], target: str, last: str) -> None:
    order = [
        "preprocess_scan",
        "align_scan",
        "collect_preprocessing",
        "train_autoencoder",
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
    ]
    assert [rule for rule in order if rule in needed_rules[target]] == order[: order.index(last) + 1]


def test_each_scan_is_preprocessed_and_aligned_by_a_job_of_its_own(indexed: tuple[Path, dict[str, Any]]) -> None:
    jobs = plan(*indexed, "preprocess")
    assert jobs["preprocess_scan"] == jobs["align_scan"] == 10


def test_the_plan_of_questions_needs_the_cohorts_table_alone(tmp_path: Path) -> None:
    study = indexed_study(tmp_path)
    ageing = {"name": "ageing", "do": {"age": [24, 60]}, "scans": "sex == 'M' and age > 22"}
    study["counterfactuals"] = [ageing, {"name": "nobody", "do": {"age": 24}, "scans": "sex == 'm'"}]
    done = run_workflow(tmp_path, study, "counterfactual_plan")
    assert "ageing (2 members): 8 counterfactuals; 4 extrapolate" in done.stdout
    assert "no scan has sex == 'm'; did you mean 'M'?" in done.stdout
    assert "Traceback" not in done.stdout
    study["counterfactuals"] = [ageing]
    assert plan(tmp_path, study, "counterfactual_plan") == {"counterfactual_plan": 1}
    assert not (tmp_path / "results" / "preproc").exists()


def test_contrasts_are_mapped_where_there_are_any(indexed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = indexed
    assert "map_contrasts" not in plan(folder, study)
    declared = {**GRAPH, "contrasts": {"ageing": {"age": [22, 28]}}}
    assert plan(folder, {**study, "scm": declared})["map_contrasts"] == 1


def test_effects_are_refuted_when_that_is_asked_for_and_kept_up_to_date(tmp_path: Path) -> None:
    study = indexed_study(tmp_path)
    assert "refute_effects" not in plan(tmp_path, study)
    jobs = plan(tmp_path, study, "refute")
    assert jobs["refute_effects"] == jobs["fit_scm"] == 1
    assert "render_report" not in jobs
    asked = tmp_path / "results" / "scm" / "refutation.tsv"
    asked.parent.mkdir(parents=True)
    asked.write_text("")
    assert plan(tmp_path, study)["refute_effects"] == 1  # the report shows it


def test_without_alignment_no_scan_is_aligned(indexed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = indexed
    assert "align_scan" not in plan(folder, {**study, "autoencoder": {"alignment": "none"}})


def test_one_scan_can_be_asked_for_by_its_file(indexed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = indexed
    assert plan(folder, study, f"{folder}/results/preproc/status/sub-03.json") == {"preprocess_scan": 1}
    jobs = plan(folder, study, f"{folder}/results/preproc/alignment/sub-03.json")
    assert jobs == {"preprocess_scan": 1, "align_scan": 1}


def test_a_scan_outside_the_cohort_is_named(indexed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = indexed
    done = run_workflow(folder, study, "--dry-run", f"{folder}/results/preproc/status/sub-99.json")
    assert done.returncode != 0
    assert "sub-99 is not a scan of" in done.stdout


def test_another_seed_deals_the_participants_anew(indexed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = indexed
    assert "index_cohort" not in plan(folder, study)
    assert "index_cohort" in plan(folder, {**study, "seed": 7})


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"autoencodr": {}}, "did you mean 'autoencoder'"),
        ({"scm": GRAPH, "counterfactuals": "questions.tsv"}, "questions.tsv is not a file"),
    ],
)
def test_a_bad_config_stops_before_any_work(tmp_path: Path, study: dict[str, Any], told: str) -> None:
    done = run_workflow(tmp_path, study)
    assert done.returncode != 0
    assert told in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("profile", [(), ("--profile", str(ROOT / "profiles" / "slurm"), "--workflow-profile", "none")])
def test_a_study_file_runs_nothing(tmp_path: Path, profile: tuple[str, ...]) -> None:
    """Snakemake would run what stands behind a `?` in a template before it has read the Snakefile."""
    canary = tmp_path / "canary"
    study = {"__use_yte__": True, "seed": f"?open({str(canary)!r}, 'w').write('1')"}
    done = run_workflow(tmp_path, study, "--dry-run", *profile)
    assert "study.yaml, line 3: '__use_yte__' makes a program of the file" in done.stdout
    assert done.returncode != 0
    assert not canary.exists()


@pytest.mark.parametrize("name", ["default", "local", "slurm", "slurm-gpu-multinode"])
def test_every_key_of_a_profile_is_an_option_of_snakemake(name: str) -> None:
    from snakemake.cli import get_argument_parser

    profile = yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
    known = get_argument_parser()._option_string_actions
    assert [key for key in profile if f"--{key}" not in known and not key.startswith("__")] == []
    assert set(profile.get("set-resources", {})) | set(profile.get("set-threads", {})) <= set(scripted_rules())
    assert profile["keep-going"] is True
    assert profile["rerun-incomplete"] is True


def test_the_slurm_profile_is_found_by_its_name() -> None:
    assert (ROOT / "slurm").resolve() == ROOT / "profiles" / "slurm"


def test_each_rule_has_its_script_log_and_benchmark() -> None:
    for rule, text in scripted_rules().items():
        assert (ROOT / "scripts" / f"{rule}.py").exists(), rule
        assert f"../scripts/{rule}.py" in text, rule
        assert f"logs/{rule}" in text, rule
        # The plan is told each time that it is asked for; a benchmark file would be an output that is there already.
        assert (f"benchmarks/{rule}" in text) == (rule != "counterfactual_plan"), rule
        for directive in ("message:", "mem_mb=", "runtime=", "threads:", "conda:"):
            assert directive in text, f"{rule} lacks {directive}"


def test_snakefile_stays_small() -> None:
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 60


def test_a_mended_table_of_one_participant_indexes_the_cohort_again(indexed: tuple[Path, dict[str, Any]]) -> None:
    folder, study = indexed
    own = folder / "bids" / "sub-03" / "sub-03_sessions.tsv"
    own.write_text("session_id\tage\n")
    try:
        assert "index_cohort" in plan(folder, study)
    finally:
        own.unlink()


def test_a_run_leaves_its_record(indexed: tuple[Path, dict[str, Any]]) -> None:
    record = json.loads((indexed[0] / "results" / "run.json").read_text())
    assert record["succeeded"] is True
    assert record["rules"]["index_cohort"]["jobs"] == 1
    assert "--configfile" in record["command"]


def test_results_of_another_studys_scans_are_refused(indexed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, study = indexed
    other = tmp_path / "other" / "sub-01" / "anat"
    other.mkdir(parents=True)
    (other / "sub-01_T1w.nii.gz").write_bytes(b"another head")
    done = run_workflow(
        tmp_path, {**study, "bids_dir": str(tmp_path / "other"), "output_dir": str(folder / "results")}, "-n"
    )
    assert done.returncode != 0
    assert f"output_dir: {folder}/results holds the results of the scans in {folder}/bids" in done.stdout
    assert "Traceback" not in done.stdout
