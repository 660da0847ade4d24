"""Components of the image's design: what of it may do much or little to the latent, each by a variance of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainscm.scm.design import Array, Design

ROUNDING = 1e-8  # of a component's largest singular value


@dataclass(frozen=True)
class Component:
    """Directions of the design whose effects are alike in size.

    Attributes:
        name: of the formula's term; what bends in a spline is `<term>, bends`.
        directions: (p, k), each a combination of the design's p columns.
        measured: whether a node of the term is a mediator that is measured from the image itself.
    """

    name: str
    directions: Array
    measured: bool = False


def components_of(design: Design, values: pd.DataFrame, measured: Collection[str]) -> tuple[Component, ...]:
    """One component a term of the image's formula, but two where a term bends: its straight line, and the rest.

    A factor's levels count alike, also the one that the others are compared with, so that coding does not matter. Of
    other terms of several columns each counts by its standard deviation, so that units do not.

    Args:
        values: of the training scans' nodes, as `design` takes them.
        measured: nodes with causes that are measured from the image itself.
    """
    x = design.matrix(values)
    centred = x - x.mean(axis=0)
    found: list[Component] = []
    for name, columns in design.terms:
        nodes = design.nodes[columns[0]]
        is_measured = not nodes.isdisjoint(measured)
        own = centred[:, columns]

        def component(name: str, weights: Array, at: list[int] = columns, is_measured: bool = is_measured) -> Component:
            directions = np.zeros((x.shape[1], weights.shape[1]))
            directions[at] = weights
            return Component(name, directions, is_measured)

        of_node = values[next(iter(nodes))] if len(nodes) == 1 else None
        if of_node is None or len(columns) == 1:
            found.append(component(name, np.diag(1 / own.std(axis=0))))
        elif isinstance(of_node.dtype, pd.CategoricalDtype):
            levels = pd.get_dummies(of_node).to_numpy(dtype=np.float64)
            found.append(component(name, _within(own, levels - levels.mean(axis=0))))
        else:
            number = of_node.to_numpy(dtype=np.float64)
            line = _within(own, (number - number.mean())[:, None])
            along = own @ line
            rest = own - along @ np.linalg.lstsq(along, own, rcond=None)[0]
            left, singular, _ = np.linalg.svd(rest, full_matrices=False)
            bends = left[:, singular > ROUNDING * np.linalg.norm(own)] * np.sqrt(len(own))
            found.append(component(name, line / along.std()))
            if bends.size:
                found.append(component(f"{name}, bends", _within(own, bends)))
    return tuple(found)


def _within(columns: Array, targets: Array) -> Array:
    """The combinations of columns (n, k) that come nearest to targets (n, m), (k, m)."""
    return np.asarray(np.linalg.lstsq(columns, targets, rcond=None)[0])
