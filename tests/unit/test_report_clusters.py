"""Clusters of an effect map, and the regions that they lie in."""

from __future__ import annotations

import numpy as np
import pytest

import made_up_study
from brainscm.report.clusters import NamedRegions


@pytest.fixture(scope="module")
def regions() -> NamedRegions:
    return NamedRegions.of(made_up_study.template(), None)


def test_parts_of_one_sign_beyond_the_threshold_are_found_with_volume_peak_and_place(regions):
    effect = np.zeros(made_up_study.SHAPE, np.float32)
    effect[16:18, 15:18, 12] = 0.3  # right of the middle, in white matter
    effect[17, 16, 12] = 0.5
    effect[5, 20, 12] = -0.4
    effect[17, 18, 12] = -0.2  # beside the first, but the other way
    effect[8, 10, 12] = 0.1  # too small
    effect[0, 0, 0] = 9.0  # outside the brain
    first, second, third = regions.clusters(effect, 0.2)
    voxel_ml = made_up_study.VOXEL_MM**3 / 1000
    assert (first.volume_ml, first.peak) == (pytest.approx(6 * voxel_ml), pytest.approx(0.5))
    affine = made_up_study.template().affine
    assert first.peak_mm == pytest.approx(tuple(affine[:3, :3] @ [17, 16, 12] + affine[:3, 3]))
    assert first.regions == [("right white matter", 1.0)]
    assert sorted([second.peak, third.peak]) == pytest.approx([-0.4, -0.2])


def test_left_is_left(regions):
    effect = np.zeros(made_up_study.SHAPE, np.float32)
    effect[5, 16, 12] = 1.0
    (cluster,) = regions.clusters(effect, 0.5)
    assert cluster.peak_mm[0] < 0
    assert cluster.regions[0][0].startswith("left ")


def test_nothing_beyond_the_threshold_is_no_cluster(regions):
    assert regions.clusters(np.zeros(made_up_study.SHAPE, np.float32), 0.1) == []
