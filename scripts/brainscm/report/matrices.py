"""A design as statisticians look at it: its matrix, and how its columns go together."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from brainscm.report import pictures
from brainscm.report.charts import WIDTH, svg
from brainscm.report.words import signed

ROWS = 400  # scans of a drawn design
LABEL = 6.3  # px a letter


def draw_design(design: pd.DataFrame, title: str) -> Markup:
    """A row a scan, a column a term; each column from its lowest value (dark) to its highest (light)."""
    values = design.to_numpy(dtype=float)
    values = values[np.linspace(0, len(values) - 1, min(len(values), ROWS)).round().astype(int)]
    spread = np.ptp(values, axis=0)
    unit = np.where(spread > 0, (values - values.min(axis=0)) / np.where(spread > 0, spread, 1), 1.0)
    top, height = _room(design), 220
    width = (WIDTH - 10) / values.shape[1]
    parts = _turned(design, width, 0, top)
    parts.append(
        f'<image href="{pictures.pixels(unit)}" x="0" y="{top}" width="{WIDTH - 10}" height="{height}" '
        'preserveAspectRatio="none" style="image-rendering: pixelated"/>'
        # A column of the highest value alone would be lost on a light page.
        f'<rect class="axis" x="0" y="{top}" width="{WIDTH - 10}" height="{height}" fill="none"/>'
    )
    return svg(parts, top + height + 4, title)


def draw_correlations(design: pd.DataFrame, title: str) -> Markup:
    """The correlation of each two columns that vary; nothing where there are no two."""
    varied = design.loc[:, design.std() > 0]
    if varied.shape[1] < 2:
        return Markup("")
    found = varied.corr().to_numpy()
    names, count = [str(name) for name in varied], varied.shape[1]
    left, top = 12 + LABEL * max(map(len, names)), _room(varied)
    size = min(44.0, (WIDTH - 10 - left) / count)
    parts = _turned(varied, size, left, top)
    for row, name in enumerate(names):
        y = top + row * size
        parts.append(f'<text x="{left - 8:.1f}" y="{y + size / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for column in range(count):
            r, x = found[row, column], left + column * size
            told = f"{names[row]} and {names[column]}: r = {signed(f'{r:.2f}')}"
            colour = "--test" if r > 0 else "--train"
            fill = f"color-mix(in srgb, var({colour}) {100 * abs(r):.0f}%, var(--paper))"
            cell = f'<rect x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}" style="fill: {fill}"/>'
            shown = ""
            if size >= 30 and row != column:
                shown = f'<text class="strong" x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" '
                shown += f'text-anchor="middle">{signed(f"{r:.2f}")}</text>'
            parts.append(f"<g><title>{escape(told)}</title>{cell}{shown}</g>")
    return svg(parts, top + count * size + 4, title)


def _room(design: pd.DataFrame) -> float:
    return 14 + LABEL * 0.8 * max(len(str(name)) for name in design)


def _turned(design: pd.DataFrame, width: float, left: float, top: float) -> list[str]:
    """The columns' names, slanting up from each column."""
    parts = []
    for place, name in enumerate(design):
        x = left + (place + 0.5) * width
        parts.append(
            f'<text x="{x:.1f}" y="{top - 6:.1f}" transform="rotate(-50 {x:.1f} {top - 6:.1f})">{escape(name)}</text>'
        )
    return parts
