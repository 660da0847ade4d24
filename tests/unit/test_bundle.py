"""A fitted study in one folder, without its participants, and new scans put to it: the same volumes, bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import made_up_study
from brainscm.bundle import CHECKSUMS, DESCRIPTION, REFERENCE, Bundle, write_checksums
from brainscm.config import Config, CustomTemplate, QueryOptions
from brainscm.counterfactuals.plan import run as run_plan
from brainscm.encoding.model import load_encoder
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.identity import Identity
from brainscm.latents.store import LatentStore
from brainscm.questions import read_queries
from brainscm.scm.bundling import without_ids, write_bundle
from brainscm.scm.covariates import check_new_values
from brainscm.scm.learnt import Learnt
from brainscm.scm.model import load_scm
from brainscm.scm.new_scans import Reference, assess
from brainscm.scm.portable import load_fitted
from brainscm.tables import read_table, write_table
from brainscm.training.reconstruction import reconstruction_table
from brainscm.workflow.config_loading import load_config
from made_up_bundle import encode_new, make_bundle, open_encoded, put_to_bundle, render_put_to_bundle
from workflows import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("study")
    return folder, made_up_study.make_study(folder)


@pytest.fixture(scope="module")
def bundle(study: tuple[Path, Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(*study, tmp_path_factory.mktemp("elsewhere") / "last-year")


@pytest.fixture(scope="module")
def put_to_it(study: tuple[Path, Config], bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_to_bundle(*study, bundle, tmp_path_factory.mktemp("new"))


def test_the_same_scan_has_the_same_volumes_bit_for_bit(study: tuple[Path, Config], put_to_it: Path) -> None:
    inside, through = study[0] / "counterfactuals", put_to_it / "counterfactuals"
    there = read_table(inside / "manifest.tsv").set_index(["query", "scan"])
    here = read_table(through / "manifest.tsv").set_index(["query", "scan"])
    assert len(here) == 4
    assert here["path"].notna().all()
    pd.testing.assert_frame_equal(here, there.loc[here.index], check_exact=True)
    regions = read_table(through / "regions.tsv").set_index(["query", "scan", "region"])
    known = read_table(inside / "regions.tsv").set_index(["query", "scan", "region"]).loc[regions.index]
    pd.testing.assert_frame_equal(regions, known, check_exact=True)
    for row in here.itertuples():
        for path in (row.path, row.difference_path, row.uncertainty_path):
            assert (through / path).read_bytes() == (inside / path).read_bytes()
    moved = nib.load(through / here.loc[("older-by-20", here.index[0][1]), "difference_path"]).get_fdata()
    assert np.abs(moved).max() > 0.01


def test_no_scan_and_no_id_of_a_training_participant_is_in_it(study: tuple[Path, Config], bundle: Path) -> None:
    folder, _ = study
    training = read_table(folder / "scm" / "covariates.tsv")
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert b"sub-" not in content, path.name
        assert str(folder).encode() not in content, path.name
    ages = training["age"].sort_values().iloc[1:-1]
    text = (bundle / "scm" / "learnt.json").read_text()
    assert not [age for age in ages if repr(float(age)) in text]
    store = LatentStore.open(folder / "latents" / "latents.zarr")
    held = [np.asarray(store.of(scan)).ravel() for scan in training["scan"]]
    with np.load(bundle / "scm" / "image_model.npz") as arrays:
        rows = [array.reshape(-1, held[0].size) for array in arrays.values() if array.size % held[0].size == 0]
    for row in np.concatenate([each.astype(np.float64) for each in rows]):
        assert not any(np.allclose(row, latent, rtol=1e-3) for latent in held)


def test_a_leverage_warning_names_nobody(study: tuple[Path, Config], tmp_path: Path) -> None:
    told = pd.DataFrame({"check": ["max_leverage"], "warning": ["sub-07_ses-1 alone decides some coefficient (0.9)"]})
    clean = without_ids(told, {"sub-07", "sub-07_ses-1"})
    assert clean["warning"].tolist() == ["one training participant alone decides some coefficient (0.9)"]


def test_each_scan_is_told_where_it_stands(study: tuple[Path, Config], put_to_it: Path, bundle: Path) -> None:
    supported = read_table(put_to_it / "support" / "scans.tsv").set_index("scan")
    scm = load_scm(study[0] / "scm", study[1].scm)
    rows = open_encoded(study[0], study[0] / "autoencoder" / "model.pt").scans.rows.loc[supported.index]
    inside = scm.support(rows)
    for column in ("leverage", "leverage_ratio", "positivity"):
        np.testing.assert_array_equal(supported[column], inside[column])
    assert pd.api.types.is_integer_dtype(supported["positivity"])
    assert (supported["latent_distance"] <= supported["latent_distance_highest"]).all()
    assert supported["latent_distance"].between(0.3, 3).all()
    assert (supported["psnr_brain_db"] >= supported["psnr_brain_lowest_db"]).all()


def test_an_outlier_is_named_and_a_scan_without_a_covariate_has_its_reason(
    study: tuple[Path, Config], put_to_it: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(put_to_it, folder)
    scans = read_table(folder / "cohort" / "scans.tsv")
    first, second = scans["scan"]
    scans.loc[scans["scan"] == second, "sex"] = "X"
    write_table(scans, folder / "cohort" / "scans.tsv")
    path = next((folder / "preproc").rglob(f"{first}_desc-preproc_T1w.nii.gz"))
    image = nib.load(path)
    upside_down = np.ascontiguousarray(np.asarray(image.dataobj)[:, :, ::-1])
    nib.Nifti1Image(upside_down * np.float32(1.4), image.affine).to_filename(path)
    encode_new(folder, bundle)
    encoded = open_encoded(folder, bundle / "autoencoder" / "model.pt")
    scm = load_fitted(bundle / "scm", study[1].scm)
    kept = folder / "support" / "reconstructions"
    reconstruction = reconstruction_table(encoded.encoder, encoded.scans, made_up_study.measure, kept)
    table = assess(scm, encoded, reconstruction, Reference.read(bundle / REFERENCE)).set_index("scan")
    assert "reproduces it worse than any of the fitted study's" in table.loc[first, "warning"]
    assert "latent lies further out" in table.loc[first, "warning"]
    assert f"{first}: " in caplog.text
    assert table.loc[second, "reason"] == "sex 'X' is not a training level"


def test_a_level_that_was_not_in_training_is_told(study: tuple[Path, Config], bundle: Path) -> None:
    options, fitted = study[1].scm, Learnt.read(bundle / "scm").covariates
    table = pd.DataFrame(
        {"scan": ["sub-1", "sub-2"], "participant": ["sub-1", "sub-2"], "split": "test", "age": 50.0, "sex": ["F", "X"]}
    )
    older = QueryOptions(name="older", do={"age": 70})
    ((node, note),) = check_new_values(options, fitted, [older], table, {"ventricles_ml"})
    assert node == "sex"
    assert "'X' (1 scans: sub-2) was not in the fitted study, which knows F, M" in note
    with pytest.raises(ConfigError, match="sex is 'X' in the new scans, and the fitted study knows F, M alone"):
        check_new_values(options, fitted, [older], table.assign(sex="X"))
    with pytest.raises(ConfigError, match="'W' is not one of its levels"):
        check_new_values(options, fitted, [QueryOptions(name="w", do={"sex": "W"})], table)


def test_a_changed_file_is_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    Bundle.open(copy).verify()
    with (copy / "scm" / "image_model.npz").open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    with pytest.raises(BrainSCMError, match=r"image_model\.npz is not as it was written"):
        Bundle.open(copy).verify()
    (copy / "scm" / "image_model.npz").unlink()
    with pytest.raises(ConfigError, match=r"lacks its scm/image_model\.npz"):
        Bundle.open(copy)


def test_loading_runs_no_code(study: tuple[Path, Config], bundle: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (tmp_path / "ran",)

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    torch.save({"kind": Evil()}, copy / "autoencoder" / "model.pt")
    with pytest.raises(BrainSCMError, match="is not a model"):
        load_encoder(copy / "autoencoder" / "model.pt")
    with np.load(copy / "scm" / "node_models.npz") as stored:
        arrays = dict(stored)
    np.savez(copy / "scm" / "node_models.npz", **(arrays | {"identity": np.array(Evil(), dtype=object)}))
    with pytest.raises(BrainSCMError, match="allow_pickle"):
        load_fitted(copy / "scm", study[1].scm)
    assert not (tmp_path / "ran").exists()


def describe(bundle: Path, folder: Path, **options: Any) -> Path:
    """A bundle that says of itself what a study with the default template and these options would."""
    copy = folder / "bundle"
    shutil.copytree(bundle, copy)
    told = json.loads((copy / DESCRIPTION).read_text())
    told["options"] |= {"preprocess": {**told["options"]["preprocess"], **options}}
    told["identity"] |= {"template": told["options"]["template"], "voxel_mm": 4.0}
    (copy / DESCRIPTION).write_text(json.dumps(told))
    write_checksums(copy)
    return copy


def test_six_lines_are_a_study(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bids").mkdir()
    copy = describe(bundle, tmp_path)
    written = f"""
bundle: {copy}
bids_dir: {tmp_path}/bids
output_dir: {tmp_path}/results
counterfactuals:
  - name: older
    do: {{age: "+10"}}
"""
    config = load_config(ROOT, yaml.safe_load(written))
    assert config.preprocess.voxel_mm == 4.0
    assert config.autoencoder.kind == "pca"
    assert list(config.scm.nodes) == ["age", "sex", "ventricles"]
    assert [query.name for query in read_queries(config.counterfactuals)] == ["older"]


@pytest.mark.parametrize(
    ("study_options", "told"),
    [
        ({"preprocess": {"voxel_mm": 2.0}}, "preprocess.voxel_mm: is 2.0 here and 4.0 in the bundle"),
        ({"preprocess": {"transform": "rigid"}}, "preprocess.transform: is 'rigid' here and 'affine' in the bundle"),
        (
            {"scm": {"nodes": {"age": {}}, "image": {"formula": "age"}}},
            "scm.nodes.age.unit: is not given here and 'years'",
        ),
        ({"seed": 7}, "seed: is 7 here"),
        ({"bids_dir": None}, "needs new scans"),
        ({"derivatives": "."}, "derivatives is 'unknown' here and '' there"),
        ({"output_dir": "{bundle}/.."}, "lies in output_dir"),
        ({"bundle": "{bundle}/scm"}, "is not a bundle"),
        ({"counterfactuals": [{"name": "x", "do": {"weight": 70}}]}, "weight"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    bundle: Path, tmp_path: Path, study_options: dict[str, Any], told: str
) -> None:
    (tmp_path / "bids").mkdir()
    copy = describe(bundle, tmp_path)
    study = {"bundle": str(copy), "bids_dir": str(tmp_path / "bids"), "output_dir": str(tmp_path / "results")}
    study |= {
        key: value.format(bundle=copy) if isinstance(value, str) else value for key, value in study_options.items()
    }
    with pytest.raises(BrainSCMError, match=r"^config: [^\n]*\.$") as error:
        load_config(ROOT, study)
    assert told in str(error.value)


def test_a_template_and_an_atlas_of_its_own_go_with_it(study: tuple[Path, Config], tmp_path: Path) -> None:
    """To where the study's own files are not: there they are as in the study, and another template is refused."""
    folder, own = study[0], tmp_path / "own"
    own.mkdir()
    (own / "bids").mkdir()
    for name in ("brain", "mask", "labels"):
        made_up_study.save(made_up_study.draw_brain(50)[name == "mask"], own / f"{name}.nii.gz")
    (own / "labels.tsv").write_text("index\tname\n1\tInsula\n")
    given = {
        "template": {"name": "Ours", "t1w": str(own / "brain.nii.gz"), "brain_mask": str(own / "mask.nii.gz")},
        "preprocess": {"voxel_mm": 4.0, "atlas": {"path": f"{own}/labels.nii.gz", "labels": f"{own}/labels.tsv"}},
    }
    config = Config.model_validate({**study[1].model_dump(mode="json"), **given})
    encoded = open_encoded(folder, folder / "autoencoder" / "model.pt")
    encoded = replace(encoded, store=replace(encoded.store, identity=Identity.of(config).encoded_by("a")))
    scm = replace(load_scm(folder / "scm", config.scm), identity=encoded.store.identity)
    bundle = tmp_path / "bundle"
    write_bundle(config, folder, encoded, scm, "a", {}, folder / "bids", bundle)
    contents = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    moved = tmp_path / "elsewhere"
    shutil.move(bundle, moved)
    shutil.rmtree(own)
    assert str(own) not in "".join(path.read_text() for path in moved.rglob("*.json"))
    (tmp_path / "bids").mkdir()
    new = {"bundle": str(moved), "bids_dir": str(tmp_path / "bids"), "output_dir": str(tmp_path / "results")}
    there = load_config(ROOT, new)
    assert isinstance(there.template, CustomTemplate)
    assert there.preprocess.atlas is not None
    found = (there.template.t1w, there.template.brain_mask, there.preprocess.atlas.path, there.preprocess.atlas.labels)
    assert [path.read_bytes() for path in found] == [
        contents[name] for name in ("brain.nii.gz", "mask.nii.gz", "labels.nii.gz", "labels.tsv")
    ]
    assert Identity.of(there).encoded_by("a") == encoded.store.identity
    assert "the study's own, Ours" in (moved / "README.md").read_text()
    other = {**given["template"], "t1w": str(there.template.brain_mask)}
    with pytest.raises(ConfigError, match=r"template\.t1w: is '.*' here and '.*' in the bundle"):
        load_config(ROOT, {**new, "template": other})
    told = json.loads((moved / DESCRIPTION).read_text())
    told["options"]["template"]["t1w"] = "../own/brain.nii.gz"
    (moved / DESCRIPTION).write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="names a file that it does not hold"):
        load_config(ROOT, new)


def test_the_report_says_what_is_not_there(study: tuple[Path, Config], put_to_it: Path, bundle: Path) -> None:
    report = render_put_to_bundle(study[1], bundle, put_to_it)
    first, second = report.support["scan"]
    pages = {path.name: path.read_text() for path in (put_to_it / "report").rglob("*.html")}
    assert {"index.html", "bundle.html", "cohort.html", "counterfactuals.html", "scm.html", f"{first}.html"} <= set(
        pages
    )
    assert not {"training.html", "evaluation.html"} & set(pages)
    for name, text in pages.items():
        assert "training.html" not in text, name
        assert "evaluation.html" not in text, name
    assert f"{first}: its latent lies further out." in pages["index.html"]
    assert "Outside what the fitted study was fitted on" in pages[f"{first}.html"]
    assert "Outside what the fitted study was fitted on" not in pages[f"{second}.html"]
    assert "Nothing is trained, fitted or evaluated here" in pages["bundle.html"]
    assert "Participants were split into training" not in pages["methods.html"]
    # What it says of intervals is what the table says, and nobody promises what these pages have not.
    regions = report.regions
    reasons = regions.loc[regions["low_95_ml"].isna(), "why_no_interval"].dropna().unique()
    is_said = "Regional volumes have no calibrated intervals" in pages["bundle.html"]
    assert is_said == (regions["low_95_ml"].isna().all() and len(reasons) > 0)
    assert "with their intervals" not in pages["index.html"]
    assert "No support, because" not in pages["bundle.html"]  # every scan has one
    # The causal model was fitted elsewhere: nothing is asked for that cannot be made here.
    assert "of the fitted study; nothing is fitted here" in pages["scm.html"]
    assert "implications.tsv</code> of the fitted study</p>" in pages["scm.html"]
    for lacking in ("snakemake scm", "snakemake train", "target refute"):
        assert lacking not in "".join(pages.values()), lacking
    assert "percentile" not in pages[f"{first}.html"]  # two scans are no cohort
    assert "regression of the region expects" not in pages["counterfactuals.html"]
    assert "older-by-20" in pages["counterfactuals.html"]
    assert pages["counterfactuals.html"].count("<img") >= 8


def test_another_code_of_preprocessing_is_told(bundle: Path) -> None:
    ((about, note),) = Bundle.open(bundle).notes()
    assert about == "bundle"
    assert "the code of preprocess_scan is not that which made the fitted study's scans" in note


def test_the_plan_is_that_of_the_fitted_study(
    study: tuple[Path, Config], put_to_it: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries, options = read_queries(study[1].counterfactuals), study[1].scm
    scans = put_to_it / "cohort" / "scans.tsv"
    with caplog.at_level("INFO", logger="brainscm"):
        run_plan(scans, put_to_it, bundle / "scm", options, queries, "config: counterfactuals")
    planned = read_table(put_to_it / "counterfactuals" / "plan.tsv").set_index("query")
    made = read_table(put_to_it / "counterfactuals" / "manifest.tsv").groupby("query")["extrapolation"].sum()
    assert planned["usable"].tolist() == [2, 2]
    assert planned["extrapolations"].tolist() == made.loc[planned.index].tolist()
    with pytest.raises(BrainSCMError, match="ventricles_ml is measured by preprocessing; run `snakemake preprocess`"):
        run_plan(scans, tmp_path, bundle / "scm", options, queries, "config: counterfactuals")


def test_sums_are_read_by_sha256sum(bundle: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", CHECKSUMS], cwd=bundle, check=True)
