"""Charts of one number against another: where points and lines stand."""

from __future__ import annotations

import math
import re

import pytest
from markupsafe import Markup

from brainscm.report import planes


def circles(drawing: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]*cx="([-\d.]+)" cy="([-\d.]+)"', drawing)]


def ends(drawing: str, style: str) -> list[tuple[float, float]]:
    points = re.search(rf'<polyline class="line {style}" points="([^"]+)"', drawing).group(1)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_a_right_prediction_lies_on_the_diagonal_and_one_too_small_below_it():
    points = [planes.Point(4.0, 4.0, "right"), planes.Point(-6.0, -6.0, "right, too"), planes.Point(8.0, 4.0, "small")]
    drawing = planes.scatter(points, "true", "predicted", "title")
    (left, low), (right, high) = ends(drawing, "zero")
    for x, y in circles(drawing)[:2]:
        assert y == pytest.approx(low + (high - low) * (x - left) / (right - left), abs=0.11)
    x, y = circles(drawing)[2]
    assert y > low + (high - low) * (x - left) / (right - left)  # rows of a drawing run down
    assert "<title>small</title>" in drawing


def test_changes_are_seen_from_none():
    drawing = planes.scatter([planes.Point(40.0, 44.0, "a"), planes.Point(41.0, 45.0, "b")], "true", "predicted", "t")
    (_, at), (_, same) = ends(drawing, "rule")
    assert at == same  # the line of no predicted change
    assert all(y < at for _, y in circles(drawing))


def test_a_bar_stays_within_its_chart():
    point = planes.Point(1.0, 1.0, "wide", low=-500.0, high=math.inf)
    assert "<path" not in planes.scatter([point], "true", "predicted", "title")  # one end is not known
    drawing = planes.scatter([planes.Point(1.0, 1.0, "wide", low=-500.0, high=500.0)], "true", "predicted", "title")
    bottom, top = (float(end) for end in re.search(r'd="M[\d.]+ ([\d.]+) V([\d.]+)"', drawing).groups())
    assert 0 <= top < bottom <= planes.SIDE


def test_intervals_that_hold_what_they_promise_lie_on_the_diagonal():
    held = [planes.Point(level, level, "") for level in (50.0, 80.0, 95.0)]
    drawing = planes.reliability({"ours": (held, "ours"), "none": ([], "train")}, "title")
    (left, low), (right, high) = ends(drawing, "zero")
    for x, y in circles(drawing):
        assert y == pytest.approx(low + (high - low) * (x - left) / (right - left), abs=0.11)
    assert "train" not in drawing
    assert re.findall(r"(\d+) %</text>", drawing)[-3:] == ["50", "80", "95"]


def test_nothing_to_draw_is_no_chart():
    assert planes.scatter([planes.Point(math.nan, 1.0, "")], "x", "y", "title") == Markup("")
    assert planes.reliability({"ours": ([], "ours")}, "title") == Markup("")
