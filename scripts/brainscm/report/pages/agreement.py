"""Predicted beside true changes of regions, scan by scan, and what intervals hold beside what they promise."""

from __future__ import annotations

import math

import pandas as pd

from brainscm.regions import region_label
from brainscm.report import planes, words
from brainscm.report.badges import badge_names
from brainscm.report.cells import Context
from brainscm.report.headlines import OWN, millilitres
from brainscm.report.study import Study
from brainscm.scans import records
from brainscm.tables import evenly_spaced

POINTS = 300  # a chart
LEVELS = (50, 80, 95)
# In the order of words.METHODS; each has a colour of the page.
WITH_INTERVALS = {"voxel_glm": "train", "pca_glm": "validation", OWN: "ours"}


def scatters(study: Study, source: str) -> list[Context]:
    """A chart a region: the change that BrainSCM's counterfactuals show against the true one, a point an answer."""
    own = study.metrics[(study.metrics["level"] == "scan") & (study.metrics["source"] == source)]
    residual = own[(own["method"] == OWN) & (own["decode"] == "residual")]
    columns = {
        "true": own[(own["method"] == "truth") & (own["metric"] == "region_change_ml")],
        "predicted": residual[residual["metric"] == "region_change_ml"],
        "low": residual[residual["metric"] == "region_change_low_95_ml"],
        "high": residual[residual["metric"] == "region_change_high_95_ml"],
    }
    keys = ["query", "scan", "region"]
    table = pd.DataFrame({name: rows.set_index(keys)["value"].astype(float) for name, rows in columns.items()})
    table = table.dropna(subset=["true", "predicted"]).reset_index()
    beyond = {(row["query"], row["scan"]) for row in records(study.manifest[study.manifest["extrapolation"].eq(True)])}
    named = badge_names(study, table["query"].unique())
    drawn = []
    for region in dict.fromkeys(columns["true"]["region"]):
        rows = table[table["region"] == region]
        if rows.empty:
            continue
        points = [
            _point(row, (row["query"], row["scan"]) in beyond, named.get((row["scan"], row["query"]), ""))
            for row in records(evenly_spaced(rows, POINTS))
        ]
        label = region_label(str(region))
        off = (rows["predicted"] - rows["true"]).abs().mean()
        told = f"off by {words.number(float(off))} ml on average; {words.plural(len(rows), 'answer')}"
        if len(rows) > POINTS:
            told += f", {POINTS} of them drawn"
        title = f"Predicted against true change of {label}, in ml: {told}"
        chart = planes.scatter(points, "true change (ml)", "predicted (ml)", title)
        drawn.append({"heading": words.capitalised(label), "told": told, "drawing": chart})
    return drawn


def _point(row: Context, is_beyond: bool, badges: str) -> planes.Point:
    told = f"{row['scan']}, {row['query']}: {millilitres(row['predicted'])} ml predicted, "
    told += f"{millilitres(row['true'])} ml true"
    told += f"; {badges}" if badges else ""
    style = "ours hollow" if is_beyond else "ours"
    return planes.Point(row["true"], row["predicted"], told, style, row["low"], row["high"])


def reliabilities(means: pd.DataFrame, source: str) -> list[Context]:
    """A chart for all regions together and one for each: the share of truths that intervals of three levels hold.

    Args:
        means: rows of metrics.tsv of the level "mean" and the stratum "all".
    """
    own = means[(means["source"] == source) & (means["decode"] == "residual")]
    found = {
        (row["region"] if isinstance(row["region"], str) else "", row["method"], row["metric"]): row
        for row in records(own[own["metric"].isin([_metric(level) for level in LEVELS])])
    }
    drawn = []
    for region in sorted(
        dict.fromkeys(region for region, _, _ in found), key=bool
    ):  # all regions first, the others as they come
        series = {}
        for method, style in WITH_INTERVALS.items():
            rows = [
                (level, found[region, method, _metric(level)])
                for level in LEVELS
                if (region, method, _metric(level)) in found
            ]
            name = words.METHODS[method]
            series[name] = ([_held(name, level, row, style) for level, row in rows], style)
        label = region_label(region) if region else "all regions"
        title = f"Share of truths that the intervals of {label} hold, against the share that they promise"
        drawn.append({"heading": words.capitalised(label), "drawing": planes.reliability(series, title)})
    return drawn


def _metric(level: int) -> str:
    return f"interval_coverage_{level}"


def _held(name: str, level: int, row: Context, style: str) -> planes.Point:
    held, low, high = (100 * float(row[column]) for column in ("value", "ci95_low", "ci95_high"))
    told = f"{name}: {level} % intervals hold {held:.0f} %"
    if math.isfinite(low) and math.isfinite(high):
        told += f" (95 % interval {low:.0f} to {high:.0f} %)"
    return planes.Point(float(level), held, told, style, low, high)
