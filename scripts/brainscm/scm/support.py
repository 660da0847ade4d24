"""Can the training scans answer this question? Leverage, positivity and extrapolation of each query point."""

from __future__ import annotations

import pandas as pd

from brainscm.scm.covariates import Covariates
from brainscm.scm.design import Array
from brainscm.scm.neighbours import Neighbours


def support(
    *,
    values: pd.DataFrame,
    leverage: Array,
    max_leverage: float,
    neighbours: Neighbours,
    near: tuple[str, ...],
    image_parents: tuple[str, ...],
    covariates: Covariates,
) -> pd.DataFrame:
    """Diagnose query points.

    Args:
        values: node values of the query points.
        leverage: of their design rows; max_leverage: the largest of a training scan.
        neighbours: of the training participants.
        near: nodes in which positivity is counted: the exogenous ones and those intervened on.
        image_parents: nodes whose training range matters to the image.
        covariates: ranges, levels and units.

    Returns:
        One row a query point: `leverage`, `leverage_ratio` (to the training maximum), `positivity` (training
        participants within half a standard deviation in each number of `near` and with the same levels),
        `extrapolation` (outside a training range, or leverage above the training maximum) and `warning` in words.
    """
    positivity = neighbours.count(values, near)
    numeric = [name for name in dict.fromkeys((*near, *image_parents)) if name in covariates.ranges]
    points = {name: values[name].to_numpy(dtype=float) for name in numeric}
    rows = []
    for at, count in enumerate(positivity):
        warnings = [words for name in numeric if (words := covariates.outside(name, points[name][at]))]
        outside = bool(warnings)
        beyond = leverage[at] > max_leverage * (1 + 1e-9)
        if beyond and not outside:
            warnings.append(
                f"this combination lies further out than any training scan "
                f"(leverage {leverage[at]:.2g}, in training at most {max_leverage:.2g})"
            )
        if count == 0:
            warnings.append(f"no training participant is near in {', '.join(near)}")
        rows.append(
            {
                "leverage": leverage[at],
                "leverage_ratio": leverage[at] / max_leverage,
                "positivity": int(count),
                "extrapolation": outside or bool(beyond),
                "warning": "; ".join(warnings),
            }
        )
    columns = ["leverage", "leverage_ratio", "positivity", "extrapolation", "warning"]
    return pd.DataFrame(rows, index=values.index, columns=columns)
