"""The declared graph as a drawing: layers from causes to effects, arrows that pass between the boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from brainscm.report.charts import CHARACTER, svg

LEAST_BOX, BOX_HEIGHT, LANE, GAP = 132, 44, 34, 58
ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 Z" style="fill:var(--muted)"/></marker></defs>'
)

Parents = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class MissingArrow:
    """An arrow that the graph leaves out; `style` is a CSS class, `title` what its test found."""

    start: str
    end: str
    style: str
    title: str


def draw_graph(parents: Parents, notes: Mapping[str, str], title: str, missing: Sequence[MissingArrow] = ()) -> Markup:
    """A directed acyclic graph, each node one layer below its lowest parent; `notes` go under the names.

    Missing arrows are dashed, from box to box, and lie under all else; where they end, the box tells their tests under
    the mouse.
    """
    depth = _layers(parents)
    # Names are bold, notes are smaller.
    longest = max([1.1 * len(name) for name in depth] + [0.92 * len(note) for note in notes.values()])
    box = max(LEAST_BOX, round(14 + CHARACTER * longest))
    at, width = _places(parents, depth, box)
    drawn = [ARROW]
    for arrow in missing:
        start, end = (at[name, depth[name]] for name in (arrow.start, arrow.end))
        drawn.append(
            f'<g class="claim {arrow.style}"><title>{escape(arrow.title)}</title>'
            f'<path d="{_bow(start, end, width, box)}"/></g>'
        )
    for node, above in parents.items():
        for parent in above:
            # From the parent down its own lane, then to the node.
            stops = [at[parent, level] for level in range(depth[parent], depth[node])] + [at[node, depth[node]]]
            drawn.append(f'<path class="box" style="fill:none" marker-end="url(#arrow)" d="{_path(stops)}"/>')
    for node, level in depth.items():
        x, y = at[node, level]
        told = escape("; ".join(arrow.title for arrow in missing if arrow.end == node))
        drawn.append(
            f'<rect class="box" x="{x - box / 2:.0f}" y="{y}" width="{box}" height="{BOX_HEIGHT}" rx="5">'
            f"{Markup('<title>{}</title>').format(told) if told else ''}</rect>"
        )
        drawn.append(f'<text class="strong" x="{x:.0f}" y="{y + 19}" text-anchor="middle">{escape(node)}</text>')
        note = escape(notes.get(node, ""))
        drawn.append(f'<text x="{x:.0f}" y="{y + 35}" text-anchor="middle" font-size="11">{note}</text>')
    height = (max(depth.values()) + 1) * (BOX_HEIGHT + GAP) - GAP + 8
    return svg(drawn, height, title, width)


def _layers(parents: Parents) -> dict[str, int]:
    depth: dict[str, int] = {}

    def visit(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((visit(parent) for parent in parents.get(node, ())), default=-1)
        return depth[node]

    for node in parents:
        visit(node)
    return depth


def _places(
    parents: Parents, depth: Mapping[str, int], box: int
) -> tuple[dict[tuple[str, int], tuple[float, int]], int]:
    """Top centre of each node's box, and of each source's lane in the layers that its arrows pass; and the width.

    Layers are ordered by the mean place of what leads into them (Sugiyama et al. 1981); arrows from one source share
    one lane a layer, which keeps a dense graph readable.
    """
    reach = {source: max([depth[n] for n, above in parents.items() if source in above], default=0) for source in depth}
    centred: dict[tuple[str, int], float] = {}
    widest = 320.0
    for level in range(max(depth.values()) + 1):
        nodes = [node for node in depth if depth[node] == level]
        lanes = [source for source in depth if depth[source] < level < reach[source]]
        wish = {lane: centred[lane, level - 1] for lane in lanes}
        wish |= {node: float(np.mean([centred[p, level - 1] for p in parents[node]])) for node in nodes if level}
        order = sorted([*nodes, *lanes], key=lambda name: wish.get(name, 0.0))
        sizes = [LANE if name in lanes else box + 20 for name in order]
        ends = np.cumsum(sizes)
        for name, size, end in zip(order, sizes, ends, strict=True):
            centred[name, level] = float(end - size / 2 - ends[-1] / 2)
        widest = max(widest, float(ends[-1]))
    places = {(name, level): (x + widest / 2, level * (BOX_HEIGHT + GAP) + 4) for (name, level), x in centred.items()}
    return places, round(widest)


def _bow(start: tuple[float, int], end: tuple[float, int], width: float, box: int) -> str:
    """A curve between the middles of two boxes, bent towards the nearer side of the drawing, where fewer arrows run."""
    (x0, y0), (x1, y1) = ((x, y + BOX_HEIGHT / 2) for x, y in (start, end))
    side = 1 if (x0 + x1) / 2 >= width / 2 else -1
    x = min(max((x0 + x1) / 2 + side * 0.62 * box, 4), width - 4)
    return f"M{x0:.0f} {y0:.0f} Q{x:.0f} {(y0 + y1) / 2:.0f} {x1:.0f} {y1:.0f}"


def _path(stops: Sequence[tuple[float, int]]) -> str:
    """A smooth line through the tops of the stops; between, it passes straight down beside the boxes."""
    x, y = stops[0][0], stops[0][1] + BOX_HEIGHT
    path = f"M{x:.0f} {y}"
    for index, (next_x, next_y) in enumerate(stops[1:], start=1):
        last = index == len(stops) - 1
        bend = 0.55 * (next_y - y)
        path += (
            f" C{x:.0f} {y + bend:.0f} {next_x:.0f} {next_y - bend:.0f} {next_x:.0f} {next_y - 2 if last else next_y}"
        )
        x, y = next_x, next_y + BOX_HEIGHT
        if not last:
            path += f" V{y}"
    return path
