"""What a statistician looks at before believing a fit: who was used, collinearity, conditioning, counts, leverage."""

from __future__ import annotations

import numpy as np
import pandas as pd

from brainscm.scm.design import Array, Design
from brainscm.scm.model import Scm

HIGH_VIF = 10.0
HIGH_CONDITION = 30.0
FEW_PEOPLE = 10


def diagnose(scm: Scm, offered: int) -> pd.DataFrame:
    """List diagnostics in long form: `check`, `item`, `value`, and a `warning` in words where there is cause.

    Args:
        scm: the fitted model.
        offered: number of training scans before those with missing covariates were left out.
    """
    rows: list[tuple[str, str, float, str]] = []
    used, people = len(scm.training), scm.training["participant"].nunique()
    left_out = f"{offered - used} training scans lack a covariate and were left out" if offered > used else ""
    rows.append(("training_scans", "used", used, left_out))
    repeated = "several scans a participant: standard errors are clustered by participant" if people < used else ""
    rows.append(("training_participants", "used", people, repeated))
    rows.append(("degrees_of_freedom", "image", scm.image.degrees_of_freedom, ""))
    x = scm.design_matrix(scm.training)
    rows.append(("max_leverage", "image", scm.image.max_leverage, _leverage_warning(scm, x)))
    rows += _collinearity("image", scm.design, x)
    for name, node in scm.nodes.items():
        rows += _collinearity(name, node.design, node.design.matrix(scm.training_values))
        rows.append(("node_fit", name, 1.0 if not node.note else 0.0, node.note))
    for name, levels in scm.covariates.levels.items():
        for level in levels or ():
            count = scm.training["participant"][(scm.training_values[name] == level).to_numpy()].nunique()
            few = f"only {count} training participants have {name} {level}" if count < FEW_PEOPLE else ""
            rows.append(("participants_in_level", f"{name}={level}", count, few))
        if levels is None:
            low, high = scm.covariates.ranges[name]
            rows += [("training_minimum", name, low, ""), ("training_maximum", name, high, "")]
    for contrast, ends in scm.options.contrasts.items():
        for target, values in ends.items():
            if scm.covariates.levels[target] is None:
                words = [scm.covariates.outside(target, float(value)) for value in values]
                rows += [("contrast_range", contrast, float(v), w) for v, w in zip(values, words, strict=True) if w]
    return pd.DataFrame(
        [(check, item, value, warning or None) for check, item, value, warning in rows],
        columns=["check", "item", "value", "warning"],
    )


def variance_inflation(x: Array, design: Design) -> dict[str, tuple[float, str]]:
    """Variance inflation of each node's columns together, and the node that it is most shared with.

    The generalised factor of Fox & Monette (1992), GVIF = det R_a det R_b / det R, to the power 1/df so that it
    compares with the VIF of a single column. Interactions count for the node that the formula names first.
    """
    owners = [next((name for name in design.formula.names if name in nodes), "") for nodes in design.nodes]
    names = list(dict.fromkeys(owner for owner in owners if owner))
    correlation = np.corrcoef(x[:, 1:], rowvar=False).reshape(x.shape[1] - 1, -1)

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


def _collinearity(item: str, design: Design, x: Array) -> list[tuple[str, str, float, str]]:
    condition = condition_number(x)
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


def _leverage_warning(scm: Scm, x: Array) -> str:
    leverage = scm.image.leverage(x)
    worst = int(np.argmax(leverage))
    if leverage[worst] < 0.9:
        return ""
    return f"{scm.training['scan'].iloc[worst]} alone decides some coefficient (leverage {leverage[worst]:.2g})"
