"""The rows of one counterfactual."""

import numpy as np
import pytest

from brainscm.evaluation.intervals import RegionInterval
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.evaluation.scoring import (
    score_agreement,
    score_change,
    score_effectiveness,
    score_intervals,
    score_reconstruction,
    score_written_intervals,
)
from brainscm.evaluation.truth import Truth
from brainscm.regions import COMPARED, Geometry
from made_up_measure import MadeUpMeasure

ABOUT = {"method": "latent_glm"}
SHAPE = (8, 8, 8)


def values(rows) -> dict[tuple[str, str | None], float]:
    assert all(row["method"] == "latent_glm" for row in rows)
    return {(row["metric"], row.get("region")): row["value"] for row in rows}


def sums(volume, mask, head_size):
    return dict.fromkeys([*COMPARED, "brain"], float(volume[mask].sum()) / head_size)


@pytest.fixture
def scan() -> Scan:
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[1:-1, 1:-1, 1:-1] = True
    volume = rng.random(SHAPE).astype(np.float32) * mask
    return Scan(volume, mask, np.zeros((1, 1, 1, 1), np.float32), MadeUpMeasure(sums, Geometry(mask, head_size=2.0)))


def test_changes_and_errors_are_after_minus_before():
    assert values(score_change(ABOUT, {"gm": 590.0}, {"gm": 600.0})) == {("region_change_ml", "gm"): -10.0}
    found = values(score_effectiveness(ABOUT, {"gm": 590.0, "csf": 210.0, "wm": 1.0}, {"gm": 594.0, "csf": 208.0}))
    assert found["effectiveness_error_ml", "gm"] == -4.0
    assert found["effectiveness_error_ml", "csf"] == 2.0
    assert found["effectiveness_mae_ml", None] == 3.0
    assert len(found) == 3
    assert score_effectiveness(ABOUT, {"gm": 590.0}, {}) == []


def test_intervals_are_scored_at_their_own_level():
    interval = RegionInterval(centre_ml=600.0, sd_ml=10.0, degrees_of_freedom=1000)
    truth = Truth(np.zeros(SHAPE, np.float32), {"gm": 600.0, "csf": 610.0, "wm": 616.0, "ventricles": 630.0})
    found = values(score_intervals(ABOUT, dict.fromkeys(truth.regions_ml, interval), truth))
    # 0, 1, 1.6 and 3 standard deviations off, where the levels reach 0.67, 1.28 and 1.96.
    assert [found[f"interval_coverage_{level}", None] for level in (50, 80, 95)] == [0.25, 0.5, 0.75]
    assert found["interval_coverage_80", "csf"] == 1.0
    assert found["interval_width_95_ml", "gm"] == pytest.approx(2 * 1.96 * 10, rel=0.01)
    assert score_intervals(ABOUT, {}, truth) == []


def test_the_intervals_that_were_written_are_scored_where_there_are_any():
    bounds = {"gm": (-12.0, -2.0), "csf": (1.0, 3.0), "brain": (-9.0, 9.0)}
    found = values(score_written_intervals(ABOUT, bounds, {"gm": -3.0, "csf": 4.0, "wm": 0.0}))
    assert found["written_interval_coverage_95", None] == 0.5
    assert (found["written_interval_coverage_95", "gm"], found["written_interval_width_95_ml", "gm"]) == (1.0, 10.0)
    assert len(found) == 5
    assert score_written_intervals(ABOUT, {}, {"gm": -3.0}) == []


def test_agreement_is_with_the_truth_and_reconstruction_with_the_scan(scan):
    change = np.where(scan.mask, np.linspace(0, 0.2, 8, dtype=np.float32)[:, None, None], 0)
    truth = Truth(scan.volume + change, {"gm": 590.0})
    made = Counterfactual(scan.volume + change / 2, change / 2)
    found = values(score_agreement(ABOUT, made, {"gm": 596.0}, truth, scan))
    assert found["change_slope", None] == pytest.approx(0.5, rel=1e-4)
    assert found["change_correlation", None] == pytest.approx(1, rel=1e-4)
    assert found["region_volume_error_ml", "gm"] == found["region_volume_mae_ml", None] == 6.0
    own = values(score_reconstruction(ABOUT, scan.volume, {"gm": 596.0}, scan, {"gm": 600.0}))
    assert own["psnr_brain_db", None] == np.inf
    assert own["region_volume_error_ml", "gm"] == -4.0
    assert own["region_volume_mae_ml", None] == 4.0


def test_regions_are_measured_in_the_scans_mask_and_own_size(scan):
    found = scan.regions_ml(np.ones(SHAPE, np.float32))
    assert found == dict.fromkeys(COMPARED, scan.mask.sum() / 2)
