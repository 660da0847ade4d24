"""Counterfactuals on the raw scan's own grid: in its units, of its own voxels, and without a seam."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.io import savemat
from test_counterfactuals_synthesis import Study, query, study  # noqa: F401

from brainscm.counterfactuals import native
from brainscm.counterfactuals.growth import log_growth
from brainscm.counterfactuals.native import NativeScan
from brainscm.files import sidecar
from brainscm.images import Grid, Image
from brainscm.scans import ScanTable
from brainscm.tables import read_table, write_table

SCALE = 400.0
TO_SCAN = np.array([[1.1, 0.05, 0, 3], [-0.05, 1.05, 0, -2], [0, 0, 0.95, 1], [0, 0, 0, 1.0]])
Field = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # of points (..., 3) in the scan's world, mm


def points(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def bias(world: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 + 0.2 * np.sin(world[..., 0] / 60) + 0.1 * world[..., 2] / 80


def anatomy(world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth enough for a cubic spline at these voxels."""
    return 0.8 + 0.15 * np.cos(world[..., 0] / 7) * np.cos(world[..., 1] / 8) * np.cos(world[..., 2] / 9)


@pytest.fixture
def scan() -> NativeScan:
    """A head whose bias field and scale are known; oblique, with voxels of three lengths."""
    turn = np.linalg.qr(np.array([[1, 0.1, 0], [-0.1, 1, 0.05], [0, -0.05, 1]]))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 2.0, 1.2])
    shape = (76, 58, 88)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    grid = Grid((48, 48, 48), np.array([[2.0, 0, 0, -47], [0, 2, 0, -47], [0, 0, 2, -47], [0, 0, 0, 1]]))
    world = points(affine, shape)
    raw = (SCALE * bias(world) * anatomy(world)).astype(np.float32)
    mask = np.linalg.norm(world, axis=-1) < 36
    there = apply_affine(TO_SCAN, points(grid.affine, grid.shape))
    inside = np.linalg.norm(there, axis=-1) < 36
    return NativeScan(Image(raw, affine), mask, (anatomy(there) * inside).astype(np.float32), grid, TO_SCAN)


def still(scan: NativeScan) -> NDArray[np.float32]:
    return np.zeros((3, *scan.grid.shape), np.float32)


@pytest.mark.parametrize("shown", ["brain", "head"])
def test_a_null_intervention_gives_the_raw_voxels_bit_for_bit(scan: NativeScan, shown: Any) -> None:
    nothing = np.zeros_like(scan.preprocessed)
    made = scan.bring(shown, scan.preprocessed, nothing, nothing, still(scan))
    expected = scan.raw.data if shown == "head" else np.where(scan.mask, scan.raw.data, np.float32(0))
    assert made.volume.tobytes() == expected.tobytes()
    assert not made.difference.any()
    assert not made.uncertainty.any()


def test_a_change_is_in_the_raw_scans_units(scan: NativeScan) -> None:
    change = np.full_like(scan.preprocessed, -0.1)
    spread = np.full_like(scan.preprocessed, 0.02)
    made = scan.bring("brain", scan.preprocessed + change, change, spread, still(scan))
    gain = SCALE * bias(points(scan.raw.affine, scan.raw.data.shape))
    deep = np.linalg.norm(points(scan.raw.affine, scan.raw.data.shape), axis=-1) < 26
    np.testing.assert_allclose(made.difference[deep], -0.1 * gain[deep], rtol=0.02)
    np.testing.assert_allclose(made.uncertainty[deep], 0.02 * gain[deep], rtol=0.02)
    np.testing.assert_array_equal(made.volume[~scan.mask], 0)
    np.testing.assert_allclose(made.volume[deep], (scan.raw.data + made.difference)[deep], rtol=1e-6)


def test_moved_tissue_is_the_raw_scans_own_interpolated_once(scan: NativeScan) -> None:
    motion = still(scan)
    motion[0], motion[1], motion[2] = 0.9, -0.4, 0.3
    moved = native._moved(scan.preprocessed, motion)
    nothing = np.zeros_like(moved)
    made = scan.bring("head", moved, moved - scan.preprocessed, nothing, motion)
    world = points(scan.raw.affine, scan.raw.data.shape)
    there = world + TO_SCAN[:3, :3] @ scan.grid.affine[:3, :3] @ np.array([0.9, -0.4, 0.3])
    deep = np.linalg.norm(world, axis=-1) < 26
    np.testing.assert_allclose(made.volume[deep], (SCALE * bias(there) * anatomy(there))[deep], rtol=2e-3)
    # Detail that template space is too coarse for is moved, too, not lost or left behind.
    at = (38, 29, 44)
    spot = scan.raw.data.copy()
    spot[at] += 100
    seen = replace(scan, raw=scan.raw.with_data(spot)).bring("head", moved, nothing, nothing, motion)
    found = seen.volume - made.volume
    centre = [np.average(each, weights=found) for each in np.indices(found.shape)]
    steps = np.linalg.inv(scan.raw.affine[:3, :3]) @ (there - world)[at]
    np.testing.assert_allclose(centre, at - steps, atol=0.01)


def test_a_decoded_counterfactual_takes_the_scans_gain(scan: NativeScan) -> None:
    decoded = np.full_like(scan.preprocessed, 0.7)
    made = scan.bring("brain", decoded, 0 * decoded, 0 * decoded, None)
    gain = SCALE * bias(points(scan.raw.affine, scan.raw.data.shape))
    deep = np.linalg.norm(points(scan.raw.affine, scan.raw.data.shape), axis=-1) < 26
    np.testing.assert_allclose(made.volume[deep], 0.7 * gain[deep], rtol=0.02)
    assert not made.difference.any()


def test_the_brain_lies_in_its_head_without_a_seam(scan: NativeScan) -> None:
    change = np.full_like(scan.preprocessed, -0.2)
    volume, nothing = scan.preprocessed + change, np.zeros_like(change)
    head = scan.bring("head", volume, change, nothing, still(scan))
    np.testing.assert_array_equal(head.volume[~scan.mask], scan.raw.data[~scan.mask])

    def step_at_surface(difference: NDArray[np.float32]) -> float:
        """The largest jump between a voxel of the brain and its neighbour outside."""
        jumps = []
        for axis in range(3):
            crosses = np.diff(scan.mask.astype(int), axis=axis) != 0
            jumps.append(np.abs(np.diff(difference, axis=axis))[crosses].max())
        return max(jumps)

    brain = scan.bring("brain", volume, change, nothing, still(scan))
    assert step_at_surface(head.difference) < 0.5 * step_at_surface(brain.difference)
    deep = np.linalg.norm(points(scan.raw.affine, scan.raw.data.shape), axis=-1) < 26
    np.testing.assert_array_equal(head.difference[deep], brain.difference[deep])


def test_growth_is_the_logarithm_of_how_much_larger_a_place_is() -> None:
    at = np.indices((8, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(log_growth(at / 1.1 - at), 3 * np.log(1.1), rtol=1e-4)  # came from nearer the origin
    np.testing.assert_array_equal(log_growth(np.zeros_like(at)), 0)


@pytest.fixture
def with_raw(study: Study) -> Study:  # noqa: F811
    """Two scans of the study with raw files, of twice their brightness."""
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -60
    index, qc = (read_table(study.folder / name) for name in ("scans.tsv", "preproc/qc.tsv"))
    for column in ("native_mask", "to_template"):
        qc[column] = None
    index["path"] = None
    for at in (50, 51):
        scan = f"sub-{at}"
        raw = study.folder / "raw" / scan / "anat" / f"{scan}_acq-fast_T1w.nii.gz"
        raw.parent.mkdir(parents=True)
        data = np.random.default_rng(at).uniform(100, 300, (32, 32, 32)).astype(np.int16)
        nib.save(nib.Nifti1Image(data, affine), raw)
        stem = study.folder / "preproc" / scan / "anat" / scan
        mask = np.zeros(data.shape, np.uint8)
        mask[14:17, 13:16, 14:18] = 1
        nib.save(nib.Nifti1Image(mask, affine), f"{stem}_desc-brain_mask.nii.gz")
        Path(f"{stem}_desc-brain_mask.json").write_text(json.dumps({"Sources": [f"bids:raw:{scan}/anat/{raw.name}"]}))
        identity = np.append(np.eye(3).ravel(), np.zeros(3))
        matrix = {"AffineTransform_double_3_3": identity[:, None], "fixed": np.zeros((3, 1))}
        savemat(f"{stem}_from-T1w_to-T_mode-image_xfm.mat", matrix, format="4", appendmat=False)
        qc.loc[at, "native_mask"] = f"{scan}/anat/{scan}_desc-brain_mask.nii.gz"
        qc.loc[at, "to_template"] = f"{scan}/anat/{scan}_from-T1w_to-T_mode-image_xfm.mat"
        index.loc[at, "path"] = str(raw)
    write_table(index, study.folder / "scans.tsv")
    write_table(qc, study.folder / "preproc" / "qc.tsv")
    table = ScanTable.read(study.folder / "scans.tsv", study.folder / "preproc" / "qc.tsv")
    return replace(study, scans=table)


def test_a_question_in_native_space_is_written_beside_the_one_in_template_space(with_raw: Study) -> None:
    asked = query(do={"age": "-10"}, scans=["sub-50"], native="brain", jacobian=True)
    row = with_raw.run(asked).iloc[0]
    assert row["native_path"] == "sub-50/anat/sub-50_desc-older_T1w.nii.gz"
    assert row["native_difference_path"] == "sub-50/anat/sub-50_desc-olderDifference_T1w.nii.gz"
    raw = nib.load(with_raw.scans.rows.loc["sub-50", "path"])
    mask = with_raw.image("../preproc/sub-50/anat/sub-50_desc-brain_mask.nii.gz") > 0
    volume, difference = (with_raw.image(row[f"native_{kind}"]) for kind in ("path", "difference_path"))
    np.testing.assert_array_equal(nib.load(with_raw.folder / "counterfactuals" / row["native_path"]).affine, raw.affine)
    np.testing.assert_allclose((volume - difference)[mask], raw.get_fdata()[mask], rtol=1e-5)
    assert np.abs(difference[mask]).max() > 1
    assert with_raw.image(row["native_uncertainty_path"])[mask].max() > 0
    told = json.loads(sidecar(with_raw.folder / "counterfactuals" / row["native_path"]).read_text())
    assert (told["SpatialReference"], told["SkullStripped"], told["Do"]) == ("orig", True, {"age": "-10"})
    assert told["Sources"][-1] == "bids:raw:sub-50/anat/sub-50_acq-fast_T1w.nii.gz"
    assert "Resolution" not in told
    assert row["jacobian_path"].endswith("_desc-olderLogJacobian_map.nii.gz")
    assert not with_raw.image(row["jacobian_path"]).any()  # this encoder moves nothing
    alone = with_raw.run(query(do={"age": "-10"}, scans=["sub-50"])).iloc[0]
    assert pd.isna(alone["native_path"])
    assert len(list((with_raw.folder / "counterfactuals").rglob("*.nii.gz"))) == 3


def test_the_head_of_a_null_intervention_is_the_raw_file(with_raw: Study) -> None:
    row = with_raw.run(query(do={"age": "+0"}, scans=["sub-50"], native="head")).iloc[0]
    raw = nib.load(with_raw.scans.rows.loc["sub-50", "path"])
    np.testing.assert_array_equal(with_raw.image(row["native_path"]), raw.get_fdata())


def test_another_raw_file_makes_native_volumes_anew_and_one_on_another_grid_fails_alone(with_raw: Study) -> None:
    asked = query(scans=["sub-50", "sub-51"], native="head")
    with_raw.run(asked)
    path = Path(with_raw.scans.rows.loc["sub-50", "path"])
    image = nib.load(path)
    before = with_raw.image("sub-50/anat/sub-50_desc-older_T1w.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 7, image.affine), path)
    with_raw.run(asked)
    np.testing.assert_allclose(with_raw.image("sub-50/anat/sub-50_desc-older_T1w.nii.gz") - before, 7, atol=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    rows = with_raw.run(asked).set_index("scan")
    assert rows["status"].to_dict() == {"sub-50": "fail", "sub-51": "pass"}
    assert "does not lie on the grid of its brain mask; preprocess this scan again" in rows.loc["sub-50", "reason"]
