"""Limits turn metrics into pass, warn or fail with a reason; the gather keeps every scan and finds outliers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from brainscm.config import QualityOptions
from brainscm.errors import BrainSCMError
from brainscm.images import Image
from brainscm.provenance import SCRIPTS
from brainscm.qc.collect import collect_preprocessing, robust_z
from brainscm.qc.limits import apply_limits
from brainscm.qc.measures import (
    MEASURES,
    fit_metrics,
    ghost,
    given_metrics,
    image_metrics,
    mask_metrics,
    raw_metrics,
    registration_metrics,
    slice_jump,
)
from brainscm.tables import read_table, write_table

GOOD: dict[str, float | None] = {
    "ncc": 0.55,
    "mask_volume_ml": 1400.0,
    "border_cm2": 0.0,
    "cnr": 2.7,
    "contrast": 1.4,
    "fov_cut_percent": 0.0,
    "holes_ml": 0.0,
    "slice_jump": 1.4,
    "ghost": 0.01,
    "outline_dice": 0.97,
    "mask_fit": 0.95,
}


ALIGNED: dict[str, float | None] = {
    "alignment_similarity": 0.78,
    "alignment_folding_percent": 0.0,
    "alignment_strain": 0.09,
}


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({}, "pass", ""),
        (ALIGNED, "pass", ""),
        (ALIGNED | {"alignment_similarity": 0.5}, "pass", ""),
        (ALIGNED | {"alignment_similarity_z": -5.0}, "warn", "after alignment is -5.0 robust z"),
        (ALIGNED | {"alignment_similarity": 0.3}, "fail", "after alignment is 0.30"),
        (ALIGNED | {"alignment_folding_percent": 3.0}, "warn", "folds in 3.0 % of the brain"),
        (ALIGNED | {"alignment_folding_percent": 20.0}, "fail", "folds in 20.0 % of the brain"),
        ({"ncc": 0.25}, "pass", ""),
        ({"ncc_z": -5.0}, "warn", "similarity to the template is -5.0 robust z from the cohort's median"),
        ({"ncc_z": 5.0}, "pass", ""),
        ({"outline_dice": 0.8}, "warn", "agree to 0.80 (Dice): look at the mask"),
        ({"mask_fit": 0.91}, "warn", "agree to 0.91 (Dice) after the linear registration"),
        ({"mask_fit": 0.7}, "fail", "agree to 0.70 (Dice) after the linear registration"),
        ({"ncc": 0.1}, "fail", "similarity"),
        ({"mask_volume_ml": 900.0}, "warn", "mask volume is 900 ml"),
        ({"mask_volume_ml": 3000.0}, "fail", "mask volume is 3000 ml"),
        ({"border_cm2": 20.0}, "warn", "edge of the scan"),
        ({"border_cm2": 150.0}, "fail", "edge of the scan"),
        ({"cnr": 1.2}, "warn", "contrast"),
        ({"cnr": 0.2}, "fail", "contrast"),
        ({"contrast": 1.05}, "warn", "times as bright"),
        ({"contrast": 0.8}, "fail", "times as bright"),
        ({"fov_cut_percent": 5.0}, "warn", "beyond the field of view"),
        ({"fov_cut_percent": 40.0}, "fail", "beyond the field of view"),
        ({"holes_ml": 10.0}, "warn", "no signal"),
        ({"holes_ml": 500.0}, "fail", "no signal"),
        ({"ghost": 0.08}, "warn", "a copy of the head of 8% of its brightness"),
        ({"slice_jump": 2.5}, "warn", "neighbouring slices differ 2.50 times"),
        ({"ncc": None}, "fail", "ncc could not be measured"),
    ],
)
def test_rules(change: dict[str, float | None], status: str, reason: str) -> None:
    found, reasons = apply_limits(GOOD | change, QualityOptions())
    assert found == status
    assert len(reasons) == (status != "pass")
    assert reason in "".join(reasons)


def test_failure_is_told_before_warnings() -> None:
    status, reasons = apply_limits(GOOD | {"ncc": 0.1, "cnr": 1.2}, QualityOptions())
    assert status == "fail"
    assert "fail below" in reasons[0]
    assert "warn below" in reasons[1]


def test_limits_come_from_the_options() -> None:
    assert apply_limits(GOOD, QualityOptions(cnr_warn=3.0))[0] == "warn"


def test_mask_metrics_know_volume_and_cut() -> None:
    data = np.zeros((60, 60, 60), np.uint8)
    data[20:40, 20:40, :30] = 1  # stands on the lower face: 20 × 20 voxels of 2 mm = 16 cm²
    metrics = mask_metrics(Image(data, np.diag([2.0, 2.0, 2.0, 1.0])))
    assert metrics["mask_volume_ml"] == pytest.approx(96)
    assert metrics["border_cm2"] == pytest.approx(16)


def test_fit_of_the_mask_tells_agreement_and_size() -> None:
    template, mask = np.zeros((2, 10, 10, 10), bool)
    template[2:7], mask[3:9] = True, True  # 500 and 600 voxels, 400 of them shared
    assert fit_metrics(mask, template) == pytest.approx({"mask_fit": 800 / 1100, "size_ratio": 1.2})


def head_with_air(air: float) -> tuple[Image, np.ndarray]:
    """A noisy ball of 100 ± 5 in air of the given level, and the brain inside it."""
    distance = np.linalg.norm(np.indices((60, 60, 60)) - 29.5, axis=0)
    data = np.where(distance < 22, np.random.default_rng(0).normal(100, 5, distance.shape), air)
    return Image(data.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), distance < 15


def test_foreground_to_background_ratio_is_missing_with_a_reason_where_the_air_is_zero() -> None:
    metrics, why_null = raw_metrics(*head_with_air(4.0))
    assert metrics["fber"] == pytest.approx((100 / 4) ** 2, rel=0.02)
    assert why_null == {}
    metrics, why_null = raw_metrics(*head_with_air(0.0))
    assert np.isnan(metrics["fber"])
    assert "zero" in why_null["fber"]


def test_entropy_rises_when_energy_leaks_into_the_air() -> None:
    clean, brain = head_with_air(2.0)
    ghost = clean.with_data(clean.data + 0.3 * np.roll(clean.data, 25, axis=1))
    assert raw_metrics(ghost, brain)[0]["efc"] > raw_metrics(clean, brain)[0]["efc"] + 0.02
    flat = clean.with_data(np.ones((16, 16, 16), np.float32))
    assert raw_metrics(flat, flat.data > 0)[0]["efc"] == pytest.approx(1)


def test_every_measure_of_a_scan_is_explained() -> None:
    """Label, direction and meaning of whatever a scan's jobs measure: the report has words for each column."""
    sources = [
        path for stage in ("preprocess", "alignment", "qc") for path in (SCRIPTS / "brainscm" / stage).glob("*.py")
    ]
    written = {name for path in sources for name in re.findall(r'\bmetrics\["(\w+)"\]', path.read_text())}
    assert {"slice_jump", "efc", "start_score", "alignment_similarity"} <= set(MEASURES)
    assert len(written) > 5
    head, brain = head_with_air(4.0)
    mask = Image(brain, head.affine)
    written |= {*raw_metrics(head, brain)[0], *mask_metrics(mask), *registration_metrics(head, mask, np.eye(4))}
    written |= {*given_metrics(brain, brain), *image_metrics(head.data, brain, *[head.data] * 3, brain)}
    assert written <= set(MEASURES)
    assert all(MEASURES[name].label and MEASURES[name].meaning for name in written)


def test_missing_slab_is_measured_as_a_hole() -> None:
    head, brain = head_with_air(4.0)
    assert raw_metrics(head, brain)[0]["holes_ml"] == 0
    head.data[:, :, 28:30] = 0
    assert raw_metrics(head, brain)[0]["holes_ml"] == pytest.approx(brain[:, :, 28:30].sum() * 8 / 1000)


def test_missing_slices_are_seen_as_a_jump_and_a_change_of_brightness_is_not() -> None:
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(60, 60, 60)), 2) * 100
    brain = np.linalg.norm(np.indices((60, 60, 60)) - 29.5, axis=0) < 25
    brighter = np.linspace(1, 3, 60)[None, None]
    whole = Image((100 + texture * brighter).astype(np.float32), np.eye(4))
    assert slice_jump(whole, brain) < 1.4
    gone = np.arange(30, 34)
    without = Image(np.delete(whole.data, gone, axis=1), np.eye(4))
    assert slice_jump(without, np.delete(brain, gone, axis=1)) > 2
    assert slice_jump(whole, np.zeros_like(brain)) == 1


@pytest.mark.parametrize(("axis", "shift", "share"), [(0, 24, 0.1), (1, 18, 0.06), (2, 28, 0.3)])
def test_a_ghost_in_the_air_is_as_bright_as_it_is_and_noise_is_none(axis: int, shift: int, share: float) -> None:
    rng = np.random.default_rng(0)
    voxels = np.diag([5.0, 5.0, 5.0, 1.0])
    at = np.linalg.norm(np.indices((48, 48, 48)) - 23.5, axis=0)
    still = np.where(at < 13, 100 + 40 * np.sin(at), 0)

    def scanned(image: np.ndarray) -> Image:
        noisy = np.hypot(image + rng.normal(0, 2, image.shape), rng.normal(0, 2, image.shape))
        return Image(noisy.astype(np.float32), voxels)

    assert ghost(scanned(still)) < 0.01
    assert ghost(scanned(still + share * np.roll(still, shift, axis))) == pytest.approx(share, rel=0.35)
    assert ghost(Image(still.astype(np.float32), voxels)) == 0
    assert ghost(Image(np.ones((48, 48, 48), np.float32), voxels)) == 0


def test_what_of_a_head_is_as_dark_as_a_ghost_is_none() -> None:
    """Beside bright fat or in a strong bias field a jaw or a neck falls below what counts as the head."""
    rng = np.random.default_rng(0)
    x, y, z = np.indices((48, 48, 48))
    bright = np.where(np.hypot(np.hypot(x - 12, y - 24), z - 24) < 9, 100 + 40 * np.sin(y), 0)
    dark = np.where(np.hypot(np.hypot(x - 36, y - 24), z - 24) < 9, 15 + 5 * np.sin(z), 0)
    noise = rng.normal(0, 0.5, (2, 48, 48, 48))
    voxels = np.diag([5.0, 5.0, 5.0, 1.0])
    with_jaw = Image(np.hypot(bright + dark + noise[0], noise[1]).astype(np.float32), voxels)
    with_ghost = Image(np.hypot(bright + 0.15 * np.roll(bright, 24, 0) + noise[0], noise[1]).astype(np.float32), voxels)
    assert ghost(with_jaw) < 0.01
    assert ghost(with_ghost) == pytest.approx(0.15, rel=0.35)


def test_robust_z_is_not_fooled_by_the_outlier_itself() -> None:
    z = robust_z(pd.Series([1400.0, 1390, 1410, 1420, 1380, 5000]))
    assert z.iloc[-1] > 50
    assert z.iloc[:-1].abs().max() < 2


def test_robust_z_of_a_few_scans_is_missing() -> None:
    assert robust_z(pd.Series([1.0, 2.0, 3.0])).isna().all()


def write_status(folder: Path, scan: str, status: str, volume: float, reasons: list[str] | None = None) -> None:
    """What `preprocess_scan` writes of a scan that is done, or failed."""
    image = f"{scan}/anat/{scan}_desc-preproc_T1w.nii.gz"
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / image).touch()
    (folder / "status").mkdir(exist_ok=True)
    content = {
        "scan": scan,
        "status": status,
        "reasons": reasons or [],
        "metrics": {} if status == "fail" else GOOD | {"mask_volume_ml": volume},
        "volumes_ml": {} if status == "fail" else {"gm": 700.0},
        "outputs": {} if status == "fail" else {"preproc_t1w": image},
    }
    (folder / "status" / f"{scan}.json").write_text(json.dumps(content))


def write_alignment(folder: Path, scan: str, status: str = "done", reasons: list[str] | None = None) -> None:
    """What `align_scan` writes of a scan that is done, failed, or was skipped."""
    (folder / "alignment").mkdir(exist_ok=True)
    content: dict[str, Any] = {"status": status, "reasons": reasons or [], "volumes_ml": {}}
    content |= {"metrics": {}, "outputs": {}}
    if status == "done":
        deformation = f"{scan}/anat/{scan}_desc-deformable_xfm.nii.gz"
        (folder / deformation).touch()
        content |= {"metrics": ALIGNED, "outputs": {"deformation": deformation}}
    (folder / "alignment" / f"{scan}.json").write_text(json.dumps(content))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    names = [f"sub-{k:02d}" for k in range(8)]
    for name, volume in zip(names[:7], (1400, 1390, 1410, 1420, 1380, 1405, 2000), strict=True):
        write_status(tmp_path, name, "done", volume)
    write_status(tmp_path, names[7], "fail", 0, ["/data/sub-07_T1w.nii.gz: is empty; copy it again"])
    paths = [f"/data/{name}/anat/{name}_T1w.nii.gz" for name in names]
    write_table(pd.DataFrame({"scan": names, "path": paths}), tmp_path / "scans.tsv")
    return tmp_path


def collect(folder: Path, limits: QualityOptions | None = None, is_aligned: bool = False) -> pd.DataFrame:
    collect_preprocessing(folder / "scans.tsv", folder, folder / "qc.tsv", limits or QualityOptions(), is_aligned)
    return read_table(folder / "qc.tsv").set_index("scan")


def test_every_scan_has_a_row_with_its_metrics_volumes_and_paths(cohort: Path) -> None:
    table = collect(cohort)
    assert len(table) == 8
    row = table.loc["sub-01"]
    assert (row["status"], row["gm_ml"], row["ncc"]) == ("pass", 700, 0.55)
    assert (cohort / row["preproc_t1w"]).is_file()
    assert table.loc["sub-07", "status"] == "fail"
    assert table.loc["sub-07", "reasons"].endswith("copy it again")


def test_outlier_of_the_cohort_becomes_a_warning(cohort: Path) -> None:
    table = collect(cohort)
    assert table.loc["sub-06", "status"] == "warn"
    assert "robust z" in table.loc["sub-06", "reasons"]
    assert (table["status"] == "pass").sum() == 6


def test_a_cohort_unlike_the_template_passes_but_for_who_is_unlike_the_cohort(cohort: Path) -> None:
    """As one of old participants on another scanner: 7 of 18 good masks warned by a limit for all cohorts."""
    names = read_table(cohort / "scans.tsv")["scan"][:6]
    for number, name in enumerate(names):
        write_status(cohort, name, "done", 1400 + number)
        write_alignment(cohort, name)
        for stage, measure, value in (("status", "ncc", 0.26), ("alignment", "alignment_similarity", 0.55)):
            path = cohort / stage / f"{name}.json"
            content = json.loads(path.read_text())
            content["metrics"][measure] = value + 0.002 * number - (0.05 if number == 5 else 0)
            path.write_text(json.dumps(content))
    write_table(pd.DataFrame({"scan": names, "path": "/data/sub-1/x"}), cohort / "scans.tsv")
    table = collect(cohort, is_aligned=True)
    assert table["status"].tolist() == ["pass"] * 5 + ["warn"]
    assert table["reasons"].iloc[5].count("robust z from the cohort's median") == 2
    assert table.loc["sub-05", "ncc_z"] < -4


def test_another_limit_is_applied_to_the_same_statuses(cohort: Path) -> None:
    assert collect(cohort).loc["sub-01", "status"] == "pass"
    strict = collect(cohort, QualityOptions(ncc_fail=0.6))
    assert (strict["status"] == "fail").all()
    assert "similarity" in strict.loc["sub-01", "reasons"]


def test_scan_that_something_was_noted_about_warns(cohort: Path) -> None:
    write_status(cohort, "sub-02", "done", 1410, ["a run was left out: it is empty; copy it again"])
    row = collect(cohort).loc["sub-02"]
    assert (row["status"], row["reasons"]) == ("warn", "a run was left out: it is empty; copy it again")


def test_one_file_of_two_participants_warns_and_of_one_does_not(cohort: Path) -> None:
    names = [*read_table(cohort / "scans.tsv")["scan"], "sub-05_ses-2"]
    write_status(cohort, names[-1], "done", 1400)
    write_table(pd.DataFrame({"scan": names, "path": "/data/sub-1/x"}), cohort / "scans.tsv")
    for name in ("sub-02", "sub-04", "sub-05", "sub-05_ses-2"):
        path = cohort / "status" / f"{name}.json"
        file = {"file": f"{name}_T1w.nii.gz", "sha256": "1" if name in ("sub-02", "sub-04") else "2"}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": [file]}))
    table = collect(cohort)
    assert table.loc[["sub-02", "sub-04", "sub-05"], "status"].tolist() == ["warn", "warn", "pass"]
    assert table.loc["sub-02", "reasons"].startswith("its file is that of sub-04, byte for byte")
    assert "inputs" not in table


def test_alignment_is_told_in_the_same_row(cohort: Path) -> None:
    names = read_table(cohort / "scans.tsv")["scan"]
    for name in names[:7]:
        write_alignment(cohort, name)
    write_alignment(cohort, names[7], "skipped")
    write_alignment(cohort, names[2], "fail", ["sub-02: its alignment to the template diverged; look at the scan"])
    alone = collect(cohort)
    table = collect(cohort, is_aligned=True)
    assert not {"deformation", "alignment_similarity"} & set(alone)
    row = table.loc["sub-01"]
    assert (row["status"], row["alignment_strain"]) == ("pass", 0.09)
    assert (cohort / row["deformation"]).is_file()
    row = table.loc["sub-02"]
    assert row["status"] == "fail"
    assert row["reasons"] == "sub-02: its alignment to the template diverged; look at the scan"
    assert pd.isna(row["deformation"])
    assert row["gm_ml"] == 700  # what preprocessing found stays
    others = table.index != "sub-02"
    pd.testing.assert_series_equal(table.loc[others, "status"], alone.loc[others, "status"])
    assert table.loc["sub-07", "reasons"] == alone.loc["sub-07", "reasons"]


def test_a_deformation_that_is_gone_is_named_with_what_to_do(cohort: Path) -> None:
    for name in read_table(cohort / "scans.tsv")["scan"]:
        write_alignment(cohort, name)
    (cohort / "sub-03/anat/sub-03_desc-deformable_xfm.nii.gz").unlink()
    with pytest.raises(BrainSCMError, match=r"sub-03.* is gone; .*--force .*alignment/sub-03\.json"):
        collect(cohort, is_aligned=True)
    (cohort / "alignment" / "sub-02.json").unlink()
    with pytest.raises(BrainSCMError, match=r"sub-02.*alignment/sub-02\.json is missing or unreadable"):
        collect(cohort, is_aligned=True)


def test_every_number_of_the_table_is_a_registered_measure(cohort: Path) -> None:
    for name in read_table(cohort / "scans.tsv")["scan"]:
        write_alignment(cohort, name)
    numbers = collect(cohort, is_aligned=True).select_dtypes("number")
    assert {"slice_jump", "mask_volume_z", "ncc_z", "alignment_similarity_z", "gm_ml"} <= set(numbers)
    assert set(numbers) <= set(MEASURES)


def test_folder_is_a_bids_derivative(cohort: Path) -> None:
    collect(cohort)
    description = json.loads((cohort / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["DatasetLinks"] == {"raw": "file:///data"}
    assert (cohort / "dseg.tsv").read_text().splitlines()[:3] == [
        "index\tname\tabbreviation",
        "0\tbackground\tBG",
        "1\tgrey matter\tGM",
    ]
    assert "status" in (cohort / ".bidsignore").read_text().split()
    assert "qc.tsv" in (cohort / "README").read_text()


def test_the_licence_and_identifier_of_the_raw_scans_are_passed_on(cohort: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw data"
    raw.mkdir()
    told = {"License": "CC0", "DatasetDOI": "doi:10.1000/182"}
    (raw / "dataset_description.json").write_text(json.dumps(told))
    scans = read_table(cohort / "scans.tsv")
    scans["path"] = [str(raw / name / "anat" / f"{name}_T1w.nii.gz") for name in scans["scan"]]
    write_table(scans, cohort / "scans.tsv")
    collect(cohort)
    description = json.loads((cohort / "dataset_description.json").read_text())
    assert description["License"] == "CC0"
    assert description["SourceDatasets"] == [{"URL": raw.as_uri(), "DOI": "doi:10.1000/182"}]


def test_promised_image_that_is_gone_names_scan_and_command(cohort: Path) -> None:
    (cohort / "sub-03/anat/sub-03_desc-preproc_T1w.nii.gz").unlink()
    with pytest.raises(BrainSCMError, match=r"sub-03: .* is gone; rerun it with: snakemake .*sub-03.json"):
        collect(cohort)


def test_missing_status_names_scan_and_command(cohort: Path) -> None:
    (cohort / "status" / "sub-04.json").write_text("{")
    with pytest.raises(BrainSCMError, match=r"sub-04: .* unreadable; rerun it with"):
        collect(cohort)


def test_every_limit_of_the_configuration_belongs_to_a_measure() -> None:
    limits = [measure.limits for measure in MEASURES.values() if measure.limits]
    named = [option for limit in limits for option in (limit.warn, limit.fail) if option]
    assert sorted(named) == sorted(QualityOptions.model_fields)


def test_reference_lists_every_measure_with_its_limits_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/qc-measures.md").read_text()
    of_tables = [name for name in MEASURES if not name.endswith("_ml") and "psnr" not in name and "ssim" not in name]
    assert not [name for name in of_tables if f"`{name}`" not in page]
    for name, measure in MEASURES.items():
        if measure.limits:
            row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
            for option in filter(None, (measure.limits.warn, measure.limits.fail)):
                limit = getattr(QualityOptions(), option)
                numbers = limit if isinstance(limit, tuple) else (limit,)
                assert f"`{option}`" in row
                assert "–".join(f"{number:g}" for number in numbers).replace("-", "−") in row


def test_measures_need_neither_torch_nor_the_stages_that_take_them() -> None:
    asked = "import sys, brainscm.qc.measures; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    assert "brainscm.qc.measures" in imported
    assert not {"torch", "brainscm.preprocess", "brainscm.alignment"} & set(imported)
