"""What a query asks of which scans: those that it selects, their new node values and the steps of their design rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.errors import ConfigError
from brainscm.scans import ScanTable
from brainscm.scm.design import Array
from brainscm.scm.formula import nearest
from brainscm.scm.model import NOTHING_STANDS_OUT, Scm


@dataclass(frozen=True)
class Plan:
    """A query worked out for n scans, all but the images.

    Attributes:
        query: as asked. asked: the scans that it selects, also those that cannot be used.
        rows: factual rows of the n that can, indexed by scan id. changed: the same under the intervention.
        step: (n, p) change of the image node's design rows.
        drawn_steps: (K, n, p) the same under each draw of the node models' parameters.
        support: one row a scan, see `Scm.support`.
    """

    query: QueryOptions
    asked: tuple[str, ...]
    rows: pd.DataFrame
    changed: pd.DataFrame
    step: Array
    drawn_steps: Array
    support: pd.DataFrame

    def position(self, scan: str) -> int:
        """Where a scan that can be used stands among the n."""
        return self.rows["scan"].tolist().index(scan)


def plan_for(scm: Scm, scans: ScanTable, query: QueryOptions) -> Plan:
    """Put a query to the scans that it selects, and work it out for those of them that can be used.

    Raises:
        ConfigError: an unknown node, level or scan.
    """
    asked = select_scans(scans.rows, query)["scan"]
    plan = plan_query(scm, scans.usable[scans.usable["scan"].isin(asked)], query)
    return replace(plan, asked=tuple(asked))


def plan_query(scm: Scm, rows: pd.DataFrame, query: QueryOptions) -> Plan:
    """Abduct, act and predict for all of these scans at once; no image is touched.

    Raises:
        ConfigError: an unknown node or level.
        ScanError: a row that cannot be used (see `Scm.problems`).
    """
    factual = scm.design_matrix(rows)
    changed = scm.intervene(rows, query.do, query.effect)
    drawn = []
    for k in range(scm.draws):
        mediated = query.effect == "total" and scm.graph.descendants(tuple(query.do))
        drawn_rows = scm.draw(k).intervene(rows, query.do, query.effect) if mediated else changed
        drawn.append(scm.design_matrix(drawn_rows) - factual)
    support = scm.support(changed, tuple(query.do))
    reaches = scm.graph.reaches_image(query.do) if query.effect == "total" else {*query.do} & {*scm.graph.image.names}
    if not reaches:
        _warn(support, f"nothing leads from {', '.join(query.do)} to the image in the graph")
    elif scm.image.is_flat:
        _warn(support, f"no change is shown: {NOTHING_STANDS_OUT}")
    step = scm.design_matrix(changed) - factual
    return Plan(query, tuple(rows["scan"]), rows, changed, step, np.array(drawn), support)


def _warn(support: pd.DataFrame, words: str) -> None:
    support["warning"] = support["warning"].map(lambda before: f"{before}; {words}" if before else words)


def select_scans(rows: pd.DataFrame, query: QueryOptions) -> pd.DataFrame:
    """The rows that a query is put to: the test split, all, or the scans and participants that it lists.

    Raises:
        ConfigError: a listed id is neither a scan nor a participant of the cohort.
    """
    if query.scans == "all":
        return rows
    if query.scans == "test":
        return rows[rows["split"] == "test"]
    chosen = pd.Series(False, index=rows.index)
    for wanted in query.scans:
        is_wanted = rows["scan"].isin([wanted, f"sub-{wanted}"]) | rows["participant"].isin([wanted, f"sub-{wanted}"])
        if not is_wanted.any():
            known = [*rows["scan"].astype(str), *rows["participant"].astype(str)]
            hint = nearest(wanted, known) if len(known) < 20 or "did" in nearest(wanted, known) else "see scans.tsv."
            raise ConfigError(
                f"config: counterfactuals ({query.name}).scans: '{wanted}' is neither a scan nor a participant; {hint}"
            )
        chosen |= is_wanted
    return rows[chosen]
