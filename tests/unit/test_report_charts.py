import re
from itertools import pairwise

import numpy as np
import pytest
from markupsafe import Markup

from brainscm.report import charts, planes
from brainscm.report.graph import MissingArrow, draw_graph


def numbers(pattern: str, drawing: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, drawing)]


def test_ticks_are_round_and_inside():
    assert charts.ticks(0.03, 0.97) == [0.2, 0.4, 0.6, 0.8]
    assert charts.ticks(-21, 83) == [-20.0, 0.0, 20.0, 40.0, 60.0, 80.0]


def test_forest_places_estimates_in_order_and_marks_what_is_missing():
    estimates = [charts.Estimate("low", 1.0, 0.5, 1.5), charts.Estimate("none", np.nan), charts.Estimate("high", 2.0)]
    drawing = charts.forest({"": estimates}, "ml", "title", reference=1.0)
    low, high = numbers(r'<circle[^>]*cx="([\d.]+)"', drawing)
    assert low < high
    assert drawing.count("stroke-width") == 1  # one estimate has an interval
    assert ">none<" in drawing
    (reference,) = set(numbers(r'class="zero" x1="([\d.]+)"', drawing))
    assert reference == pytest.approx(low)


def test_nothing_to_draw_is_no_chart():
    assert charts.forest({"": [charts.Estimate("a", np.nan)]}, "", "title") == Markup("")
    assert planes.lines({"a": ([1], [np.nan], "train")}, "step", "title") == Markup("")
    assert charts.histogram_rows({"train": []}, "age", "title") == Markup("")


def test_a_constant_curve_does_not_divide_by_zero():
    drawing = planes.lines({"lr": ([0, 100], [0.001, 0.001], "train")}, "step", "title")
    left, right = re.search(r'points="([^"]+)"', drawing).group(1).split()
    assert left.split(",")[1] == right.split(",")[1]
    assert ">0.001<" in drawing


def test_histogram_bars_hold_shares_of_each_group():
    """Twice as many participants of the same ages give the same picture."""
    few, many = (charts.histogram_rows({"train": ages}, "age", "t") for ages in ([20, 30, 40], [20, 30, 40] * 2))
    bars = r'<rect[^>]*height="([\d.]+)"'
    assert numbers(bars, few) == numbers(bars, many)


def test_users_text_cannot_become_markup():
    estimate = charts.Estimate("<script>", 1.0)
    drawings = (
        charts.forest({"<b>": [estimate]}, "<i>", '"<u>'),
        draw_graph({"<script>": []}, {"<script>": "<b>"}, "<u>"),
        charts.flow([("<b>", 1, ["<i>"]), ("end", 1, [])], "<u>"),
    )
    for drawing in drawings:
        assert not re.search(r"<(script|b|i|u)>", drawing)


def test_graph_puts_causes_above_effects_and_arrows_beside_the_boxes():
    parents = {"age": [], "sex": [], "ventricles": ["age", "sex"], "image": ["age", "sex", "ventricles"]}
    drawing = draw_graph(parents, {}, "title")
    top = dict(zip(parents, numbers(r'<rect[^>]* y="([\d.]+)"', drawing), strict=True))
    assert top["age"] == top["sex"] < top["ventricles"] < top["image"]
    boxes = [(float(x), float(y)) for x, y in re.findall(r'<rect class="box" x="([\d.]+)" y="([\d.]+)"', drawing)]
    passes = 0
    for path in re.findall(r'marker-end[^>]* d="([^"]+)"', drawing):
        for x, start, end in re.findall(r"([\d.]+) ([\d.]+) V([\d.]+)", path):  # where it passes a layer
            for left, box_top in boxes:
                beside = float(x) < left or float(x) > left + 132
                assert beside or not float(start) <= box_top < float(end)
            passes += 1
    assert passes == 2  # age and sex each pass the ventricles on their way to the image


def test_a_box_is_as_wide_as_its_words_need():
    short, long = {"age": [], "image": ["age"]}, {"medial_temporal_grey_matter": [], "image": []}
    widths = [
        set(numbers(r'<rect[^>]* width="([\d.]+)"', draw_graph(parents, {}, "title"))) for parents in (short, long)
    ]
    assert widths[0] == {132}
    assert min(widths[1]) > 27 * 7.4
    assert set(numbers(r'<rect[^>]* width="([\d.]+)"', draw_graph(short, {"age": 30 * "x"}, "title"))) != {132}


def test_a_missing_arrow_is_drawn_from_box_to_box_in_the_colour_of_its_test():
    parents = {"age": [], "sex": [], "image": ["age"]}
    missing = MissingArrow("sex", "image", "against", "image should not depend on sex: adjusted p 0.01")
    drawing = draw_graph(parents, {}, "title", [missing])
    (claim,) = re.findall(
        r'<g class="claim against"><title>(.*?)</title><path d="M(\d+) (\d+) Q.*? (\d+) (\d+)"', drawing
    )
    assert claim[0] == missing.title
    boxes = [(float(x), float(y)) for x, y in re.findall(r'<rect class="box" x="([\d.]+)" y="([\d.]+)"', drawing)]
    for (left, top), (x, y) in zip(boxes[1:], (claim[1:3], claim[3:5]), strict=True):
        assert left < float(x) < left + 132
        assert top < float(y) < top + 44


def test_flow_counts_stand_in_order():
    drawing = charts.flow([("found", 33, ["1 left out"]), ("used", 32, [])], "title")
    assert re.findall(r">(\d+)</text>", drawing) == ["33", "32"]
    assert all(a < b for a, b in pairwise(numbers(r'<rect[^>]* y="(\d+)"', drawing)))
