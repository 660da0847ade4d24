"""Charts as small SVG drawings that take the page's colours, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from brainscm.report.words import signed

WIDTH = 440
CHARACTER = 7.4  # width of one at the charts' 12 pixels, in the widest of the page's fonts


@dataclass(frozen=True)
class Estimate:
    """A value with its interval (NaN: none), drawn as a dot on a line; `style` is a CSS class of style.css."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    style: str = "mark"


def svg(parts: Sequence[str], height: float, title: str, width: int = WIDTH) -> Markup:
    """Wrap a drawing with its description; it shrinks with the page but does not grow much beyond its own size."""
    return Markup(
        f'<svg class="chart" style="max-width: {1.2 * width:.0f}px" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round tick positions that lie within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = min((m * magnitude for m in (1, 2, 5, 10)), key=lambda candidate: abs(candidate - raw))
    first = math.ceil(low / step - 1e-9)
    return [float(round(k * step, 10)) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def histogram_rows(groups: Mapping[str, Sequence[float]], x_label: str, title: str) -> Markup:
    """One row of bars a group on a common axis; a bar's height is its share of the group."""
    values = {name: np.asarray([v for v in group if np.isfinite(v)], dtype=float) for name, group in groups.items()}
    values = {name: group for name, group in values.items() if len(group)}
    if not values:
        return Markup("")
    low, high = padded(np.concatenate(list(values.values())), share=0.02)
    edges = np.linspace(low, high, 25)
    shares = {name: np.histogram(group, edges)[0] / len(group) for name, group in values.items()}
    tallest = max(share.max() for share in shares.values())
    left, right, row = 84, WIDTH - 8, 44
    scale = (right - left) / (high - low)
    parts, base = [], 0
    for name, share in shares.items():
        base += row
        parts.append(f'<text x="{left - 10}" y="{base - 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<text x="{left - 10}" y="{base - 1}" text-anchor="end" font-size="10">n = {len(values[name])}</text>'
        )
        for bar, start in zip(share, edges, strict=False):
            if bar:
                height = (row - 8) * bar / tallest
                x, bar_width = left + (start - low) * scale + 0.5, (edges[1] - edges[0]) * scale - 1
                parts.append(
                    f'<rect class="{escape(name)}" x="{x:.1f}" y="{base - height:.1f}" width="{bar_width:.1f}" '
                    f'height="{height:.1f}" stroke="none"/>'
                )
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>')
    for tick in ticks(low, high, 6):
        parts.append(
            f'<text x="{left + (tick - low) * scale:.1f}" y="{base + 16}" text-anchor="middle">'
            f"{signed(f'{tick:g}')}</text>"
        )
    parts.append(f'<text x="{right}" y="{base + 32}" text-anchor="end">{escape(x_label)}</text>')
    return svg(parts, base + 38, title)


def forest(
    groups: Mapping[str, Sequence[Estimate]], x_label: str, title: str, reference: float | None = None
) -> Markup:
    """Estimates with their intervals on one axis, in titled groups; a dashed line marks `reference`."""
    finite = [
        number
        for estimates in groups.values()
        for estimate in estimates
        for number in (estimate.value, estimate.low, estimate.high)
        if math.isfinite(number)
    ]
    if not finite:
        return Markup("")
    low, high = padded([*finite, *([] if reference is None else [reference])])
    longest = max(len(estimate.label) for estimates in groups.values() for estimate in estimates)
    values = max(len(_shown(estimate.value)) for estimates in groups.values() for estimate in estimates)
    left, right, y = round(12 + CHARACTER * longest), round(WIDTH - 10 - CHARACTER * values), 4
    scale = (right - left) / (high - low)
    rows = []
    for heading, estimates in groups.items():
        if heading:
            y += 22
            rows.append(f'<text class="strong" x="0" y="{y}">{escape(heading)}</text>')
        for estimate in estimates:
            y += 20
            rows.append(f'<text x="{left - 12}" y="{y}" text-anchor="end">{escape(estimate.label)}</text>')
            if not math.isfinite(estimate.value):
                rows.append(f'<text x="{left}" y="{y}">none</text>')
                continue
            x = left + (estimate.value - low) * scale
            if math.isfinite(estimate.low) and math.isfinite(estimate.high):
                start, end = (left + (limit - low) * scale for limit in (estimate.low, estimate.high))
                rows.append(f'<path class="{estimate.style}" d="M{start:.1f} {y - 4} H{end:.1f}" stroke-width="2"/>')
            rows.append(f'<circle class="{estimate.style}" cx="{x:.1f}" cy="{y - 4}" r="4"/>')
            rows.append(f'<text x="{right + 10}" y="{y}">{_shown(estimate.value)}</text>')
    bottom = y + 10
    axis = [f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
    for tick in ticks(low, high):
        at = left + (tick - low) * scale
        axis.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{signed(f"{tick:g}")}</text>')
    axis.append(f'<text x="{right}" y="{bottom + 32}" text-anchor="end">{escape(x_label)}</text>')
    if reference is not None:
        at = left + (reference - low) * scale
        axis.append(f'<line class="zero" x1="{at:.1f}" x2="{at:.1f}" y1="6" y2="{bottom}"/>')
    return svg(axis + rows, bottom + 38, title)


def _shown(value: float) -> str:
    return signed(f"{value:#.3g}".rstrip("."))


def flow(steps: Sequence[tuple[str, int, Sequence[str]]], title: str) -> Markup:
    """Boxes from top to bottom (label, count), each with the lines of what leaves the flow after it at its right."""
    parts, y, box_width, line_height = [], 2, 176, 17
    for index, (label, count, leaving) in enumerate(steps):
        parts.append(f'<rect class="box" x="1" y="{y}" width="{box_width}" height="46" rx="4"/>')
        parts.append(
            f'<text class="strong" x="{box_width / 2}" y="{y + 20}" text-anchor="middle" font-size="15">'
            f"{count:,}</text>"
        )
        parts.append(f'<text x="{box_width / 2}" y="{y + 36}" text-anchor="middle">{escape(label)}</text>')
        if index == len(steps) - 1:
            y += 46
            break
        gap = max(26, line_height * len(leaving) + 14)
        middle = box_width / 2
        parts.append(f'<line class="box" x1="{middle}" x2="{middle}" y1="{y + 46}" y2="{y + 46 + gap - 5}"/>')
        parts.append(f'<path class="box" d="M{middle - 4} {y + 40 + gap} l4 5 l4 -5"/>')
        if leaving:
            at = y + 46 + gap / 2
            parts.append(f'<line class="axis" x1="{middle}" x2="{box_width + 10}" y1="{at}" y2="{at}"/>')
            start = at - line_height * (len(leaving) - 1) / 2 + 4
            for offset, line in enumerate(leaving):
                parts.append(f'<text x="{box_width + 18}" y="{start + offset * line_height}">{escape(line)}</text>')
        y += 46 + gap
    return svg(parts, y + 3, title)


def padded(values: Sequence[float] | np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """The range of values with a margin on either side, which is a share of the range."""
    low, high = float(np.min(values)), float(np.max(values))
    margin = share * (high - low) if high > low else abs(high) * 0.1 or 0.5
    return low - margin, high + margin
