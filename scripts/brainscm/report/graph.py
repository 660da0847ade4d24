"""The declared graph as a drawing: layers from causes to effects, arrows that pass between the boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from brainscm.report.charts import svg

BOX, BOX_HEIGHT, LANE, GAP = 132, 44, 34, 58
ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 Z" style="fill:var(--muted)"/></marker></defs>'
)

Parents = Mapping[str, Sequence[str]]


def draw_graph(
    parents: Parents,
    notes: Mapping[str, str],
    title: str,
    claims: Mapping[str, Sequence[str]] | None = None,
    contradicted: Iterable[tuple[str, str]] = (),
) -> Markup:
    """A directed acyclic graph, each node one layer below its lowest parent; `notes` go under the names.

    Args:
        claims: what each node should not depend on, in sentences that its box tells under the mouse.
        contradicted: pairs of nodes that should be independent and are not: joined by a dashed line.
    """
    depth = _layers(parents)
    at, width = _places(parents, depth)
    drawn = [ARROW]
    for node, above in parents.items():
        for parent in above:
            # From the parent down its own lane, then to the node.
            stops = [at[parent, level] for level in range(depth[parent], depth[node])] + [at[node, depth[node]]]
            drawn.append(f'<path class="box" style="fill:none" marker-end="url(#arrow)" d="{_path(stops)}"/>')
    for pair in contradicted:
        (x, y), (to_x, to_y) = sorted((at[node, depth[node]] for node in pair), key=lambda place: place[1])
        # Within a layer through the middles of the boxes, which hide what they cover.
        start, end = (y + BOX_HEIGHT, to_y) if to_y > y else (y + BOX_HEIGHT // 2, to_y + BOX_HEIGHT // 2)
        drawn.append(f'<path class="line test dashed" d="M{x:.0f} {start} L{to_x:.0f} {end}"/>')
    for node, level in depth.items():
        x, y = at[node, level]
        told = escape("; ".join((claims or {}).get(node, ())))
        drawn.append(
            f'<rect class="box" x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{BOX_HEIGHT}" rx="5">'
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


def _places(parents: Parents, depth: Mapping[str, int]) -> tuple[dict[tuple[str, int], tuple[float, int]], int]:
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
        sizes = [LANE if name in lanes else BOX + 20 for name in order]
        ends = np.cumsum(sizes)
        for name, size, end in zip(order, sizes, ends, strict=True):
            centred[name, level] = float(end - size / 2 - ends[-1] / 2)
        widest = max(widest, float(ends[-1]))
    places = {(name, level): (x + widest / 2, level * (BOX_HEIGHT + GAP) + 4) for (name, level), x in centred.items()}
    return places, round(widest)


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
