"""Centiles along a number: they follow where participants lie and how they spread."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from brainscm.report.centiles import LEVELS, centiles

RNG = np.random.default_rng(0)


def test_centiles_follow_the_middle_and_the_spread_to_the_very_ends():
    x = RNG.uniform(20, 80, 4000)
    y = 600 - 2 * x + (5 + x / 4) * RNG.standard_normal(4000)  # older participants differ more
    at = np.array([20.0, 50.0, 80.0])
    found = centiles(x, y, at)
    expected = 600 - 2 * at + (5 + at / 4) * norm.ppf(np.array(LEVELS) / 100)[:, None]
    assert found[:, 1] == pytest.approx(expected[:, 1], abs=2)
    assert found == pytest.approx(expected, abs=8)  # an end is seen from one side alone
    assert (np.diff(found, axis=0) > 0).all()


def test_few_participants_have_no_centiles():
    x, y = RNG.uniform(20, 80, 40), RNG.standard_normal(40)
    assert np.isnan(centiles(x[:9], y[:9], np.array([50.0]))).all()
    lonely = np.append(x[x < 50], 79.0)
    assert np.isnan(centiles(lonely, RNG.standard_normal(len(lonely)), np.array([79.0]))).all()
    assert np.isnan(centiles(np.full(20, 50.0), y[:20], np.array([50.0]))).all()  # all of one age
