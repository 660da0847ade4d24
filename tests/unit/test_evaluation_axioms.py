"""Null interventions, and interventions that are taken back."""

from types import SimpleNamespace

import numpy as np
import pytest

from brainscm.evaluation.axioms import composition, reversibility
from brainscm.evaluation.scan import Counterfactual

SHAPE = (8, 8, 8)
MASK = np.zeros(SHAPE, bool)
MASK[1:-1, 1:-1, 1:-1] = True
VOLUME = np.where(MASK, 0.5, 0).astype(np.float32)
LATENT = np.ones((1, 2, 2, 2), np.float32)
SCAN = SimpleNamespace(volume=VOLUME, mask=MASK, latent=LATENT, levels=())


class Method:
    """Adds the step to every voxel, also outside the brain, and `drift` each time that it is direct."""

    image = SimpleNamespace(columns=["intercept"])
    drift = np.float32(0.01)

    def factual(self, volume, latent, levels):
        assert not volume[~MASK].any()
        # The scan's own latent is of the scan alone.
        assert latent is (LATENT if volume is VOLUME else None)
        return volume

    def predict(self, factual, step, decode):
        return Counterfactual(factual + np.float32(step[0]) + self.drift * (decode == "direct"), factual)


def test_null_interventions_give_back_the_scan_or_drift_with_every_round():
    assert composition(Method(), SCAN, "residual") == {
        "composition_1_l1": 0,
        "composition_1_ssim": 1,
        "composition_10_l1": 0,
        "composition_10_ssim": 1,
    }
    drifting = composition(Method(), SCAN, "direct")
    assert drifting["composition_1_l1"] == pytest.approx(0.01, rel=1e-4)
    assert drifting["composition_10_l1"] == pytest.approx(0.1, rel=1e-4)


def test_an_intervention_and_its_reverse_cancel():
    step = np.array([0.25])
    assert reversibility(Method(), SCAN, step, "residual")["reversibility_3_l1"] == pytest.approx(0, abs=1e-6)
    assert reversibility(Method(), SCAN, step, "direct")["reversibility_3_l1"] == pytest.approx(0.06, rel=1e-4)
