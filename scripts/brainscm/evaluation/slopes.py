"""Does an intervention move regional volumes as the covariate moves them across participants? No truth is needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm

from brainscm.errors import ScanError
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.parallel import side_by_side
from brainscm.scans import records
from brainscm.scm.model import Scm
from brainscm.shards import WHOLE, Shard
from brainscm.tables import evenly_spaced

logger = logging.getLogger("brainscm")

SCANS = 100  # a query: a mean slope needs no more
ASKED = ["scan", "participant", "query", "effect"]
COLUMNS = [
    "query", "node", "unit", "effect", "region", "mean_ml",
    "participants_slope_ml", "participants_low_ml", "participants_high_ml", "participants_slope_percent",
    "same_mask_slope_ml", "same_mask_low_ml", "same_mask_high_ml",
    "counterfactual_slope_ml", "counterfactual_low_ml", "counterfactual_high_ml", "counterfactual_slope_percent",
    "participants", "counterfactuals", "why_null",
]  # fmt: skip


def numeric_answers(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    """The rows of the manifest whose slopes are looked at: of queries on a single number, at most `SCANS` a query,
    evenly spaced."""
    made = inputs.written.made
    made = made[made["scan"].isin(inputs.scans.usable["scan"])]
    ranges = inputs.scm.covariates.ranges
    queries = [query.name for query in inputs.queries if len(query.do) == 1 and ranges.keys() & query.do.keys()]
    return [row for query in queries for row in records(evenly_spaced(made[made["query"] == query], SCANS))]


def counterfactual_changes(inputs: EvaluationInputs, shard: Shard = WHOLE) -> pd.DataFrame:
    """What the `numeric_answers` to a shard's scans change in each region (ml).

    One row a scan and query: scan, participant, query, effect, node, `step` (the change of the node), `<region>_ml`.
    """
    node_of = {query.name: next(iter(query.do)) for query in inputs.queries}

    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        node = node_of[row["query"]]
        step = float(row[f"counterfactual_{node}"]) - float(row[f"factual_{node}"])
        if step == 0:
            return None
        try:
            counterfactual, scan = inputs.written.read(row), inputs.read_scan(row["scan"])
        except ScanError as error:
            logger.warning("%s: its slope is left out: %s", row["scan"], error)
            return None
        before = scan.regions_ml(counterfactual.start)
        after = scan.regions_ml(counterfactual.volume)
        changes = {f"{region}_ml": after[region] - before[region] for region in after}
        return {**{key: row[key] for key in ASKED}, "node": node, "step": step, **changes}

    own = [row for row in numeric_answers(inputs) if shard.holds(row["scan"])]
    rows = [row for row in side_by_side(change, own) if row is not None]
    return pd.DataFrame(rows, columns=None if rows else [*ASKED, "node", "step"])


def regional_slopes(
    scm: Scm, table: pd.DataFrame, counterfactuals: pd.DataFrame, regions: Sequence[str]
) -> pd.DataFrame:
    """Slopes of regional volumes on a number: across participants, and within the counterfactuals of one query.

    Across participants: ordinary least squares of the volume on the node, beside the image formula's other covariates
    (each as it is, or by level). For a total effect the nodes that the intervened one causes are left out, since
    holding them would take away what they pass on. A region that is itself one of the covariates has no slope. Standard
    errors are clustered by participant. `same_mask` holds the volume of the brain mask too, as a counterfactual holds
    the mask of its scan: what differences in head size, and masks that leave out more around a shrunken brain, add to
    the slope is not in it. Within counterfactuals: the mean over scans of (V' - V) / (a' - a), with its 95 % interval
    over participants' means.

    Args:
        scm: the fitted model.
        table: usable scans: scan, participant, the nodes' columns, `mask_volume_ml`, and the columns `<region>_ml`.
        counterfactuals: as `counterfactual_changes` gives them.
        regions: names of the regions.

    Returns:
        One row a query, node and region; `why_null` says why a slope is missing.
    """
    rows = []
    for key, asked in counterfactuals.groupby(["query", "node", "effect"], sort=False):
        query, node, effect = map(str, key)
        design = _design(scm, table, node, effect)
        one_mask = design.assign(mask_volume_ml=table["mask_volume_ml"])
        for region in regions:
            mean_ml = float(table[f"{region}_ml"].mean())
            across, error, why_null = _across(scm, design, table, node, region)
            same_mask, same_mask_error, _ = _across(scm, one_mask, table, node, region)
            within, low, high = _within(asked, region)
            rows.append(
                {
                    "query": query,
                    "node": node,
                    "unit": scm.covariates.units.get(node),
                    "effect": effect,
                    "region": region,
                    "mean_ml": mean_ml,
                    "participants_slope_ml": across,
                    "participants_low_ml": across - 1.96 * error,
                    "participants_high_ml": across + 1.96 * error,
                    "participants_slope_percent": 100 * across / mean_ml,
                    "same_mask_slope_ml": same_mask,
                    "same_mask_low_ml": same_mask - 1.96 * same_mask_error,
                    "same_mask_high_ml": same_mask + 1.96 * same_mask_error,
                    "counterfactual_slope_ml": within,
                    "counterfactual_low_ml": low,
                    "counterfactual_high_ml": high,
                    "counterfactual_slope_percent": 100 * within / mean_ml,
                    "participants": table["participant"].nunique(),
                    "counterfactuals": len(asked),
                    "why_null": why_null,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _design(scm: Scm, table: pd.DataFrame, node: str, effect: str) -> pd.DataFrame:
    """Intercept, the node, and the image's other covariates; what does not vary in this table is left out."""
    passed_on = scm.graph.descendants((node,)) if effect == "total" else ()
    values = scm.values(table)
    columns: dict[str, pd.Series] = {"intercept": pd.Series(1.0, index=table.index), node: values[node]}
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
    scm: Scm, design: pd.DataFrame, table: pd.DataFrame, node: str, region: str
) -> tuple[float, float, str | None]:
    """The slope, its standard error, and why there is none."""
    for name in map(str, design.columns):
        if scm.covariates.columns.get(name) == f"{region}_ml":
            return float("nan"), float("nan"), f"{region} is itself among the covariates that are held (node {name})"
    if node not in design:
        return float("nan"), float("nan"), f"{node} does not vary across these participants"
    if table["participant"].nunique() <= design.shape[1]:
        return float("nan"), float("nan"), f"too few participants for {design.shape[1]} coefficients"
    groups = pd.factorize(table["participant"])[0]
    fit = sm.OLS(table[f"{region}_ml"].to_numpy(), design.to_numpy()).fit(
        cov_type="cluster", cov_kwds={"groups": groups}
    )
    at = design.columns.get_loc(node)
    return float(fit.params[at]), float(fit.bse[at]), None


def _within(asked: pd.DataFrame, region: str) -> tuple[float, float, float]:
    """The mean slope and its interval."""
    slopes = (asked[f"{region}_ml"] / asked["step"]).groupby(asked["participant"]).mean()
    mean = float(slopes.mean())
    if len(slopes) < 3:
        return mean, float("nan"), float("nan")
    half = 1.96 * float(slopes.std(ddof=1)) / np.sqrt(len(slopes))
    return mean, mean - half, mean + half
