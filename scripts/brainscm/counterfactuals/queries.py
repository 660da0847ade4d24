"""What a query asks of whom: the scans it selects, their new node values and the steps of their design rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.errors import ConfigError
from brainscm.scm.design import Array
from brainscm.scm.formula import nearest
from brainscm.scm.model import NOTHING_STANDS_OUT, Scm


@dataclass(frozen=True)
class Plan:
    """A query worked out for n scans, all but the images.

    Attributes:
        query: as asked.
        table: factual rows. changed: the same under the intervention.
        step: (n, p) change of the image node's design rows.
        drawn_steps: (K, n, p) the same under each draw of the node models' parameters.
        support: one row a scan, see `Scm.support`.
    """

    query: QueryOptions
    table: pd.DataFrame
    changed: pd.DataFrame
    step: Array
    drawn_steps: Array
    support: pd.DataFrame


def plan_query(scm: Scm, table: pd.DataFrame, query: QueryOptions) -> Plan:
    """Abduct, act and predict for all scans of a query at once; no image is touched.

    Raises:
        ConfigError: an unknown node or level.
        ScanError: a row that cannot be used (see `Scm.problems`).
    """
    factual = scm.design_matrix(table)
    changed = scm.intervene(table, query.do, query.effect)
    drawn = []
    for k in range(scm.draws):
        mediated = query.effect == "total" and scm.graph.descendants(tuple(query.do))
        drawn_table = scm.draw(k).intervene(table, query.do, query.effect) if mediated else changed
        drawn.append(scm.design_matrix(drawn_table) - factual)
    support = scm.support(changed, tuple(query.do))
    reaches = scm.graph.reaches_image(query.do) if query.effect == "total" else {*query.do} & {*scm.graph.image.names}
    if not reaches:
        _warn(support, f"nothing leads from {', '.join(query.do)} to the image in the graph")
    elif scm.image.is_flat:
        _warn(support, f"no change is shown: {NOTHING_STANDS_OUT}")
    return Plan(query, table, changed, scm.design_matrix(changed) - factual, np.array(drawn), support)


def _warn(support: pd.DataFrame, words: str) -> None:
    support["warning"] = support["warning"].map(lambda before: f"{before}; {words}" if before else words)


def select_scans(table: pd.DataFrame, query: QueryOptions) -> pd.DataFrame:
    """The rows that a query is put to: the test split, all, or the scans and participants that it lists.

    Raises:
        ConfigError: a listed id is neither a scan nor a participant of the cohort.
    """
    if query.scans == "all":
        return table
    if query.scans == "test":
        return table[table["split"] == "test"]
    chosen = pd.Series(False, index=table.index)
    for wanted in query.scans:
        is_wanted = table["scan"].isin([wanted, f"sub-{wanted}"]) | table["participant"].isin([wanted, f"sub-{wanted}"])
        if not is_wanted.any():
            known = [*table["scan"].astype(str), *table["participant"].astype(str)]
            hint = nearest(wanted, known) if len(known) < 20 or "did" in nearest(wanted, known) else "see scans.tsv."
            raise ConfigError(
                f"config: counterfactuals ({query.name}).scans: '{wanted}' is neither a scan nor a participant; {hint}"
            )
        chosen |= is_wanted
    return table[chosen]
