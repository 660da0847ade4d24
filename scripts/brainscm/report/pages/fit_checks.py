"""What a statistician looks at first: each formula's design, and what its fit leaves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.stats import norm

from brainscm.regions import region_label
from brainscm.report import planes, words
from brainscm.report.cells import Context
from brainscm.report.matrices import draw_correlations, draw_design
from brainscm.report.study import Study
from brainscm.scans import records
from brainscm.tables import evenly_spaced, read_table

POINTS = 400  # of a chart


def designs(study: Study) -> list[Context]:
    """The design of the image and of each node as its matrix and its columns' correlations; none beside a bundle."""
    drawn = []
    for name in ("image", *(node for node, formula in study.graph.formulas.items() if formula)):
        path = study.fitted / "scm" / "designs" / f"{name}_design.tsv"
        if path.exists():
            table = read_table(path).drop(columns=["scan", "participant"])
            scans = words.plural(len(table), "scan")
            drawn.append(
                {
                    "name": name,
                    "scans": scans,
                    "file": f"scm/designs/{name}_design.tsv",
                    "matrix": draw_design(table, f"Design of {name}: {scans} by {len(table.columns)} columns"),
                    "correlations": draw_correlations(table, f"Correlations between the columns of {name}'s design"),
                }
            )
    return drawn


def residual_charts(study: Study) -> list[Context]:
    """Each modelled node's residuals, of the image those of its regions: against what was fitted, where that is a
    number, and against the normal."""
    drawn = []
    for (model, measure), rows in study.residuals.groupby(["model", "measure"], sort=False):
        rows = rows.dropna(subset=["quantile_residual"])
        if rows.empty:
            continue
        is_node = model == measure
        name = str(measure) if is_node else f"{model}: {region_label(str(measure))}"
        unit = study.with_unit(str(measure)) if is_node else f"{region_label(str(measure))} (ml)"
        fitted = rows[rows["fitted"].notna()]
        drawn.append(
            {
                "node": name,
                "fitted": _against_fitted(fitted, unit) if len(fitted) else None,
                "quantiles": _against_normal(rows, name),
                "moved": _most_moving(rows),
            }
        )
    return drawn


def _against_fitted(rows: pd.DataFrame, label: str) -> Markup:
    points = [_point(row, float(row["fitted"])) for row in records(evenly_spaced(rows, POINTS))]
    return planes.around_zero(points, f"fitted {label}", "residual (sd)", f"Residuals of {label} against fitted values")


def _against_normal(rows: pd.DataFrame, node: str) -> Markup:
    ordered = rows.sort_values("quantile_residual")
    ordered = ordered.assign(expected=norm.ppf((np.arange(len(ordered)) + 0.5) / len(ordered)))
    points = [_point(row, float(row["expected"])) for row in records(evenly_spaced(ordered, POINTS))]
    title = f"Ordered residuals of {node} against quantiles of the normal"
    return planes.quantiles(points, "normal quantile", "residual (sd)", title)


def _point(row: Context, x: float) -> planes.Point:
    told = f"{row['scan']}: {words.signed(f'''{row['quantile_residual']:.2f}''')} sd"
    if pd.notna(row["cooks_distance"]):
        told += f", leverage {row['leverage']:.2f}, Cook's distance {row['cooks_distance']:.2g}"
    return planes.Point(x, float(row["quantile_residual"]), told, "train")


def _most_moving(rows: pd.DataFrame) -> str:
    """Who moves the fit most."""
    known = rows.dropna(subset=["cooks_distance"])
    if known.empty:
        return ""
    row = known.sort_values("cooks_distance").iloc[-1]
    return f"{row['participant']} moves the fit most: Cook's distance {row['cooks_distance']:.2g}."
