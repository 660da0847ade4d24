import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from brainscm.evaluation.realism import image_features, mmd_test

PAIRS, FEATURES = 24, 5


def p_values(shift: float, repeats: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(repeats):
        shared = rng.standard_normal((PAIRS, 1))  # what two partners have in common: their covariates
        a, b = (shared + rng.standard_normal((PAIRS, FEATURES)) for _ in range(2))
        found.append(mmd_test(a + shift, b, rng)["p"])
    return np.array(found)


def test_equal_distributions_are_told_apart_as_rarely_as_the_level_says():
    p = p_values(0.0, 60)
    assert np.mean(p <= 0.05) <= 0.13
    assert np.mean(p) == pytest.approx(0.5, abs=0.12)


def test_a_shifted_distribution_is_told_apart():
    assert np.median(p_values(1.0, 5)) < 0.01


def test_the_same_sample_has_no_discrepancy():
    a = np.random.default_rng(0).standard_normal((PAIRS, FEATURES))
    found = mmd_test(a, a, np.random.default_rng(1))
    assert found["mmd2"] == pytest.approx(0, abs=1e-12)
    assert found["p"] == 1


def test_blur_is_seen_in_the_finest_band_and_contrast_in_the_percentiles():
    rng = np.random.default_rng(0)
    volume = gaussian_filter(rng.standard_normal((24, 24, 24)), 1).astype(np.float32) + 1
    mask = np.zeros(volume.shape, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    sharp, blurred = (image_features(v, mask) for v in (volume, gaussian_filter(volume, 1)))
    assert blurred[5] < sharp[5] - 1
    assert blurred[5] - sharp[5] < blurred[8] - sharp[8]
    np.testing.assert_allclose(image_features(2 * volume, mask)[:5], 2 * sharp[:5], rtol=1e-6)
