"""A scan that was skull-stripped before it came here is told from a whole head, and what it lacks is measured."""

import numpy as np
import pytest
from scipy import ndimage

from brainscm.config import QualityOptions
from brainscm.errors import ScanError
from brainscm.images import Image
from brainscm.preprocess import network
from brainscm.preprocess.given import LOOSE, NOISY, Given, find_given, holds_a_head
from brainscm.preprocess.template import EMBEDDED, load_template
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
    given = find_given(scan(data), "auto")
    assert given.outline is not None
    assert given.notes == ()
    np.testing.assert_array_equal(given.outline, BRAIN)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", ["noise", "noise over a constant", "noise also where it was cut", "ripple"])
def test_a_brain_in_surroundings_that_are_not_quite_empty_is_noticed_and_told(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    head = np.where(BRAIN & ~ellipsoid(15, 20, 15), 900, 0) + np.where(BRAIN, 100, 0)
    noisy = [part + rng.normal(0, 40, SHAPE) for part in (head, np.zeros(SHAPE))]
    data = {
        "noise": head + rng.normal(0, 20, SHAPE),
        "noise over a constant": 300 + head + rng.normal(0, 20, SHAPE),
        "noise also where it was cut": np.hypot(*noisy),
        "ripple": head + 15 * np.sin(np.indices(SHAPE).sum(0) + seed),
    }[kind]
    given = find_given(scan(data), "auto")
    assert given.outline is not None
    assert given.notes == (NOISY,)
    assert 2 * (given.outline & BRAIN).sum() / (given.outline.sum() + BRAIN.sum()) > 0.98


def test_a_brain_with_much_around_it_is_told_and_a_head_of_that_size_which_the_field_of_view_cuts_is_not() -> None:
    loose = ndimage.gaussian_filter(900.0 * ellipsoid(79, 95, 73), 0.5)
    assert find_given(scan(loose), "auto").notes == (LOOSE,)
    assert find_given(scan(loose), "head").notes == ()
    assert find_given(scan(loose), "brain").outline is not None
    small = np.where(ellipsoid(79, 95, 79), 900, 0)[:, :, 15:]
    assert find_given(scan(small), "auto") == Given()


@pytest.mark.parametrize(
    "data",
    [
        np.where(HEAD, 900, 0),  # the air set to zero
        np.where(HEAD & ~SKULL, 900, 0),  # and the skull
        np.where(HEAD, 900, 0) + np.random.default_rng(1).normal(100, 20, SHAPE),
        np.where(HEAD, 900, np.random.default_rng(1).uniform(0, 900, SHAPE)),  # the uniform image of MP2RAGE
        np.where(ellipsoid(30, 30, 30), 900, 0),
    ],
)
def test_a_whole_head_or_a_ball_is_no_stripped_brain(data: np.ndarray) -> None:
    assert find_given(scan(data), "auto") == Given()


def test_the_network_tells_a_head_from_a_brain_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a child's head in noise, of which as much stands out as of a brain."""
    head, mask = load_template(EMBEDDED, 3.0).heads[4]
    inside = mask.data > 0.5
    whole = ndimage.binary_dilation(inside, iterations=4)  # 16 mm: skull and scalp
    assert holds_a_head(head.with_data(whole), head)
    assert not holds_a_head(mask.with_data(inside), head.with_data(head.data * inside))
    monkeypatch.setattr(network, "_run", lambda edge, seen: np.zeros((edge,) * 3, np.float32))
    assert not holds_a_head(head.with_data(whole), head), "where the network sees no brain, what was found stays"


def test_the_study_may_say_what_its_scans_are() -> None:
    assert find_given(scan(np.where(BRAIN, 900, 0)), "head") == Given()
    assert find_given(scan(np.where(ellipsoid(30, 30, 30), 900, 0)), "brain").outline is not None
    full = np.full(SHAPE, 900) + np.arange(SHAPE[2])
    head = np.where(ellipsoid(160, 190, 160), 900, 0)
    for data, told in ((full, "nothing stands out"), (head, r"\d+% of its voxels are empty")):
        with pytest.raises(ScanError, match=f"no skull-stripped brain: {told}"):
            find_given(scan(data), "brain")


@pytest.mark.parametrize(("cut", "status"), [(0, "pass"), (6, "fail")])
def test_a_brain_of_which_a_side_is_cut_away_fails(cut: int, status: str) -> None:
    mask = BRAIN.copy()
    first = int(np.flatnonzero(BRAIN.any((1, 2)))[0])
    mask[: first + cut if cut else 0] = False
    metrics = given_metrics(mask, BRAIN)
    found, reasons = apply_limits(metrics, QualityOptions())
    assert (metrics["asymmetry_percent"] == 0) == (cut == 0)
    assert found == status, reasons
