"""Where participants are: their regional volumes against age, what an intervention makes of them, and who is near."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainscm.questions import by_question
from brainscm.regions import region_label
from brainscm.report import planes, words
from brainscm.report.badges import FEW_NEAR, badge_names
from brainscm.report.cells import Context
from brainscm.report.centiles import LEAST, centiles
from brainscm.report.headlines import millilitres
from brainscm.report.study import Study
from brainscm.scans import records
from brainscm.scm.covariates import Covariates
from brainscm.scm.neighbours import NEAR_SD, Neighbours
from brainscm.tables import evenly_spaced
from brainscm.wording import listed

REGIONS = 8  # charts
POINTS = 400  # participants a chart
ARROWS = 60  # participants a question
GROUPS = 12  # rows of the map
CELLS = 48  # of a row of the map
MANY_NEAR = 20


def volumes(study: Study) -> Context | None:
    """A chart a region: participants' volumes along a number, centiles, and an arrow from scan to counterfactual.

    None where no exogenous node is a number, or where the volumes of the fitted study's participants are not here.
    """
    along = _along(study)
    if along is None or study.bundle is not None:
        return None
    node, column = along
    table = study.usable.drop_duplicates("participant")
    table = table[table[column].notna()]
    regions = [region for region in study.regions["region"].unique() if f"{region}_ml" in table]
    regions = regions or [name.removesuffix("_ml") for name in study.measures if name.endswith("_ml")]
    changed = _changes(study, node)
    if table.empty or not regions:
        return None
    label = study.with_unit(node)
    charts = [_chart(table, region, column, label, changed) for region in regions[:REGIONS]]
    return {
        "node": node,
        "queries": list(changed),
        "drawn": ARROWS,
        "more": max(len(regions) - REGIONS, 0),
        "charts": charts,
        "has_centiles": any(chart["has_centiles"] for chart in charts),
        "least": LEAST,
    }


def _along(study: Study) -> tuple[str, str] | None:
    """The exogenous number that charts run along, age if it is one, and its column in the cohort."""
    nodes = {
        node: study.config.scm.nodes[node].column or node
        for node, formula in study.graph.formulas.items()
        if formula is None
    }
    table = study.cohort
    numeric = {
        node: column
        for node, column in nodes.items()
        if column in table and pd.api.types.is_numeric_dtype(table[column]) and table[column].nunique() > 2
    }
    first = "age" if "age" in numeric else next(iter(numeric), None)
    return (first, numeric[first]) if first else None


def _changes(study: Study, node: str) -> dict[str, pd.DataFrame]:
    """By question, its counterfactuals' changes of regions, with the node's value before and after."""
    before, after = f"factual_{node}", f"counterfactual_{node}"
    if study.made.empty or before not in study.made:
        return {}
    ends = study.made[["scan", "query", "extrapolation", before, after]]
    ends = ends.rename(columns={before: "before", after: "after"}).dropna()
    table = study.regions.merge(ends, on=["scan", "query"])
    found = {}
    for name, members in by_question(study.queries).items():
        # Of a trajectory the last member: its end.
        rows = table[table["query"] == members[-1].name]
        if len(rows):
            scans = evenly_spaced(rows.drop_duplicates("scan"), ARROWS)["scan"]
            named = badge_names(study, [members[-1].name])
            badges = [named[scan, query] for scan, query in zip(rows["scan"], rows["query"], strict=True)]
            found[name] = rows.assign(badges=badges)[rows["scan"].isin(scans)]
    return found


def _chart(table: pd.DataFrame, region: str, column: str, label: str, changed: dict[str, pd.DataFrame]) -> Context:
    volume = f"{region}_ml"
    rows = table[table[volume].notna()]
    training = rows[rows["split"] == "train"]
    x, y = (training[name].to_numpy(dtype=float) for name in (column, volume))
    at = np.linspace(x.min(), x.max(), 60) if len(x) else np.zeros(0)
    bands = centiles(x, y, at)
    own = table.set_index("scan")[volume]
    arrows = {name: _arrows(part[part["region"] == region], own) for name, part in changed.items()}
    shown = evenly_spaced(rows, POINTS)
    points = [
        planes.Point(row[column], row[volume], f"{row['scan']}: {row[volume]:.1f} ml", row["split"])
        for row in records(shown)
    ]
    name = words.capitalised(region_label(region))
    told = f"{name} in ml against {label}, of {words.plural(len(rows), 'participant')}"
    drawing = planes.growth(points, (at, bands), arrows, label, f"{name} (ml)", told)
    return {"heading": name, "drawing": drawing, "has_centiles": bool(np.isfinite(bands).any())}


def _arrows(rows: pd.DataFrame, own: pd.Series) -> list[planes.Arrow]:
    """From each scan's own volume, so that arrows begin at its point also where its latent was decoded directly."""
    return [
        planes.Arrow(
            (row["before"], own[row["scan"]]),
            (row["after"], own[row["scan"]] + row["change_ml"]),
            f"{row['scan']}: {millilitres(row['change_ml'])} ml; {row['badges']}",
            "ours dashed" if row["extrapolation"] else "ours",
        )
        for row in records(rows[rows["scan"].isin(own.index)])
    ]


def positivity(study: Study) -> Context | None:
    """How many training participants are near, along a number and for each combination of levels."""
    along = _along(study)
    if along is None or study.sample.empty:
        return None
    node, _ = along
    covariates = Covariates.learn(study.sample, study.config.scm)
    values = covariates.read(study.sample)
    factors = [
        name
        for name, formula in study.graph.formulas.items()
        if formula is None and covariates.levels[name] is not None
    ]
    groups = values[factors].astype(str).value_counts() if factors else pd.Series([len(values)], index=[()])
    levels = [key if isinstance(key, tuple) else (key,) for key in groups.index[:GROUPS]]
    asked = study.made.dropna(subset=[f"counterfactual_{node}"]) if len(study.made) else study.made
    ends = [*covariates.ranges[node], *(asked[f"counterfactual_{node}"].astype(float) if len(asked) else [])]
    edges = np.linspace(min(ends), max(ends), CELLS + 1)
    neighbours = Neighbours.of(values, study.sample["participant"])
    rows = []
    for level in levels:
        points = pd.DataFrame({node: (edges[:-1] + edges[1:]) / 2}).assign(**dict(zip(factors, level, strict=True)))
        own = asked
        for name, each in zip(factors, level, strict=True):
            own = own[own[f"counterfactual_{name}"].astype(str) == each] if len(own) else own
        rows.append(
            planes.Strip(
                ", ".join(level) or "all",
                [_kind(count) for count in neighbours.count(points, (node, *factors))],
                _asked(own, node),
            )
        )
    near = listed([node, *factors])
    title = f"Training participants near in {near}, along {node}"
    return {
        "near": near,
        "share": NEAR_SD,
        "more": max(len(groups) - GROUPS, 0),
        "drawing": planes.strips(rows, (edges[0], edges[-1]), study.with_unit(node), title),
        "keys": [
            ("none", "none"),
            ("few", f"1 to {FEW_NEAR - 1}"),
            ("some", f"{FEW_NEAR} to {MANY_NEAR - 1}"),
            ("many", f"{MANY_NEAR} or more"),
        ],
    }


def _kind(count: int) -> str:
    return "none" if count == 0 else "few" if count < FEW_NEAR else "some" if count < MANY_NEAR else "many"


def _asked(rows: pd.DataFrame, node: str) -> Sequence[float]:
    return [] if rows.empty else rows[f"counterfactual_{node}"].astype(float).tolist()
