"""Which columns of a design nearly tell the same thing, so that their effects are hard to tell apart."""

from __future__ import annotations

import numpy as np

from brainscm.scm.design import Array, Design

HIGH_VIF = 10.0
HIGH_CONDITION = 30.0


def collinearity(item: str, design: Design, x: Array) -> list[tuple[str, str, float, str]]:
    """Rows (check, item, value, warning) of a design's condition number and variance inflation.

    An offset is no column of it: its coefficient need not be told apart from others.
    """
    condition = condition_number(x[:, ~design.is_offset])
    rows = [
        (
            "condition_number",
            item,
            condition,
            f"the columns of {item} are nearly collinear" if condition > HIGH_CONDITION else "",
        )
    ]
    for name, (factor, partner) in variance_inflation(x, design).items():
        high = f"{name} and {partner}: VIF {factor:.3g}, hard to tell apart" if factor > HIGH_VIF else ""
        rows.append(("vif", f"{item}: {name}", factor, high))
    return rows


def variance_inflation(x: Array, design: Design) -> dict[str, tuple[float, str]]:
    """Variance inflation of each node's columns together, and the node that it is most shared with.

    The generalised factor of Fox & Monette (1992), GVIF = det R_a det R_b / det R, to the power 1/df so that it
    compares with the VIF of a single column. Interactions count for the node that the formula names first.
    """
    x, nodes = x[:, ~design.is_offset], [design.nodes[i] for i in np.flatnonzero(~design.is_offset)]
    owners = [next((name for name in design.formula.names if name in each), "") for each in nodes]
    names = list(dict.fromkeys(owner for owner in owners if owner))
    correlation = np.corrcoef(x[:, 1:], rowvar=False).reshape(x.shape[1] - 1, -1) if names else np.empty((0, 0))

    def factor(columns: list[int], others: list[int]) -> float:
        if not others:
            return 1.0
        logs = [np.linalg.slogdet(correlation[np.ix_(c, c)])[1] for c in (columns, others, columns + others)]
        return float(np.exp((logs[0] + logs[1] - logs[2]) / len(columns)))

    own = {name: [i for i, owner in enumerate(owners[1:]) if owner == name] for name in names}
    result = {}
    for name in names:
        pairs = {other: factor(own[name], own[other]) for other in names if other != name}
        everyone = [i for other in names if other != name for i in own[other]]
        result[name] = (factor(own[name], everyone), max(pairs, key=lambda other: pairs[other]) if pairs else "")
    return result


def condition_number(x: Array) -> float:
    """Condition number of the design with centred columns of unit length (units and means do not matter)."""
    centred = x[:, 1:] - x[:, 1:].mean(axis=0)
    return float(np.linalg.cond(centred / np.linalg.norm(centred, axis=0))) if centred.size else 1.0
