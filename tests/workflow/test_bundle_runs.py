"""What the workflow plans to do with a bundle: nothing is trained or fitted, and what cannot be done is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from brainscm.bundle import CHECKSUMS, DESCRIPTION, FIXED, FORMAT, INTERVALS, REFERENCE, write_checksums
from brainscm.identity import Identity
from brainscm.scm.covariates import Covariates
from brainscm.scm.learnt import Learnt
from brainscm.scm.neighbours import Neighbours
from brainscm.workflow.config_loading import load_config
from workflows import GRAPH, ROOT, finished_jobs, indexed_study, plan, run_workflow, stubbed_checkout

FILES = (
    "autoencoder/model.pt", "autoencoder/model.json", "scm/node_models.npz", "scm/image_model.npz", "scm/nodes.tsv",
    "scm/tests.tsv", "scm/implications.tsv", "scm/formulas.tsv", "scm/diagnostics.tsv",
    "scm/regional_effects.tsv", REFERENCE, INTERVALS,
)  # fmt: skip


def empty_bundle(folder: Path) -> Path:
    """A bundle that says all that is asked before a model is loaded, with empty models."""
    bundle = folder / "bundle"
    for name in FILES:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"")
    config = load_config(ROOT, {"bids_dir": str(folder), "scm": GRAPH})
    options = config.model_dump(mode="json")
    participants = pd.DataFrame({"age": [22.0, 30.0], "sex": pd.Categorical(["F", "M"], categories=["F", "M"])})
    covariates = Covariates(
        {"age": "age", "sex": "sex"}, {"age": None, "sex": ("F", "M")}, {"age": (22.0, 30.0)}, {"age": "years"}
    )
    Learnt(covariates, Neighbours.of(participants, pd.Series(["a", "b"])), {}).write(bundle / "scm")
    told = {
        "format": FORMAT,
        "version": "0.1.0",
        "options": {key: options[key] for key in FIXED},
        "identity": Identity.of(config).encoded_by("abc").as_json(),
        "training": {"scans": 2, "participants": 2},
        "causal_model_sha256": "abc",
        "data": {},
    }
    (bundle / DESCRIPTION).write_text(json.dumps(told))
    write_checksums(bundle)
    return bundle


@pytest.fixture(scope="module")
def put_to_a_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study of ten (empty) scans that are put to a bundle, one of them of a sex that it does not know."""
    folder = tmp_path_factory.mktemp("study")
    study = indexed_study(folder)
    table = folder / "bids" / "participants.tsv"
    table.write_text(table.read_text().replace("sub-03\t23\tM", "sub-03\t23\tD"))
    del study["scm"]
    study["bundle"] = str(empty_bundle(folder))
    done = run_workflow(folder, study, str(folder / "results" / "cohort" / "scans.tsv"))
    assert done.returncode == 0, done.stdout
    return folder, study


def test_nothing_is_trained_fitted_or_evaluated(put_to_a_bundle: tuple[Path, dict[str, Any]]) -> None:
    jobs = plan(*put_to_a_bundle)
    assert set(jobs) == {
        "all",
        "preprocess_scan",
        "align_scan",
        "collect_preprocessing",
        "encode_scans",
        "collect_latents",
        "assess_scans",
        "synthesize_counterfactuals",
        "collect_counterfactuals",
        "render_scans",
        "render_report",
    }
    assert jobs["preprocess_scan"] == jobs["align_scan"] == 10


def test_all_scans_are_asked_and_an_unknown_level_is_told(put_to_a_bundle: tuple[Path, dict[str, Any]]) -> None:
    cohort = put_to_a_bundle[0] / "results" / "cohort"
    assert set(pd.read_csv(cohort / "scans.tsv", sep="\t")["split"]) == {"test"}
    notes = pd.read_csv(cohort / "notes.tsv", sep="\t").set_index("about")["note"]
    assert "'D' (1 scans: sub-03) was not in the fitted study, which knows F, M" in notes["sex"]


@pytest.mark.parametrize("target", ["train", "bundle"])
def test_what_would_fit_is_refused(put_to_a_bundle: tuple[Path, dict[str, Any]], target: str) -> None:
    done = run_workflow(*put_to_a_bundle, "--dry-run", target)
    assert done.returncode != 0
    assert "nothing is trained, fitted, evaluated or bundled again" in done.stdout


def test_a_changed_bundle_stops_the_index(put_to_a_bundle: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, study = put_to_a_bundle
    bundle = empty_bundle(tmp_path)
    (bundle / "scm" / "image_model.npz").write_bytes(b"another")
    other = {
        **study,
        "bundle": str(bundle),
        "output_dir": str(tmp_path / "results"),
        "work_dir": str(tmp_path / "work"),
    }
    done = run_workflow(folder, other, str(tmp_path / "results" / "cohort" / "scans.tsv"))
    assert done.returncode != 0
    assert f"is not as it was written (its checksum differs from that in {CHECKSUMS})" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_missing_covariate_is_refused(put_to_a_bundle: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, study = put_to_a_bundle
    bids = tmp_path / "bids"
    (bids / "sub-1" / "anat").mkdir(parents=True)
    (bids / "sub-1" / "anat" / "sub-1_T1w.nii.gz").write_bytes(b"")
    (bids / "participants.tsv").write_text("participant_id\tage\nsub-1\t24\n")
    done = run_workflow(tmp_path, {**study, "bids_dir": str(bids)}, f"{tmp_path}/results/cohort/scans.tsv")
    assert done.returncode != 0
    assert "no column 'sex'" in done.stdout


def test_a_bundle_is_made_of_a_fitted_study(tmp_path: Path) -> None:
    jobs = plan(tmp_path, indexed_study(tmp_path), "bundle")
    assert jobs["write_bundle"] == jobs["fit_scm"] == jobs["calibrate_intervals"] == 1
    assert not {"evaluate_counterfactuals", "synthesize_counterfactuals", "assess_scans"} & set(jobs)


@pytest.mark.slow
def test_another_scan_touches_its_own_shards_and_what_gathers_them(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    stubbed_checkout(checkout)
    study = indexed_study(tmp_path, checkout)
    del study["scm"]
    study["bundle"] = str(empty_bundle(tmp_path))
    study["workflow"] = {"shard_minutes": 0.04}
    study["counterfactuals"] = [{"name": "older", "do": {"age": "+10"}, "scans": ["sub-00", "sub-01"]}]
    gathers = dict.fromkeys(
        ("collect_preprocessing", "collect_latents", "assess_scans", "collect_counterfactuals", "render_report"), 1
    )
    mended = tmp_path / "bids" / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    mended.write_bytes(bytes(3000))  # too large for a pointer, whose size the index looks at
    done = finished_jobs(run_workflow(tmp_path, study, checkout=checkout))
    assert (done["encode_scans"], done["synthesize_counterfactuals"], done["render_scans"]) == (4, 8, 2)
    assert plan(tmp_path, study, checkout=checkout) == {}
    # A shard of encoding holds two of synthesis, and one of pages holds both.
    own = {
        "preprocess_scan": 1,
        "align_scan": 1,
        "encode_scans": 1,
        "synthesize_counterfactuals": 2,
        "render_scans": 1,
    }

    mended.write_bytes(bytes(4000))
    assert plan(tmp_path, study, checkout=checkout) == {"all": 1, **own, **gathers}

    anat = tmp_path / "bids" / "sub-10" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-10_T1w.nii.gz").write_bytes(b"")
    with (tmp_path / "bids" / "participants.tsv").open("a") as table:
        table.write("sub-10\t30\tF\n")
    mended.write_bytes(bytes(3000))
    os.utime(mended, (1e9, 1e9))
    done = finished_jobs(run_workflow(tmp_path, study, checkout=checkout))
    assert done == {"all": 1, "index_cohort": 1, **own, **gathers}
