import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import affine_transform, gaussian_filter

from brainscm.config import QueryOptions
from brainscm.errors import ScanError
from brainscm.evaluation.cases import follow_up_cases, simulated_cases
from brainscm.evaluation.truth import true_volume
from brainscm.images import Grid
from brainscm.tables import write_table

SHAPE = (24, 28, 24)
GRID = Grid(SHAPE, np.diag([3.0, 3, 3, 1]))


@pytest.fixture
def heads():
    """A raw scan and its true counterfactual, the transform between template and scan, a bias field and a scale."""
    rng = np.random.default_rng(0)
    raw = 400 + 200 * gaussian_filter(rng.standard_normal(SHAPE), 2) * 10
    change = np.zeros(SHAPE)
    change[8:14, 10:18, 8:14] = -120
    answer = raw + gaussian_filter(change, 1)
    angle = np.deg2rad(8)
    to_scan = np.eye(4)
    to_scan[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    to_scan[:3, 3] = [4, -3, 2]
    field = 1 + 0.3 * np.linspace(-1, 1, SHAPE[1])[None, :, None] * np.ones(SHAPE)
    return raw.astype(np.float32), answer.astype(np.float32), to_scan, field


def preprocess(raw, to_scan, field, mask):
    """What preprocessing makes of a raw head: resampled once, divided by a smooth field and a scale."""
    matrix = np.linalg.inv(GRID.affine) @ to_scan @ GRID.affine
    moved = affine_transform(raw, matrix[:3, :3], matrix[:3, 3], order=3)
    return (np.clip(moved / field / 450, 0, None) * mask).astype(np.float32)


def image(data):
    return nib.Nifti1Image(data, GRID.affine)


def test_truth_is_what_the_factual_scans_own_preprocessing_makes_of_the_other_head(heads):
    raw, answer, to_scan, field = heads
    mask = np.zeros(SHAPE, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    factual, expected = (preprocess(head, to_scan, field, mask) for head in (raw, answer))
    found = true_volume(factual, mask, image(raw), image(answer), to_scan, GRID)
    true_change = np.abs(expected - factual).max()
    assert true_change > 0.15
    assert np.abs(found - expected).max() < 0.02 * true_change


def test_equal_heads_give_back_the_scan_exactly(heads):
    raw, _, to_scan, field = heads
    mask = np.ones(SHAPE, bool)
    factual = preprocess(raw, to_scan, field, mask)
    np.testing.assert_array_equal(true_volume(factual, mask, image(raw), image(raw), to_scan, GRID), factual)


def test_heads_on_two_grids_are_refused(heads):
    raw, answer, to_scan, _ = heads
    with pytest.raises(ScanError, match="another grid"):
        true_volume(raw, raw > 0, image(raw), image(answer[:-1]), to_scan, GRID)


def test_cases_are_usable_test_scans_whose_answer_was_written(tmp_path):
    rows = [
        {"scan": "sub-1", "query": "older", "effect": "total", "path": "derivatives/truth/a.nii.gz"},
        {"scan": "sub-2", "query": "older", "effect": "total", "path": None},
        {"scan": "sub-3", "query": "older", "effect": "total", "path": "derivatives/truth/c.nii.gz"},
    ]
    write_table(pd.DataFrame(rows), tmp_path / "derivatives" / "truth" / "counterfactuals.tsv")
    table = pd.DataFrame(
        [
            {"scan": "sub-1", "participant": "sub-1", "split": "test"},
            {"scan": "sub-2", "participant": "sub-2", "split": "test"},
            {"scan": "sub-3", "participant": "sub-3", "split": "train"},
        ]
    )
    total, direct = (QueryOptions(name="older", do={"age": "+20"}, effect=effect) for effect in ("total", "direct"))
    cases = simulated_cases(tmp_path, table, [total])
    assert [(case.scan, case.answer) for case in cases] == [("sub-1", str(tmp_path / "derivatives/truth/a.nii.gz"))]
    assert simulated_cases(tmp_path, table, [direct]) == []
    assert simulated_cases(tmp_path / "elsewhere", table, [total]) == []


def test_follow_ups_start_from_the_first_scan_and_stay_in_the_test_split():
    table = pd.DataFrame(
        [
            {"scan": "sub-1_ses-b", "participant": "sub-1", "split": "test", "age": 66.0},
            {"scan": "sub-1_ses-a", "participant": "sub-1", "split": "test", "age": 60.0},
            {"scan": "sub-1_ses-c", "participant": "sub-1", "split": "test", "age": 60.1},  # too soon to have changed
            {"scan": "sub-2_ses-a", "participant": "sub-2", "split": "train", "age": 50.0},
            {"scan": "sub-2_ses-b", "participant": "sub-2", "split": "train", "age": 55.0},
            {"scan": "sub-3_ses-a", "participant": "sub-3", "split": "test", "age": 70.0},
        ]
    )
    (case,) = follow_up_cases(table, "age")
    assert (case.scan, case.answer, case.query.do) == ("sub-1_ses-a", "sub-1_ses-b", {"age": 66.0})
