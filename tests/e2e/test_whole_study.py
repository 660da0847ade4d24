"""A small study, raw scans to report, with every kind of bad scan in it, stopped half-way and taken up again."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn.image
import nilearn.masking
import numpy as np
import pandas as pd
import pytest
from bids import BIDSLayout

from bids_standard import validator_errors
from brainscm.config import QueryOptions, SimulationOptions
from brainscm.simulation.cohort import simulate_cohort
from brainscm.simulation.truth import simulate_truth
from workflows import ROOT, run_workflow

pytestmark = pytest.mark.slow

QUERIES = [
    {"name": "older20", "do": {"age": "+20"}, "native": "head", "jacobian": True},
    {"name": "nothing", "do": {"age": "+0"}, "native": "brain"},
    {"name": "older20direct", "do": {"age": "+20"}, "effect": "direct", "decode": "direct"},
]
AGES = (50, 60, 70, 80, 90)
AT_FIVE_AGES = {
    "name": "atFiveAges",
    "do": {"age": {"from": AGES[0], "to": AGES[-1], "step": 10}},
    "scans": "split == 'test' and age > 18",
    "native": "head",
}
BAD = {
    "sub-bad1": "cut short",
    "sub-bad2": "empty",
    "sub-bad3": "4D",
    "sub-bad4": "zero",
    "sub-bad5": "NaN",
    "sub-bad6": "noise",
    "sub-bad7": "text",
}


def make_bids(bids: Path) -> None:
    """Ten simulated participants, and seven whose scan is bad in seven ways."""
    simulate_cohort(
        output_dir=bids,
        options=SimulationOptions(participants=10, voxel_mm=4, follow_up_share=0.1, truncated_scans=0),
        seed=5,
        workers=2,
    )
    scans = [f"sub-{number:03d}_ses-01" for number in range(1, 11)]
    simulate_truth(bids, scans, [QueryOptions.model_validate(query) for query in QUERIES], workers=2)
    good = sorted(bids.glob("sub-*/**/*_T1w.nii.gz"))[0]
    image = nib.load(good)
    data = np.asarray(image.dataobj, dtype=np.float32)
    rng = np.random.default_rng(0)
    volumes = {
        "4D": np.stack([data, data], axis=-1),
        "zero": np.zeros_like(data),
        "NaN": np.where(data > np.median(data), np.nan, data),
        "noise": rng.random(data.shape, dtype=np.float32) * 100,
    }
    rows = []
    for participant, kind in BAD.items():
        path = bids / participant / "ses-01" / "anat" / f"{participant}_ses-01_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        if kind in volumes:
            nib.save(nib.Nifti1Image(volumes[kind], image.affine), path)
        elif kind == "cut short":
            path.write_bytes(good.read_bytes()[: good.stat().st_size // 3])
        elif kind == "text":
            path.write_bytes(gzip.compress(b"not an image"))
        else:
            path.write_bytes(b"")
        rows.append({"participant_id": participant, "sex": "F", "age": 50, "site": "A", "diagnosis": "CN"})
    participants = pd.read_csv(bids / "participants.tsv", sep="\t")
    pd.concat([participants, pd.DataFrame(rows)]).to_csv(bids / "participants.tsv", sep="\t", index=False, na_rep="n/a")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    make_bids(folder / "bids")
    return folder, {
        "bids_dir": str(folder / "bids"),
        "preprocess": {"voxel_mm": 4.0},
        "autoencoder": {"kind": "pca", "components": 6},
        "scm": {
            "nodes": {
                "sex": {"levels": ["F", "M"]},
                "age": {"unit": "years"},
                "ventricles": {"unit": "ml", "formula": "age", "family": "gamma"},
            },
            # Six participants to learn from: nothing would stand out from noise.
            "image": {"formula": "age + ventricles", "shrinkage": "none"},
            "contrasts": {"ageing": {"age": [40, 70]}},
        },
        "cohort": {"split": {"train": 0.6, "validation": 0.2, "test": 0.2}},
        "counterfactuals": [*QUERIES, AT_FIVE_AGES],
    }


@pytest.fixture(scope="module")
def finished(study: tuple[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any], int]:
    """The study, killed after its first scans and run again; and how many scans were done before the kill."""
    folder, options = study
    (folder / "study.yaml").write_text(
        json.dumps({"output_dir": str(folder / "results"), "work_dir": str(folder / "work"), **options})
    )
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    first = subprocess.Popen(
        [*command, "--cores", "2", "--configfile", str(folder / "study.yaml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    statuses = folder / "results" / "preproc" / "status"
    while first.poll() is None and len(list(statuses.glob("*.json"))) < 4:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {path.name: path.stat().st_mtime_ns for path in statuses.glob("*.json")}
    shutil.rmtree(folder / ".snakemake" / "locks", ignore_errors=True)
    done = run_workflow(folder, options)
    assert done.returncode == 0, done.stdout[-6000:]
    kept = sum((statuses / name).stat().st_mtime_ns == modified for name, modified in before.items())
    return folder, options, kept


def test_killed_run_keeps_the_scans_that_were_done(finished: tuple[Path, dict[str, Any], int]) -> None:
    assert finished[2] >= 2


def test_every_bad_scan_is_told_in_one_sentence_and_the_others_pass(
    finished: tuple[Path, dict[str, Any], int],
) -> None:
    folder, _, _ = finished
    qc = pd.read_csv(folder / "results/preproc/qc.tsv", sep="\t").set_index("scan")
    report = (folder / "results/report/index.html").read_text()
    for participant, kind in BAD.items():
        row = qc.loc[f"{participant}_ses-01"]
        assert row["status"] == "fail", f"{kind}: {row['status']}"
        assert len(row["reasons"]) > 20
        assert "\n" not in row["reasons"]
        assert f"{participant}_ses-01" in report
    good = qc[~qc.index.str.startswith("sub-bad")]
    assert (good["status"] != "fail").all(), good["reasons"]


def test_null_intervention_returns_the_scan_itself(finished: tuple[Path, dict[str, Any], int]) -> None:
    folder, _, _ = finished
    root = folder / "results" / "counterfactuals"
    manifest = pd.read_csv(root / "manifest.tsv", sep="\t")
    done = manifest[manifest["status"] != "fail"]
    assert set(done["query"]) == {query["name"] for query in QUERIES} | {f"atFiveAges-age{age}" for age in AGES}
    assert (done["query"].str.startswith("atFiveAges") == (done["trajectory"] == "atFiveAges")).all()
    for row in done[done["query"] == "nothing"].itertuples():
        assert np.abs(np.asarray(nib.load(root / row.difference_path).dataobj)).max() < 1e-6
    for row in done[done["query"] == "older20"].itertuples():
        assert np.abs(np.asarray(nib.load(root / row.difference_path).dataobj)).max() > 1e-3


def test_native_volumes_are_the_raw_scans_own(finished: tuple[Path, dict[str, Any], int]) -> None:
    folder, _, _ = finished
    root = folder / "results" / "counterfactuals"
    manifest = pd.read_csv(root / "manifest.tsv", sep="\t")
    raw = pd.read_csv(folder / "results/cohort/scans.tsv", sep="\t").set_index("scan")["path"]
    done = manifest[manifest["status"] != "fail"]
    for row in done[done["native_path"].notna()].itertuples():
        scan, made = nib.load(raw[row.scan]), nib.load(root / row.native_path)
        np.testing.assert_array_equal(made.affine, scan.affine)
        mask = nib.load(
            folder / "results/preproc" / Path(row.native_path).parent / f"{row.scan}_desc-brain_mask.nii.gz"
        )
        inside, before, after = (np.asarray(image.dataobj) for image in (mask, scan, made))
        untouched = inside > 0 if row.query == "nothing" else inside == 0
        np.testing.assert_array_equal(after[untouched], before[untouched].astype(np.float32))
        if row.query == "older20":
            change = np.asarray(nib.load(root / row.native_difference_path).dataobj)
            assert change[inside > 0].any()


@pytest.mark.parametrize("derivatives", ["preproc", "counterfactuals"])
def test_the_validator_of_bids_finds_no_error_in_what_is_written(
    finished: tuple[Path, dict[str, Any], int], derivatives: str
) -> None:
    assert validator_errors(finished[0] / "results" / derivatives) == []


def test_pybids_finds_what_is_written_and_nilearn_computes_with_it(finished: tuple[Path, dict[str, Any], int]) -> None:
    folder, _, _ = finished
    results = folder / "results"
    layout = BIDSLayout(folder / "bids", derivatives=[results / "preproc", results / "counterfactuals"])
    of_image = {"suffix": "T1w", "extension": ".nii.gz"}
    everywhere = layout.get(desc="older20", **of_image)
    made = [image for image in everywhere if "space" in image.entities]
    assert 2 * len(made) == len(everywhere) > 0  # each also on the raw scan's own grid
    for counterfactual in made:
        same = {key: counterfactual.entities[key] for key in ("subject", "session", "space", "res")}
        (difference,) = layout.get(desc="older20Difference", **same, **of_image)
        (scan,) = layout.get(desc="preproc", **same, **of_image)
        (mask,) = layout.get(desc="brain", suffix="mask", extension=".nii.gz", **same)
        assert counterfactual.get_metadata()["Do"] == {"age": "+20"}
        factual = nilearn.image.math_img("after - change", after=counterfactual.path, change=difference.path)
        inside = nilearn.masking.apply_mask([factual, scan.path], mask.path)
        np.testing.assert_allclose(inside[0], inside[1], atol=1e-5)


def test_summary_and_report_stand(finished: tuple[Path, dict[str, Any], int]) -> None:
    folder, _, _ = finished
    summary = json.loads((folder / "results/evaluation/summary.json").read_text())
    assert set(summary["methods"]) >= {"persistence", "voxel_glm", "pca_glm", "latent_glm"}
    for page in (folder / "results/report").rglob("*.html"):
        text = page.read_text()
        for outside in ('src="http', 'href="http', "url(http", "@import"):
            assert outside not in text, f"{page.name} reaches outside: {outside}"


def test_finished_study_has_nothing_to_do_and_a_changed_formula_redoes_only_what_follows(
    finished: tuple[Path, dict[str, Any], int],
) -> None:
    folder, options, _ = finished
    again = run_workflow(folder, options, "--dry-run")
    assert "Nothing to be done" in again.stdout, again.stdout[-3000:]
    graph = {**options["scm"], "image": {"formula": "age + sex"}}
    changed = run_workflow(folder, {**options, "scm": graph}, "--dry-run", "--quiet", "rules")
    # The rows of the table of jobs; other lines may name rules, too, such as that of the scan that the kill cut off.
    jobs = set(re.findall(r"^(\w+) +\d+$", changed.stdout.split("Job stats:")[-1], flags=re.MULTILINE))
    assert "fit_scm" in jobs
    assert not jobs & {"preprocess_scan", "train_autoencoder", "encode_scans"}, jobs


def test_a_colleague_applies_the_studys_bundle_to_new_scans(finished: tuple[Path, dict[str, Any], int]) -> None:
    """Two of the study's own test scans, as if they were new: their volumes are those that the study made.

    The questions are a spreadsheet's, one of them at five ages in the scans' own space.
    """
    folder, options, _ = finished
    done = run_workflow(folder, options, "bundle")
    assert done.returncode == 0, done.stdout[-4000:]
    new = folder / "new"
    own = pd.read_csv(folder / "results/counterfactuals/manifest.tsv", sep="\t")
    scans = own.loc[own["status"] != "fail", "scan"].unique()[:2]
    participants = pd.read_csv(folder / "bids/participants.tsv", sep="\t").set_index("participant_id")
    for scan in scans:
        shutil.copytree(folder / "bids" / scan.replace("_", "/"), new / "bids" / scan.replace("_", "/"))
    chosen = participants.loc[[scan.partition("_")[0] for scan in scans]]
    chosen.to_csv(new / "bids/participants.tsv", sep="\t", na_rep="n/a")
    for scan in scans:
        participant = scan.partition("_")[0]
        for table in (folder / "bids" / participant).glob("*_sessions.tsv"):
            rows = pd.read_csv(table, sep="\t")
            rows[rows["session_id"] == scan.partition("_")[2]].to_csv(
                new / "bids" / participant / table.name, sep="\t", index=False, na_rep="n/a"
            )
    rows = [{"scan": scan, "name": "older20", "change_age": 20, "native": "head"} for scan in scans]
    rows += [{"scan": scan, "name": "atFiveAges", "do_age": age, "native": "head"} for scan in scans for age in AGES]
    pd.DataFrame(rows).to_csv(new / "questions.tsv", sep="\t", index=False)
    asked = str(new / "questions.tsv")
    study = {"bundle": str(folder / "results/bundle"), "bids_dir": str(new / "bids"), "counterfactuals": asked}
    done = run_workflow(new, study, "counterfactuals")
    assert done.returncode == 0, done.stdout[-4000:]
    made = pd.read_csv(new / "results/counterfactuals/manifest.tsv", sep="\t")
    assert set(made["status"]) == {"pass"}
    assert len(made) == len(scans) * (1 + len(AGES))
    for row in made.itertuples():
        for path in (row.path, row.native_path):
            there, here = (nib.load(root / "results/counterfactuals" / path) for root in (folder, new))
            np.testing.assert_allclose(np.asarray(here.dataobj), np.asarray(there.dataobj), atol=1e-4)
    assert (new / "results/counterfactuals/regions.tsv").exists()
