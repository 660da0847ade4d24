"""A scan that was skull-stripped before it came here is told from a whole head, and what it lacks is measured."""

import numpy as np
import pytest

from brainscm.config import QualityOptions
from brainscm.errors import ScanError
from brainscm.images import Image
from brainscm.preprocess.given import given_outline
from brainscm.qc.limits import apply_limits
from brainscm.qc.measures import given_metrics

pytestmark = pytest.mark.slow

SHAPE = (60, 70, 60)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def ellipsoid(*radii_mm: float) -> np.ndarray:
    at = (np.indices(SHAPE) - np.array(SHAPE).reshape(3, 1, 1, 1) / 2 + 0.5) * 4
    return sum((axis / radius) ** 2 for axis, radius in zip(at, radii_mm, strict=True)) < 1


BRAIN = ellipsoid(68, 84, 62)  # 1480 ml
HEAD = ellipsoid(85, 105, 85)
SKULL = ellipsoid(76, 92, 70) & ~BRAIN


def scan(data: np.ndarray) -> Image:
    return Image(data.astype(np.float32), AFFINE)


@pytest.mark.parametrize("background", [0, -1000, 7])
def test_a_stripped_brain_is_noticed_and_its_outline_is_the_one_given(background: int) -> None:
    ventricles = ellipsoid(15, 20, 15)
    data = np.where(BRAIN & ~ventricles, 900, background)
    data[1, 1, 1] = 900  # a speck
    outline = given_outline(scan(data), "auto")
    assert outline is not None
    np.testing.assert_array_equal(outline, BRAIN)


@pytest.mark.parametrize(
    "data",
    [
        np.where(HEAD, 900, 0),  # the air set to zero
        np.where(HEAD & ~SKULL, 900, 0),  # and the skull
        np.where(BRAIN, 900, np.random.default_rng(1).normal(100, 20, SHAPE)),
        np.where(ellipsoid(30, 30, 30), 900, 0),
    ],
)
def test_a_whole_head_or_a_ball_is_no_stripped_brain(data: np.ndarray) -> None:
    assert given_outline(scan(data), "auto") is None


def test_the_study_may_say_what_its_scans_are() -> None:
    assert given_outline(scan(np.where(BRAIN, 900, 0)), "head") is None
    assert given_outline(scan(np.where(ellipsoid(30, 30, 30), 900, 0)), "brain") is not None
    with pytest.raises(ScanError, match="no skull-stripped brain"):
        given_outline(scan(np.full(SHAPE, 900) + np.arange(SHAPE[2])), "brain")


@pytest.mark.parametrize(("cut", "status"), [(0, "pass"), (6, "fail")])
def test_a_brain_of_which_a_side_is_cut_away_fails(cut: int, status: str) -> None:
    mask = BRAIN.copy()
    first = int(np.flatnonzero(BRAIN.any((1, 2)))[0])
    mask[: first + cut if cut else 0] = False
    metrics = given_metrics(mask, BRAIN)
    found, reasons = apply_limits(metrics, QualityOptions())
    assert (metrics["asymmetry_percent"] == 0) == (cut == 0)
    assert found == status, reasons
