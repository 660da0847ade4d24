"""Nodes without a formula that go together: one of them may stand downstream of another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pandas as pd
import scipy.stats

LEVEL = 0.01


def associations(values: pd.DataFrame, nodes: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """(node, other, p) of each two nodes, p adjusted for all of them (Bonferroni).

    Numbers by Spearman's rank correlation, numbers and levels by Kruskal and Wallis's test, levels by χ². Two of which
    one does not vary are left out.

    Args:
        values: node values of independent scans, numbers or categories (`Covariates.read`).
        nodes: which of them.
    """
    varied = [node for node in nodes if values[node].dropna().nunique() > 1]
    pairs = list(itertools.combinations(varied, 2))
    for node, other in pairs:
        known = values[[node, other]].dropna()
        if known.nunique().min() > 1:
            yield node, other, min(_p(known[node], known[other]) * len(pairs), 1.0)


def association_warning(node: str, other: str, p: float) -> str:
    """What such two mean for interventions; "" where they can be independent."""
    if not p < LEVEL:
        return ""
    return (
        f"{node} and {other} go together (p = {p:.2g}) and have no formula, so that setting one leaves the other as it "
        f"is; if one causes the other, write so under scm.nodes"
    )


def _p(a: pd.Series, b: pd.Series) -> float:
    levels = [isinstance(each.dtype, pd.CategoricalDtype) for each in (a, b)]
    if not any(levels):
        return float(scipy.stats.spearmanr(a, b).pvalue)
    if all(levels):
        return float(scipy.stats.chi2_contingency(pd.crosstab(a, b)).pvalue)
    number, level = (b, a) if levels[0] else (a, b)
    groups = [each.to_numpy() for _, each in number.groupby(level, observed=True)]
    return float(scipy.stats.kruskal(*groups).pvalue)
