"""Does an intervention move regional volumes as the covariate moves them across real people? No truth is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import statsmodels.api as sm

from brainscm.scm.model import Scm


def regional_slopes(
    scm: Scm, people: pd.DataFrame, counterfactuals: pd.DataFrame, regions: Sequence[str]
) -> pd.DataFrame:
    """Slopes of regional volumes on a number: across people, and within the counterfactuals of one query.

    Across people: ordinary least squares of the volume on the node, beside the image formula's other covariates (each
    as it is, or by level). For a total effect the nodes that the intervened one causes are left out, since holding them
    would take away what they pass on. A region that is itself one of the covariates has no slope. Standard errors are
    clustered by participant. `same_mask` holds the volume of the brain mask too, as a counterfactual holds the mask of
    its scan: what differences in head size, and masks that leave out more around a shrunken brain, add to the slope is
    not in it. Within counterfactuals: the mean over scans of (V' - V) / (a' - a), with its 95 % interval over
    participants' means.

    Args:
        scm: the fitted model.
        people: usable scans: scan, participant, the nodes' columns, `mask_volume_ml`, and the columns `<region>_ml`.
        counterfactuals: one row a scan and query: scan, participant, query, node, effect, `step` (a' - a), and the
            change of each region in ml.
        regions: names of the regions.

    Returns:
        One row a query, node and region; `why_null` says why a slope is missing.
    """
    rows = []
    for key, asked in counterfactuals.groupby(["query", "node", "effect"], sort=False):
        query, node, effect = map(str, key)
        design = _design(scm, people, node, effect)
        one_mask = design.assign(mask_volume_ml=people["mask_volume_ml"])
        for region in regions:
            mean_ml = float(people[f"{region}_ml"].mean())
            across, error, why_null = _across(scm, design, people, node, region)
            same_mask, same_mask_error, _ = _across(scm, one_mask, people, node, region)
            within, low, high = _within(asked, region)
            rows.append(
                {
                    "query": query,
                    "node": node,
                    "unit": scm.covariates.units.get(node),
                    "effect": effect,
                    "region": region,
                    "mean_ml": mean_ml,
                    "people_slope_ml": across,
                    "people_low_ml": across - 1.96 * error,
                    "people_high_ml": across + 1.96 * error,
                    "people_slope_percent": 100 * across / mean_ml,
                    "same_mask_slope_ml": same_mask,
                    "same_mask_low_ml": same_mask - 1.96 * same_mask_error,
                    "same_mask_high_ml": same_mask + 1.96 * same_mask_error,
                    "counterfactual_slope_ml": within,
                    "counterfactual_low_ml": low,
                    "counterfactual_high_ml": high,
                    "counterfactual_slope_percent": 100 * within / mean_ml,
                    "people": people["participant"].nunique(),
                    "counterfactuals": len(asked),
                    "why_null": why_null,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = [
    "query", "node", "unit", "effect", "region", "mean_ml",
    "people_slope_ml", "people_low_ml", "people_high_ml", "people_slope_percent",
    "same_mask_slope_ml", "same_mask_low_ml", "same_mask_high_ml",
    "counterfactual_slope_ml", "counterfactual_low_ml", "counterfactual_high_ml", "counterfactual_slope_percent",
    "people", "counterfactuals", "why_null",
]  # fmt: skip


def _design(scm: Scm, people: pd.DataFrame, node: str, effect: str) -> pd.DataFrame:
    """Intercept, the node, and the image's other covariates; what does not vary among these people is left out."""
    passed_on = scm.graph.descendants((node,)) if effect == "total" else ()
    values = scm.values(people)
    columns: dict[str, pd.Series] = {"intercept": pd.Series(1.0, index=people.index), node: values[node]}
    for name in scm.graph.image.names:
        if name == node or name in passed_on:
            continue
        levels = scm.covariates.levels[name]
        if levels is None:
            columns[name] = values[name]
        else:
            columns |= {f"{name}={level}": (values[name] == level).astype(float) for level in levels[1:]}
    design = pd.DataFrame(columns)
    varies = design.nunique() > 1
    return design.loc[:, varies | (design.columns == "intercept")]


def _across(
    scm: Scm, design: pd.DataFrame, people: pd.DataFrame, node: str, region: str
) -> tuple[float, float, str | None]:
    for name in map(str, design.columns):
        if scm.covariates.columns.get(name) == f"{region}_ml":
            return float("nan"), float("nan"), f"{region} is itself among the covariates that are held (node {name})"
    if node not in design:
        return float("nan"), float("nan"), f"{node} does not vary across these people"
    if people["participant"].nunique() <= design.shape[1]:
        return float("nan"), float("nan"), f"too few people for {design.shape[1]} coefficients"
    groups = pd.factorize(people["participant"])[0]
    fit = sm.OLS(people[f"{region}_ml"].to_numpy(), design.to_numpy()).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    at = design.columns.get_loc(node)
    return float(fit.params[at]), float(fit.bse[at]), None


def _within(asked: pd.DataFrame, region: str) -> tuple[float, float, float]:
    slopes = (asked[f"{region}_ml"] / asked["step"]).groupby(asked["participant"]).mean()
    mean = float(slopes.mean())
    if len(slopes) < 3:
        return mean, float("nan"), float("nan")
    half = 1.96 * float(slopes.std(ddof=1)) / np.sqrt(len(slopes))
    return mean, mean - half, mean + half
