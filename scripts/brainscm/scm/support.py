"""Can the training scans answer this question? Leverage, positivity and extrapolation of each query point."""

from __future__ import annotations

import numpy as np
import pandas as pd

from brainscm.scm.covariates import Covariates
from brainscm.scm.design import Array

NEAR_SD = 0.5


def support(
    *,
    values: pd.DataFrame,
    leverage: Array,
    max_leverage: float,
    training: pd.DataFrame,
    participants: pd.Series,
    near: tuple[str, ...],
    image_parents: tuple[str, ...],
    covariates: Covariates,
) -> pd.DataFrame:
    """Diagnose query points.

    Args:
        values: node values of the query points.
        leverage: of their design rows; max_leverage: the largest of a training scan.
        training: node values of the training scans; participants: of the same rows.
        near: nodes in which positivity is counted: the exogenous ones and those intervened on.
        image_parents: nodes whose training range matters to the image.
        covariates: ranges, levels and units.

    Returns:
        One row a query point: `leverage`, `leverage_ratio` (to the training maximum), `positivity` (training
        participants within half a standard deviation in each number of `near` and with the same levels),
        `extrapolation` (outside a training range, or leverage above the training maximum) and `warning` in words.
    """
    sd = {name: training[name].std() or 1.0 for name in near if covariates.levels[name] is None}
    rows = []
    for position, (_, point) in enumerate(values.iterrows()):
        close = np.ones(len(training), dtype=bool)
        for name in near:
            if covariates.levels[name] is None:
                close &= (training[name] - point[name]).abs().to_numpy() <= NEAR_SD * sd[name]
            else:
                close &= (training[name] == point[name]).to_numpy()
        positivity = participants[close].nunique()
        numeric = [name for name in dict.fromkeys((*near, *image_parents)) if name in covariates.ranges]
        warnings = [words for name in numeric if (words := covariates.outside(name, point[name]))]
        outside = bool(warnings)
        beyond = leverage[position] > max_leverage * (1 + 1e-9)
        if beyond and not outside:
            warnings.append(
                f"this combination lies further out than any training scan "
                f"(leverage {leverage[position]:.2g}, in training at most {max_leverage:.2g})"
            )
        if positivity == 0:
            warnings.append(f"no training participant is near in {', '.join(near)}")
        rows.append(
            {
                "leverage": leverage[position],
                "leverage_ratio": leverage[position] / max_leverage,
                "positivity": positivity,
                "extrapolation": outside or bool(beyond),
                "warning": "; ".join(warnings),
            }
        )
    columns = ["leverage", "leverage_ratio", "positivity", "extrapolation", "warning"]
    return pd.DataFrame(rows, index=values.index, columns=columns)
