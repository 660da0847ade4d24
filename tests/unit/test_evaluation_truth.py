import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter

from brainscm.errors import ScanError
from brainscm.evaluation.truth import true_volume
from brainscm.images import Grid

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
