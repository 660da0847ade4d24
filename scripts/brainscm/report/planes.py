"""Charts of one number against another: predicted against true, promised against held, volume against age."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from brainscm.report.charts import padded, svg, ticks
from brainscm.report.words import signed

SIDE = 300  # of a small chart
Range = tuple[float, float]


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
    """The rectangle between two axes; `x` and `y` are the ranges that they show."""

    x: Range
    y: Range
    width: int = SIDE
    height: int = SIDE
    left: int = 46
    top: int = 22  # the words of the y axis stand above it
    below: int = 40  # those of the x axis below

    def across(self, value: float) -> float:
        low, high = self.x
        return self.left + (self.width - 8 - self.left) * ((value - low) / (high - low) if high > low else 0.5)

    def down(self, value: float) -> float:
        low, high = self.y
        bottom = self.height - self.below
        return bottom - (bottom - self.top) * (value - low) / (high - low)

    def axes(self, x_label: str, y_label: str = "", unit: str = "", x_ticks: Sequence[float] = ()) -> list[str]:
        """Lines across at the ticks of y, numbers at both axes, and words; `unit` goes behind each number."""
        right, bottom, parts = self.width - 8, self.height - self.below, []
        for tick in ticks(*self.y):
            at = self.down(tick)
            parts.append(f'<line class="axis" x1="{self.left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text x="{self.left - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}{unit}</text>')
        for tick in x_ticks or ticks(*self.x):
            at = self.across(tick)
            parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}{unit}</text>')
        parts.append(f'<text x="{right}" y="{bottom + 33}" text-anchor="end">{escape(x_label)}</text>')
        if y_label:
            parts.append(f'<text x="0" y="11">{escape(y_label)}</text>')
        return parts

    def line(self, points: Iterable[tuple[float, float]], style: str) -> str:
        path = " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)
        return f'<polyline class="line {style}" points="{path}"/>'

    def diagonal(self) -> str:
        """Where both numbers are the same, as far as it lies within both ranges."""
        low, high = max(self.x[0], self.y[0]), min(self.x[1], self.y[1])
        return self.line([(low, low), (high, high)], "zero") if high > low else ""

    def marks(self, points: Sequence[Point], radius: float = 3.2) -> list[str]:
        parts = []
        for point in points:
            x, y = self.across(point.x), self.down(point.y)
            bar = ""
            if math.isfinite(point.low) and math.isfinite(point.high):
                ends = (min(max(end, self.y[0]), self.y[1]) for end in (point.low, point.high))
                low, high = (self.down(end) for end in ends)
                bar = f'<path class="bar {point.style}" d="M{x:.1f} {low:.1f} V{high:.1f}"/>'
            parts.append(
                f"<g><title>{escape(point.title)}</title>{bar}"
                f'<circle class="{point.style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/></g>'
            )
        return parts


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
