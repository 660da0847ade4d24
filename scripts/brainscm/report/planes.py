"""Charts of one number against another: predicted against true, promised against held, volume against age."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from brainscm.report.charts import CHARACTER, WIDTH, padded, svg, ticks
from brainscm.report.words import signed

SIDE = 300  # of a small chart
Range = tuple[float, float]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A point of a scatter; `low` and `high` bound y (NaN: nothing does), `title` is what pointing at it tells."""

    x: float
    y: float
    title: str
    style: str = "ours"
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Plane:
    """The rectangle between two axes; `x` and `y` are the ranges that they show.

    `left` is the least room for the numbers of the y axis.
    """

    x: Range
    y: Range
    width: int = SIDE
    height: int = SIDE
    left: int = 46
    top: int = 22  # the words of the y axis stand above it
    below: int = 40  # those of the x axis below

    @cached_property
    def start(self) -> float:
        """Where the x axis begins: right of the longest number of the y axis."""
        return max(self.left, 12 + CHARACTER * max((len(_number(tick)) for tick in ticks(*self.y)), default=0))

    def across(self, value: float) -> float:
        low, high = self.x
        return self.start + (self.width - 8 - self.start) * ((value - low) / (high - low) if high > low else 0.5)

    def down(self, value: float) -> float:
        low, high = self.y
        bottom = self.height - self.below
        return bottom - (bottom - self.top) * (value - low) / (high - low)

    def axes(self, x_label: str, y_label: str = "", unit: str = "", x_ticks: Sequence[float] = ()) -> list[str]:
        """Lines across at the ticks of y, numbers at both axes, and words; `unit` goes behind each number."""
        right, bottom, parts = self.width - 8, self.height - self.below, []
        for tick in ticks(*self.y):
            at = self.down(tick)
            parts.append(f'<line class="axis" x1="{self.start:.1f}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(
                f'<text x="{self.start - 6:.1f}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}{unit}</text>'
            )
        for tick in x_ticks or ticks(*self.x):
            text = f"{_number(tick)}{unit}"
            at = min(self.across(tick), self.width - CHARACTER * len(text) / 2)
            parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
        parts.append(f'<text x="{right}" y="{bottom + 33}" text-anchor="end">{escape(x_label)}</text>')
        if y_label:
            parts.append(f'<text x="0" y="11">{escape(y_label)}</text>')
        return parts

    def line(self, points: Iterable[tuple[float, float]], style: str) -> str:
        path = " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)
        return f'<polyline class="line {style}" points="{path}"/>'

    def area(self, points: Iterable[tuple[float, float]], style: str = "train") -> str:
        path = " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)
        return f'<polygon class="band {style}" points="{path}"/>'

    def arrow(self, arrow: Arrow) -> str:
        (x0, y0), (x1, y1) = ((self.across(x), self.down(y)) for x, y in (arrow.start, arrow.end))
        length = math.hypot(x1 - x0, y1 - y0)
        if length < 1:
            drawn = f'<circle class="{arrow.style}" cx="{x0:.1f}" cy="{y0:.1f}" r="2.5"/>'
        else:
            along = ((x1 - x0) / length, (y1 - y0) / length)
            size = min(6.0, length)
            back = (x1 - size * along[0], y1 - size * along[1])
            sides = [
                (back[0] + sign * 0.45 * size * along[1], back[1] - sign * 0.45 * size * along[0]) for sign in (1, -1)
            ]
            head = " ".join(f"L{x:.1f} {y:.1f}" for x, y in sides)
            drawn = (
                f'<path class="{arrow.style}" d="M{x0:.1f} {y0:.1f} L{back[0]:.1f} {back[1]:.1f}"/>'
                f'<path class="{arrow.style.split()[0]}" d="M{x1:.1f} {y1:.1f} {head} Z"/>'
            )
        return f"<g><title>{escape(arrow.title)}</title>{drawn}</g>"

    def diagonal(self) -> str:
        """Where both numbers are the same, as far as it lies within both ranges."""
        low, high = max(self.x[0], self.y[0]), min(self.x[1], self.y[1])
        return self.line([(low, low), (high, high)], "zero") if high > low else ""

    def dot(self, at: tuple[float, float], style: str, radius: float = 3) -> str:
        return f'<circle class="{style}" cx="{self.across(at[0]):.1f}" cy="{self.down(at[1]):.1f}" r="{radius}"/>'

    def marks(self, points: Sequence[Point], radius: float = 3.2) -> list[str]:
        parts = []
        for point in points:
            bar = ""
            if math.isfinite(point.low) and math.isfinite(point.high):
                ends = (min(max(end, self.y[0]), self.y[1]) for end in (point.low, point.high))
                low, high = (self.down(end) for end in ends)
                bar = f'<path class="bar {point.style}" d="M{self.across(point.x):.1f} {low:.1f} V{high:.1f}"/>'
            dot = self.dot((point.x, point.y), point.style, radius)
            parts.append(f"<g><title>{escape(point.title)}</title>{bar}{dot}</g>")
        return parts


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float], str]], x_label: str, title: str) -> Markup:
    """Curves (xs, ys, style) on common axes; points that are not finite are left out."""
    curves = {}
    for label, (xs, ys, style) in series.items():
        points = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if points:
            curves[label] = (points, style)
    if not curves:
        return Markup("")
    every = [point for points, _ in curves.values() for point in points]
    xs, ys = [x for x, _ in every], [y for _, y in every]
    plane = Plane((min(xs), max(xs)), padded(ys), WIDTH, 228, left=48, top=8, below=38)
    parts = plane.axes(x_label)
    for points, style in curves.values():
        parts.append(plane.line(points, style))
        if len(points) == 1:
            parts.append(plane.dot(points[0], style))
    return svg(parts, plane.height, title, plane.width)


def way(points: Sequence[Point], marked: int, x_label: str, y_label: str, title: str) -> Markup:
    """Points joined in their order; the one at the place `marked` is large."""
    xs, ys = [point.x for point in points], [point.y for point in points]
    plane = Plane(padded(xs), padded(ys), WIDTH, 260, left=52)
    parts = [*plane.axes(x_label, y_label), plane.line(zip(xs, ys, strict=True), points[0].style)]
    parts += [*plane.marks(points, radius=2.2), *plane.marks([points[marked]], radius=5.5)]
    return svg(parts, plane.height, title, plane.width)


def course(
    points: Sequence[Point], expected: Sequence[tuple[float, float]], x_label: str, y_label: str, title: str
) -> Markup:
    """A change along a number, from left to right, within the band of its intervals; seen from none.

    `expected` (x, y) is dashed.
    """
    ends = [end for point in points for end in (point.y, point.low, point.high) if math.isfinite(end)]
    plane = Plane((points[0].x, points[-1].x), padded([0.0, *ends, *(y for _, y in expected)]), SIDE, 220)
    bounded = [point for point in points if math.isfinite(point.low) and math.isfinite(point.high)]
    band = [(point.x, point.low) for point in bounded] + [(point.x, point.high) for point in reversed(bounded)]
    parts = [*plane.axes(x_label, y_label), plane.line([(plane.x[0], 0.0), (plane.x[1], 0.0)], "rule")]
    parts += [plane.area(band, "ours")] if bounded else []
    parts += [plane.line(expected, "zero")] if expected else []
    parts.append(plane.line([(point.x, point.y) for point in points], "ours"))
    parts += plane.marks([replace(point, low=math.nan) for point in points], radius=2.6)
    return svg(parts, plane.height, title, plane.width)


def around_zero(points: Sequence[Point], x_label: str, y_label: str, title: str) -> Markup:
    """Residuals along a number, between the dashed lines that hold 95 % of a standard normal."""
    if not points:
        return Markup("")
    plane = Plane(padded([point.x for point in points]), padded([-2.6, 2.6, *(point.y for point in points)]), SIDE, 220)
    rules = [plane.line([(plane.x[0], level), (plane.x[1], level)], "zero") for level in (-1.96, 1.96)]
    rules.append(plane.line([(plane.x[0], 0.0), (plane.x[1], 0.0)], "rule"))
    return svg([*plane.axes(x_label, y_label), *rules, *plane.marks(points, radius=2.6)], plane.height, title, SIDE)


def quantiles(points: Sequence[Point], x_label: str, y_label: str, title: str) -> Markup:
    """Ordered residuals against the quantiles of the standard normal, which they should equal."""
    if not points:
        return Markup("")
    both = padded([-2.0, 2.0, *(number for point in points for number in (point.x, point.y))])
    plane = Plane(both, both, SIDE, 220)
    return svg(
        [*plane.axes(x_label, y_label), plane.diagonal(), *plane.marks(points, radius=2.6)], plane.height, title, SIDE
    )


def scatter(points: Sequence[Point], x_label: str, y_label: str, title: str) -> Markup:
    """Changes on two axes of one scale, with the line on which both are the same."""
    found = [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]
    if not found:
        return Markup("")
    # Changes are seen from none. What bars reach beyond the points is cut off: a wide one would press them together.
    both = padded([0.0, *(number for point in found for number in (point.x, point.y))], share=0.08)
    plane = Plane(both, both)
    zero = [plane.line([(both[0], 0.0), (both[1], 0.0)], "rule"), plane.line([(0.0, both[0]), (0.0, both[1])], "rule")]
    parts = [*plane.axes(x_label, y_label), *zero, plane.diagonal(), *plane.marks(found)]
    return svg(parts, plane.height, title, plane.width)


def reliability(series: Mapping[str, tuple[Sequence[Point], str]], title: str) -> Markup:
    """The share of truths that intervals hold (y) against the share that they promise (x), both in per cent."""
    curves = {name: (points, style) for name, (points, style) in series.items() if points}
    if not curves:
        return Markup("")
    plane = Plane((40.0, 100.0), (0.0, 100.0))
    levels = sorted({point.x for points, _ in curves.values() for point in points})
    parts = [*plane.axes("promised", "held", unit=" %", x_ticks=levels), plane.diagonal()]
    for points, style in curves.values():
        parts.append(plane.line([(point.x, point.y) for point in points], style))
        parts += plane.marks(points)
    return svg(parts, plane.height, title, plane.width)


def _number(value: float) -> str:
    return signed(f"{value:g}")


@dataclass(frozen=True)
class Arrow:
    """From one point of a plane to another."""

    start: tuple[float, float]
    end: tuple[float, float]
    title: str
    style: str = "ours"


def growth(
    points: Sequence[Point],
    bands: tuple[Array, Array],
    arrows: Mapping[str, Sequence[Arrow]],
    x_label: str,
    y_label: str,
    title: str,
) -> Markup:
    """Points over bands of centiles, with the arrows of one group at a time (`data-query`; the first is shown).

    Args:
        bands: places along x, and an uneven number of centiles at them from lowest to highest, (centiles, places).
    """
    every = [arrow for group in arrows.values() for arrow in group]
    xs = [point.x for point in points] + [end[0] for arrow in every for end in (arrow.start, arrow.end)]
    ys = [point.y for point in points] + [end[1] for arrow in every for end in (arrow.start, arrow.end)]
    at, centiles = bands
    known = np.isfinite(centiles).all(axis=0) if len(at) else np.zeros(0, dtype=bool)
    if not xs:
        return Markup("")
    plane = Plane(padded(xs, 0.03), padded([*ys, *centiles[:, known].ravel()]), WIDTH, 300, left=52)
    parts = plane.axes(x_label, y_label)
    count = len(centiles)
    for low in range(count // 2 if known.any() else 0):
        lower, upper = (list(zip(at[known], centiles[row, known], strict=True)) for row in (low, count - 1 - low))
        parts.append(plane.area([*lower, *reversed(upper)]))
    if known.any():
        parts.append(plane.line(zip(at[known], centiles[count // 2, known], strict=True), "train"))
    parts += plane.marks(points, radius=2.0)
    for place, (name, group) in enumerate(arrows.items()):
        drawn = "".join(plane.arrow(arrow) for arrow in group)
        parts.append(f'<g data-query="{escape(name)}"{" hidden" if place else ""}>{drawn}</g>')
    return svg(parts, plane.height, title, plane.width)


@dataclass(frozen=True)
class Strip:
    """A row of equal cells, each of a kind that is a CSS class, with marks under it."""

    label: str
    kinds: Sequence[str]
    marks: Sequence[float]


def strips(rows: Sequence[Strip], x: Range, x_label: str, title: str) -> Markup:
    """Rows of cells along one axis."""
    width, row_height, left = 480, 40, 14 + round(CHARACTER * max((len(row.label) for row in rows), default=0))
    plane = Plane(x, (0.0, 1.0), width, row_height * len(rows) + 40, left=left)
    parts = []
    for place, row in enumerate(rows):
        top = place * row_height + 4
        parts.append(f'<text x="{left - 10}" y="{top + 15}" text-anchor="end">{escape(row.label)}</text>')
        edges = np.linspace(plane.across(x[0]), plane.across(x[1]), len(row.kinds) + 1)
        start = 0
        for end in range(1, len(row.kinds) + 1):  # cells of one kind are one rectangle
            if end == len(row.kinds) or row.kinds[end] != row.kinds[start]:
                wide = edges[end] - edges[start]
                parts.append(
                    f'<rect class="near {row.kinds[start]}" x="{edges[start]:.1f}" y="{top}" width="{wide:.1f}" '
                    'height="22"/>'
                )
                start = end
        parts += [f'<circle class="ours" cx="{plane.across(mark):.1f}" cy="{top + 28}" r="2"/>' for mark in row.marks]
    bottom = row_height * len(rows)
    for tick in ticks(*x, about=6):
        parts.append(
            f'<text x="{plane.across(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    parts.append(f'<text x="{width - 8}" y="{bottom + 33}" text-anchor="end">{escape(x_label)}</text>')
    return svg(parts, plane.height, title, width)
