import numpy as np
import pytest

from brainscm.evaluation.agreement import change_agreement
from brainscm.evaluation.bootstrap import bootstrap_mean


@pytest.fixture
def head(rng=None):
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 12, 12), bool)
    mask[2:10, 2:10, 2:10] = True
    factual = rng.random(mask.shape).astype(np.float32) * mask
    true_change = (0.1 * rng.standard_normal(mask.shape)).astype(np.float32) * mask
    return factual, true_change, mask


def agreement(head, change):
    factual, true_change, mask = head
    return change_agreement(factual + change, change, factual + true_change, true_change, mask)


def test_slope_is_the_share_of_the_true_change_that_is_predicted(head):
    found = agreement(head, 0.4 * head[1])
    assert found["change_slope"] == pytest.approx(0.4, rel=1e-5)
    assert found["change_correlation"] == pytest.approx(1, rel=1e-5)


def test_a_wrong_sign_is_seen(head):
    found = agreement(head, -head[1])
    assert found["change_correlation"] == pytest.approx(-1, rel=1e-5)
    assert found["change_slope"] == pytest.approx(-1, rel=1e-5)
    assert found["psnr_brain_db"] < agreement(head, 0 * head[1])["psnr_brain_db"]


def test_nothing_predicted_has_no_correlation_but_a_slope_of_zero(head):
    found = agreement(head, 0 * head[1])
    assert np.isnan(found["change_correlation"])
    assert found["change_slope"] == 0


def test_what_lies_outside_the_mask_does_not_count(head):
    factual, true_change, mask = head
    change = true_change + 5 * ~mask
    assert agreement((factual, true_change, mask), change)["change_slope"] == pytest.approx(1, rel=1e-5)


def test_bootstrap_resamples_participants_not_scans():
    rng = np.random.default_rng(0)
    per_participant = rng.standard_normal(8)
    repeated = np.repeat(per_participant, 50)  # 50 scans of each: 400 values, but 8 participants' worth of evidence
    participants = np.repeat(np.arange(8), 50)
    mean, low, high = bootstrap_mean(repeated, participants, np.random.default_rng(1))
    alone = bootstrap_mean(per_participant, np.arange(8), np.random.default_rng(1))
    assert mean == pytest.approx(per_participant.mean())
    assert (low, high) == pytest.approx(alone[1:])
    assert high - low > 0.5


def test_two_participants_have_no_interval():
    _, low, high = bootstrap_mean(np.array([1.0, 2.0]), np.array(["a", "b"]), np.random.default_rng(0))
    assert np.isnan(low)
    assert np.isnan(high)
