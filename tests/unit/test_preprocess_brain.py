"""A network finds the brain, the template is laid on its outline, and two outlines are brought together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainscm.errors import ConfigError, ScanError
from brainscm.images import Image
from brainscm.preprocess import brain, network
from brainscm.preprocess.brain import Brain, find_brain
from brainscm.preprocess.network import FirstLook, brain_probability
from brainscm.preprocess.outline import dice, fit_outline, fitted_share
from brainscm.preprocess.register import about
from brainscm.preprocess.skullstrip import signed_distance
from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.qc.status import ScanStatus
from brainscm.resampling import sample

GRID = np.diag([4.0, 4.0, 4.0, 1.0])


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(EMBEDDED, 3.0)


def ball(radius_mm: float, shift_mm: float = 0.0) -> Image:
    """Signed distance to a ball's surface, on a coarse grid."""
    points = np.moveaxis(np.indices((40, 40, 40)) * 4.0, 0, -1) - 80 - np.array([shift_mm, 0, 0])
    return Image((radius_mm - np.linalg.norm(points, axis=-1)).astype(np.float32), GRID)


def lumpy(scale: float = 1.0) -> Image:
    """A mask without a symmetry but left and right: a long ellipsoid with a lump below its back."""
    x, y, z = np.moveaxis(np.indices((44, 52, 44)) * 4.0 - np.array([88, 104, 88]).reshape(3, 1, 1, 1), 0, 0) / scale
    inside = (x / 65) ** 2 + (y / 85) ** 2 + (z / 55) ** 2 < 1
    inside |= (x / 40) ** 2 + ((y + 45) / 30) ** 2 + ((z + 45) / 35) ** 2 < 1
    affine = GRID.copy()
    affine[:3, 3] = (-88, -104, -88)
    return Image(inside.astype(np.float32), affine)


@pytest.mark.parametrize("pitch", [-30, 0, 35])
def test_template_is_laid_on_an_outline_of_another_size_place_and_tilt(pitch: float) -> None:
    mask = lumpy()
    turn = Rotation.from_euler("xyz", [pitch, 5, -4], degrees=True).as_matrix() @ np.diag([0.9, 1.0, 0.95])
    truth = about(turn, np.zeros(3), np.array([10.0, -25.0, 30.0]))
    posed = mask.with_data(sample(mask, mask.affine, mask.data.shape, np.linalg.inv(truth), order=1))
    found = fit_outline(mask, posed.with_data(signed_distance(posed)))
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-80, 80) for z in (-50, 50)]).T
    assert np.linalg.norm(((found - truth) @ corners)[:3], axis=0).max() < 6
    assert fitted_share(mask, found, posed.with_data(posed.data - 0.5)) > 0.97


def test_a_brain_that_the_field_of_view_cuts_is_not_squeezed_into_what_is_left() -> None:
    mask = lumpy()
    surface = mask.with_data(signed_distance(mask))
    rows = slice(0, int(np.flatnonzero((mask.data > 0.5).any((0, 1)))[-1]) - 4)  # 20 mm are missing at the top
    found = fit_outline(mask, Image(surface.data[:, :, rows], surface.affine))
    assert np.linalg.det(found[:3, :3]) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("pitch", [5, 40])
def test_a_tilted_head_is_turned_upright_before_the_network_looks(
    pitch: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = lumpy()
    turn = Rotation.from_euler("x", pitch, degrees=True).as_matrix()
    to_mask = np.linalg.inv(about(turn, np.zeros(3), np.array([10.0, -10.0, 5.0])))
    head = mask.with_data(sample(mask, mask.affine, mask.data.shape, to_mask, order=1))
    shown: list[Image] = []

    def look(upright: Image, first: None = None) -> np.ndarray:
        shown.append(upright)
        return upright.data

    monkeypatch.setattr(brain, "brain_probability", look)
    found = brain._outlined_upright(head, None, head, mask)
    assert dice(found > 0.5, head.data > 0.5) > 0.96
    assert dice(shown[0].data > 0.5, head.data > 0.5) > 0.99 if pitch == 5 else shown[0].data.shape > head.data.shape
    second_moments = np.cov((np.argwhere(shown[0].data > 0.5) * 4.0).T)
    assert abs(second_moments[1, 2]) < abs(np.cov((np.argwhere(mask.data > 0.5) * 4.0).T)[1, 2]) + 90


@pytest.mark.parametrize(("neck_mm", "looks"), [(40, 1), (160, 2)])
def test_a_neck_that_misleads_the_network_is_cut_off_for_another_look(
    neck_mm: int, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = lumpy()
    data = np.concatenate([np.zeros((*mask.data.shape[:2], neck_mm // 4), np.float32), mask.data], axis=2)
    affine = mask.affine.copy()
    affine[2, 3] -= neck_mm
    head = Image(data, affine)
    seen: list[float] = []

    class First:
        @staticmethod
        def at(_: Image) -> type:
            return First

        @staticmethod
        def on_grid_of(shown: Image) -> np.ndarray:
            return shown.data

    def look(shown: Image, first: Any) -> np.ndarray:
        height_mm = shown.data.shape[2] * 4
        seen.append(height_mm)
        spread = np.ones_like(shown.data) if height_mm > 250 else shown.data
        return np.where(np.indices(shown.data.shape)[0] > 10, spread, 0)

    monkeypatch.setattr(brain, "FirstLook", First)
    monkeypatch.setattr(brain, "brain_probability", look)
    monkeypatch.setattr(brain, "TILTED_DEGREES", 180.0)
    found = brain._look(head, mask)
    assert found is not None
    assert len(seen) == looks
    assert found.fit > 0.93
    inside = found.surface.data > 0
    centre = found.surface.affine @ np.r_[np.argwhere(inside).mean(0), 1]
    truth = mask.affine @ np.r_[np.argwhere(mask.data > 0.5).mean(0), 1]
    np.testing.assert_allclose(centre, truth, atol=8)


@pytest.mark.slow
def test_networks_see_the_brain_the_same_twice_to_the_byte(template: Template) -> None:
    head, mask = template.heads[4]
    rough = [FirstLook.at(head).on_grid_of(head) for _ in range(2)]
    assert rough[0].tobytes() == rough[1].tobytes()
    assert dice(rough[0] > 0.5, mask.data > 0.5) > 0.9
    assert dice(brain_probability(head) > 0.5, mask.data > 0.5) > 0.94


def test_where_the_first_network_sees_nothing_there_is_no_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_run", lambda edge, seen: np.zeros((edge,) * 3, np.float32))
    empty = Image(np.zeros((20, 20, 20), np.float32), GRID)
    assert not brain_probability(empty).any()


def test_network_looks_at_the_box_around_the_brain_and_answers_on_the_heads_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that takes what is brighter than the mean for brain finds a bright block where it lies."""
    monkeypatch.setattr(network, "_run", lambda edge, seen: (seen > seen.mean() + 0.1).astype(np.float32))
    data = np.zeros((60, 50, 40), np.float32)
    data[20:40, 10:30, 8:20] = 100
    found = brain_probability(Image(data, GRID))
    assert dice(found > 0.5, data > 0) > 0.97


@pytest.mark.parametrize("edge", [network.COARSE, network.FINE])
def test_other_weights_than_those_that_were_tested_are_refused(edge: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(network.WEIGHTS, edge, (network.WEIGHTS[edge][0], "0" * 64))
    with pytest.raises(ConfigError, match=r"not that of version 1\.0\.2; install requirements\.lock"):
        network._load(edge)


def test_a_missing_package_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(network.WEIGHTS, network.COARSE, ("gone.pt", ""))
    with pytest.raises(ConfigError, match=r"networks is missing; .* preprocess\.skull_strip: ants"):
        network._load(network.COARSE)


class Outlines:
    """Stands in for the network and for ANTs: the outlines that they would find, and what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seen: Image | None, fit: float, *by_ants: Image) -> None:
        self.by_ants, self.asked = list(by_ants), []
        head = ball(50)

        def see(status: ScanStatus, *_: Any) -> Brain | None:
            self.asked.append("network")
            status.metrics["outline_fit"] = fit
            return Brain(head, np.ones(head.data.shape), seen, np.eye(4)) if seen else None

        def search(*_: Any) -> np.ndarray:
            self.asked.append("search")
            return np.eye(4)

        def warp(status: ScanStatus, found: Brain, *_: Any) -> Brain:
            self.asked.append("warp")
            return replace(found, surface=self.by_ants.pop(0))

        monkeypatch.setattr(brain, "_seen_by_network", see)
        monkeypatch.setattr(brain, "_search", search)
        monkeypatch.setattr(brain, "_warp", warp)
        monkeypatch.setattr(brain, "bias_field", lambda head, *_, **__: np.ones(head.data.shape))

    def find(self, skull_strip: Any) -> tuple[Brain, dict[str, float]]:
        status = ScanStatus("sub-01", Path(), "status", {})
        template: Any = type("T", (), {"heads": {}})
        return find_brain(status, ball(50), template, None, skull_strip, 1), status.metrics


def radius_mm(surface: Image) -> float:
    return float((3 / (4 * np.pi) * (surface.data > 0).sum() * 64) ** (1 / 3))


def test_where_two_outlines_agree_the_surface_lies_between_them_nearer_to_the_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, metrics = Outlines(monkeypatch, ball(62), 0.95, ball(60)).find("auto")
    assert radius_mm(found.surface) == pytest.approx(61.33, abs=0.2)
    assert found.other is None
    assert metrics["outline_dice"] > 0.93


def test_where_they_disagree_ants_starts_again_from_its_own_search(monkeypatch: pytest.MonkeyPatch) -> None:
    outlines = Outlines(monkeypatch, ball(60), 0.95, ball(60, 25), ball(61))
    found, metrics = outlines.find("auto")
    assert outlines.asked == ["network", "warp", "search", "warp"]
    assert radius_mm(found.surface) == pytest.approx(60.3, abs=0.3)
    assert metrics["outline_dice"] > 0.93


def test_where_they_still_disagree_the_networks_outline_is_taken_and_both_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, metrics = Outlines(monkeypatch, ball(60), 0.95, ball(60, 25), ball(60, 20)).find("auto")
    assert radius_mm(found.surface) == pytest.approx(60, abs=0.3)
    assert found.other is not None
    assert ndimage.center_of_mass(found.other.data > 0)[0] == pytest.approx(25, abs=0.2), "the nearer of the two tries"
    assert metrics["outline_dice"] == pytest.approx(dice(ball(60).data > 0, ball(60, 20).data > 0))


def test_an_outline_without_the_shape_of_a_brain_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    outlines = Outlines(monkeypatch, ball(75), 0.7, ball(60))
    found, metrics = outlines.find("auto")
    assert outlines.asked == ["network", "search", "warp"]
    assert radius_mm(found.surface) == pytest.approx(60, abs=0.3)
    assert found.other is not None
    assert metrics["outline_dice"] < 0.8


def test_ants_alone_asks_no_network_and_deepbet_alone_no_ants(monkeypatch: pytest.MonkeyPatch) -> None:
    by_ants = Outlines(monkeypatch, ball(62), 0.95, ball(60))
    found, metrics = by_ants.find("ants")
    assert by_ants.asked == ["search", "warp"]
    assert radius_mm(found.surface) == pytest.approx(60, abs=0.3)
    assert "outline_dice" not in metrics
    by_network = Outlines(monkeypatch, ball(62), 0.95)
    assert radius_mm(by_network.find("deepbet")[0].surface) == pytest.approx(62, abs=0.3)
    assert by_network.asked == ["network"]


def test_where_the_network_sees_no_brain_ants_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found, metrics = Outlines(monkeypatch, None, 0.0, ball(60)).find("auto")
    assert radius_mm(found.surface) == pytest.approx(60, abs=0.3)
    assert metrics["outline_dice"] == 0
    with pytest.raises(ScanError, match="no brain was found"):
        Outlines(monkeypatch, None, 0.0).find("deepbet")
