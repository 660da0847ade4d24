"""The list of all counterfactuals asked for: one row a scan and query, also for those that could not be made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.config import QueryOptions

LEADING = ("scan", "participant", "session", "query", "trajectory", "do", "effect", "decode", "status", "reason")
# What the names of a query's volumes have behind its label, by column: in template space, and on the raw scan's grid.
SUFFIXES = {"path": "", "difference_path": "Difference", "uncertainty_path": "Uncertainty"}
NATIVE = {f"native_{column}": suffix for column, suffix in SUFFIXES.items()}
JACOBIAN = {"jacobian_path": "LogJacobian"}
TRAILING = (
    "leverage", "leverage_ratio", "positivity", "extrapolation", "warning", "pass_through", *SUFFIXES, *NATIVE,
    *JACOBIAN, "group_path", "group_error_path",
)  # fmt: skip


def volume_suffixes(query: QueryOptions) -> dict[str, str]:
    """What is written for a query and scan, by column of the manifest."""
    return {**SUFFIXES, **(NATIVE if query.native != "none" else {}), **(JACOBIAN if query.jacobian else {})}


def manifest_row(scan: pd.Series, query: QueryOptions, **outcome: Any) -> dict[str, Any]:
    """One row: who was asked what, and the outcome (status `pass` with values and paths, or `fail` with a reason)."""
    return {
        "scan": scan["scan"],
        "participant": scan["participant"],
        "session": scan.get("session"),
        "query": query.name,
        "trajectory": query.trajectory,
        "do": json.dumps(query.do),
        "effect": query.effect,
        "decode": query.decode,
        **outcome,
    }


def manifest_table(rows: list[dict[str, Any]], nodes: list[str]) -> pd.DataFrame:
    """Put the columns in order; a node's values stand as `factual_<node>` and `counterfactual_<node>`."""
    values = [f"{kind}_{node}" for node in nodes for kind in ("factual", "counterfactual")]
    # As objects: a count beside a row that has none would become 5.0.
    table = pd.DataFrame(rows, columns=[*LEADING, *values, *TRAILING], dtype=object)
    table["warning"] = table["warning"].replace("", None)
    table["extrapolation"] = table["extrapolation"].map({True: "true", False: "false"})
    return table


def join_parts(parts: Sequence[Path], queries: Sequence[str], scans: Sequence[str]) -> pd.DataFrame:
    """Tables of queries and scans as they are written, one below the other, in the order of both."""
    table = pd.concat([pd.read_csv(part, sep="\t", dtype=str, keep_default_na=False) for part in parts])
    query, scan = ({name: place for place, name in enumerate(names)} for names in (queries, scans))
    places = pd.DataFrame({"query": table["query"].map(query).array, "scan": table["scan"].map(scan).array})
    order = places.sort_values(["query", "scan"], kind="stable").index
    return table.iloc[order].reset_index(drop=True)
