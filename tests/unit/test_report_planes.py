"""Charts of one number against another: where points and lines stand."""

from __future__ import annotations

import math
import re

import numpy as np
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


def test_arrows_of_one_question_are_shown_at_a_time_and_point_from_scan_to_counterfactual():
    points = [planes.Point(50.0, 100.0, "sub-1"), planes.Point(60.0, 120.0, "sub-2")]
    arrows = {
        "older": [planes.Arrow((50.0, 100.0), (70.0, 90.0), "sub-1: −10 ml", "ours dashed")],
        "<none>": [planes.Arrow((60.0, 120.0), (60.0, 120.0), "sub-2: 0 ml")],
    }
    drawing = planes.growth(points, (np.zeros(0), np.zeros((5, 0))), arrows, "age", "ml", "title")
    assert '<g data-query="older">' in drawing
    assert '<g data-query="&lt;none&gt;" hidden>' in drawing
    x, y = circles(drawing)[0]
    x0, y0, x1, y1 = map(float, re.search(r'dashed" d="M([\d.]+) ([\d.]+) L([\d.]+) ([\d.]+)"', drawing).groups())
    assert (x0, y0) == (x, y)
    assert x1 > x0
    assert y1 > y0  # rows of a drawing run down


def test_bands_of_centiles_lie_one_in_another_and_stop_where_they_are_not_known():
    at = np.linspace(20, 80, 4)
    bands = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]) + np.zeros(4)
    bands[:, -1] = np.nan
    drawing = planes.growth([planes.Point(80.0, 3.0, "sub-1")], (at, bands), {}, "age", "ml", "title")
    areas = [
        [tuple(map(float, pair.split(","))) for pair in area.split()]
        for area in re.findall(r'class="band train" points="([^"]+)"', drawing)
    ]
    heights = [max(y for _, y in area) - min(y for _, y in area) for area in areas]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    ((x, _),) = circles(drawing)
    assert max(x for x, _ in areas[0]) < x


def test_a_strip_shows_each_kind_along_the_axis_and_marks_under_it():
    row = planes.Strip("F", ["none", "few", "few", "many"], [15.0])
    drawing = planes.strips([row], (10.0, 50.0), "age", "title")
    cells = re.findall(r'class="near (\w+)" x="([\d.]+)" y="\d+" width="([\d.]+)"', drawing)
    assert [kind for kind, _, _ in cells] == ["none", "few", "many"]
    widths = [float(width) for _, _, width in cells]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    ((x, _),) = circles(drawing)
    assert x == pytest.approx(float(cells[0][1]) + widths[0] / 2, abs=0.2)


def test_a_course_runs_through_its_band_and_is_seen_from_none():
    points = [planes.Point(age, change, "", "ours", change - 2, change + 2) for age, change in ((50, -10), (60, -20))]
    drawing = planes.course(points, [(50, -12.0), (60, -15.0)], "age", "change (ml)", "title")
    area = re.search(r'class="band ours" points="([^"]+)"', drawing).group(1).split()
    heights = [float(pair.split(",")[1]) for pair in area]  # low, low, high, high
    for (_, y), low, high in zip(circles(drawing), heights[:2], reversed(heights[2:]), strict=True):
        assert y == pytest.approx((low + high) / 2, abs=0.11)
    (_, zero), _ = ends(drawing, "rule")
    assert all(y > zero for _, y in circles(drawing))
    # What is expected is dashed: lower than what is measured at first, and less low at last.
    heights = [y for _, y in ends(drawing, "zero")]
    measured = [y for _, y in circles(drawing)]
    assert heights[0] > measured[0]
    assert heights[1] < measured[1]
    unbounded = planes.course([planes.Point(age, 1.0, "") for age in (50, 60)], [], "age", "change (ml)", "title")
    assert "band" not in unbounded
    assert "zero" not in unbounded
