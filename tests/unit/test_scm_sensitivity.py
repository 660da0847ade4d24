"""How strong a confounder must be: by a confounder that is made so strong, and published figures."""

import numpy as np
import pytest

from brainscm.scm.sensitivity import e_value, robustness_value


def test_a_confounder_as_strong_as_the_robustness_value_brings_the_effect_to_zero() -> None:
    """In the space of residuals: cause d, outcome y and a confounder z that has partial R² = RV with both."""
    for r in (0.05, 0.3, 0.9):  # correlation of cause and outcome: partial R² = r²
        rv = robustness_value(np.array([r**2]))[0]
        root = np.sqrt(rv)
        # y given d leaves 1 - r²; z's correlation with y given d is the root of RV, that with d is the root of RV.
        covariance_zy = root * r + np.sqrt((1 - rv) * (1 - r**2)) * root
        effect_beside_z = (r - root * covariance_zy) / (1 - rv)
        assert effect_beside_z == pytest.approx(0, abs=1e-12)


def test_robustness_values_at_the_ends() -> None:
    found = robustness_value(np.array([0.0, 1.0, np.nan, 1e-14]))
    assert found[:2].tolist() == [0, 1]
    assert np.isnan(found[2])
    assert found[3] == pytest.approx(1e-7, rel=1e-5)


def test_e_values_are_the_published_ones() -> None:
    # VanderWeele & Ding (2017): a risk ratio of 3.9 has an E-value of 7.26; one below 1 that of its inverse.
    assert e_value(np.array([3.9, 1 / 3.9]), 0.05) == pytest.approx([7.26, 7.26], abs=0.005)
    assert e_value(np.array([3.9**2]), 0.4) == pytest.approx([7.26], abs=0.005)
    assert e_value(np.array([1.0]), 0.4) == pytest.approx([1.0])
