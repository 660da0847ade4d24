"""What a query asks of which scans: those that it selects, their new node values and the steps of their design rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.questions import is_relative, select_scans
from brainscm.scans import ScanTable
from brainscm.scm.covariates import check_change
from brainscm.scm.design import Array
from brainscm.scm.graph import Graph
from brainscm.scm.model import NOTHING_STANDS_OUT, SILENT, Scm
from brainscm.scm.slope_spread import years_asked


@dataclass(frozen=True)
class Plan:
    """A query worked out for n scans, all but the images.

    Attributes:
        query: as asked. asked: the scans that it selects, also those that cannot be used.
        rows: factual rows of the n that can, indexed by scan id. changed: the same under the intervention.
        values: the nodes' values of both, in columns `factual_<node>` and `counterfactual_<node>`.
        step: (n, p) change of the image node's design rows.
        drawn_steps: (K, n, p) the same under each draw of the node models' parameters.
        support: one row a scan, see `Scm.support`.
        years: (n,) the change that is one in time, see `years_asked`.
    """

    query: QueryOptions
    asked: tuple[str, ...]
    rows: pd.DataFrame
    changed: pd.DataFrame
    values: pd.DataFrame
    step: Array
    drawn_steps: Array
    support: pd.DataFrame
    years: Array

    @cached_property
    def positions(self) -> dict[str, int]:
        """Where each scan that can be used stands among the n."""
        return {scan: position for position, scan in enumerate(self.rows["scan"])}

    def told(self, scan: str) -> dict[str, Any]:
        """What the manifest tells of a scan: the nodes' values, and how the training scans support the answer."""
        at = self.positions[scan]
        return {str(column): table[column].iloc[at] for table in (self.values, self.support) for column in table}


def plan_for(scm: Scm, scans: ScanTable, query: QueryOptions) -> Plan:
    """Put a query to the scans that it selects, and work it out for those of them that can be used.

    Raises:
        ConfigError: an unknown node, level or scan, a filter that takes no scan, or a relative change after which a
            scan has no value that the node's family takes.
    """
    asked = select_scans(scans.rows, query)["scan"]
    rows = scans.usable[scans.usable["scan"].isin(asked)]
    for node, value in query.do.items():
        if is_relative(value) and scm.covariates.levels.get(node, ()) is None:
            changed = scm.values(rows)[node] + float(value)
            where = f"config: counterfactuals ({query.name})"
            check_change(where, scm.options.nodes[node], node, value, changed.set_axis(rows["scan"]))
    plan = plan_query(scm, rows, query)
    return replace(plan, asked=tuple(asked))


def plan_query(scm: Scm, rows: pd.DataFrame, query: QueryOptions) -> Plan:
    """Abduct, act and predict for all of these scans at once; no image is touched.

    Raises:
        ConfigError: an unknown node or level.
        ScanError: a row that cannot be used (see `Scm.problems`).
    """
    factual = scm.design_matrix(rows)
    changed, support = outline(scm, rows, query)
    step = scm.design_matrix(changed) - factual
    mediated = query.effect == "total" and scm.graph.descendants(tuple(query.do))
    drawn = [
        scm.design_matrix(scm.draw(k).intervene(rows, query.do, query.effect)) - factual if mediated else step
        for k in range(scm.draws)
    ]
    values = pd.concat(
        [scm.values(rows).add_prefix("factual_"), scm.values(changed).add_prefix("counterfactual_")], axis=1
    )
    years = years_asked(scm, rows, changed, query.effect)
    return Plan(query, tuple(rows["scan"]), rows, changed, values, step, np.array(drawn), support, years)


def outline(scm: Scm, rows: pd.DataFrame, query: QueryOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows under the intervention, and how far the training scans support each answer, with warnings in words.

    Raises: see `plan_query`.
    """
    changed = scm.intervene(rows, query.do, query.effect)
    support = scm.support(changed, tuple(query.do))
    if not reaches_image(scm.graph, query):
        _warn(support, f"nothing leads from {', '.join(query.do)} to the image in the graph")
    elif scm.image.is_flat:
        _warn(support, f"no change is shown: {NOTHING_STANDS_OUT}")
    else:
        moved = [*query.do, *(scm.graph.descendants(tuple(query.do)) if query.effect == "total" else ())]
        named = [node for node in moved if node in scm.graph.image.names]
        if not scm.moves_image(named):
            _warn(support, f"no change is shown: {SILENT.format(' or '.join(named))}")
    return changed, support


def reaches_image(graph: Graph, query: QueryOptions) -> bool:
    """Whether the graph lets a query change the image."""
    if query.effect == "total":
        return graph.reaches_image(query.do)
    return not {*query.do}.isdisjoint(graph.image.names)


def _warn(support: pd.DataFrame, words: str) -> None:
    support["warning"] = support["warning"].map(lambda before: f"{before}; {words}" if before else words)
