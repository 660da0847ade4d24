"""The counterfactuals: what was asked, how far the data can answer, and examples that nobody chose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from brainscm.config import QueryOptions
from brainscm.errors import ScanError
from brainscm.questions import by_question, question_of
from brainscm.regions import region_label
from brainscm.report import planes, words
from brainscm.report.badges import BADGES, badges, burden
from brainscm.report.cells import Context, plain
from brainscm.report.changes import Change
from brainscm.report.gallery import Gallery
from brainscm.report.headlines import millilitres, standing_still, wrong_ways
from brainscm.report.layers import Stack
from brainscm.report.study import Study, spaced
from brainscm.scans import records

EXAMPLES = 4
TRAJECTORIES = 2  # scans
MEMBERS = 7  # of a trajectory
DRAWN = 12  # questions with pictures on a page
REGION_COLUMNS = (
    "region", "measured", "measured_percent", "interval", "expected", "expected_percent", "true", "true_percent",
)  # fmt: skip


def context(study: Study, gallery: Gallery | None) -> Context:
    questions = list(by_question(study.queries).values())
    lead = (
        "Each row of slices is one volume; the differences of all queries share one colour scale. The scans shown "
        "are evenly spaced through the list, not chosen by their appearance. Left is left."
    )
    if len(questions) > DRAWN:
        lead += f" The first {DRAWN} questions are shown in pictures."
    if not questions:
        lead = "No query is listed in the configuration (counterfactuals:), so there is nothing to show."
    queries = [_question(study, gallery if place < DRAWN else None, members) for place, members in enumerate(questions)]
    return {
        "lead": lead,
        "badges": BADGES,
        "queries": queries,
        "stacks": [query["stack"] for query in queries if query["stack"]],
    }


def answers_of(study: Study, gallery: Gallery | None, asked: pd.DataFrame, most: int) -> tuple[list[Context], int]:
    """What was asked of one scan: an `answer` a question, or a `series` for a trajectory; how many more there are.

    Args:
        asked: the scan's rows of the manifest. most: questions to answer.
    """
    asked = asked[asked["query"].isin(study.query_of)]
    questions = asked["query"].map(lambda name: question_of(study.query_of[name]))
    answers = []
    for _, rows in list(asked.groupby(questions, sort=False))[:most]:
        made = rows[rows["path"].notna()]
        is_series = len(rows) > 1 and len(made) > 0
        answers.append(series(study, gallery, made) if is_series else answer(study, gallery, records(rows)[0]))
    return answers, max(questions.nunique() - most, 0)


def series(study: Study, gallery: Gallery | None, made: pd.DataFrame) -> Context:
    """The members of a trajectory that were made of one scan, evenly spaced, as pictures on one scale."""
    dos = [study.query_of[name].do for name in made["query"]]
    query = study.query_of[made["query"].iloc[0]]
    said = {"query": question_of(query), "words": words.trajectory(dos, study.config.scm), "scan": made["scan"].iloc[0]}
    items = spaced(made, MEMBERS)
    if gallery is None:
        return said | {"problem": "no picture was drawn"}
    try:
        drawn = gallery.series(items)
    except ScanError as error:
        return said | {"problem": str(error)}
    nodes = dict.fromkeys(node for do in dos for node in do)
    varied = [node for node in nodes if len({do.get(node) for do in dos}) > 1]
    labels = []
    for item in items:
        do = study.query_of[item["query"]].do
        labels.append(words.intervention({node: do[node] for node in varied if node in do}, study.config.scm))
    named = [badges(study, item) for item in items]
    members = [
        {"label": label, "difference": difference, "own_difference": own, "badges": own_badges}
        for label, difference, own, own_badges in zip(
            labels, drawn["differences"], drawn["own_differences"], named, strict=True
        )
    ]
    caption = f"{said['scan']}: {len(items)} of {len(made)} members, evenly spaced."
    found = {badge for each in named for badge in each}
    told: Context = {"problem": None, "warning": _furthest_out(study, items, labels), "nodes": [], "members": members}
    told["badges"] = [badge for badge in BADGES if badge in found]
    told["curves"] = _curves(study, made, varied)
    told["regions"] = _regions_of_members(study, items, labels)
    files = [f"counterfactuals/{item['difference_path']}" for item in items]
    return said | drawn | told | {"caption": caption, "files": files[:1]}


def _furthest_out(study: Study, items: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str | None:
    """The warning of the member that lacks most of what supports an answer, with its label; None where none has one."""
    warned = [(burden(study, item), label, plain(item["warning"])) for item, label in zip(items, labels, strict=True)]
    warned = [each for each in warned if each[2]]
    if not warned:
        return None
    _, label, warning = max(warned, key=lambda each: each[0])
    return f"{label}: {warning}"


def _regions_of_members(study: Study, items: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Context | None:
    """The change of each region under each member, as `regions_table` has it of one answer."""
    columns: dict[str, tuple[str, str, str]] = {}
    rows = []
    for item, label in zip(items, labels, strict=True):
        table = regions_table(_changes_of(study, str(item["scan"]), str(item["query"])))
        if table is not None:
            columns |= {column[0]: column for column in table["columns"]}
            rows += [{"member": label, **row} for row in table["rows"]]
    order = sorted(columns.values(), key=lambda column: REGION_COLUMNS.index(column[0]))
    filled = [dict.fromkeys(REGION_COLUMNS, "–") | row for row in rows]
    return {"columns": [("member", "Member", ""), *order], "rows": filled} if rows else None


def _changes_of(study: Study, scan: str, query: str) -> list[Change]:
    return study.changes.get((scan, query)) or study.measured_changes.get((scan, query), [])


def _curves(study: Study, made: pd.DataFrame, varied: list[str]) -> list[Context]:
    """A chart a region: its change along the values of a trajectory, if one number alone is varied."""
    if len(varied) != 1 or not pd.api.types.is_numeric_dtype(made[f"counterfactual_{varied[0]}"]):
        return []
    column = f"counterfactual_{varied[0]}"
    table = made.sort_values(column)
    points: dict[str, list[planes.Point]] = {}
    expected: dict[str, list[tuple[float, float]]] = {}
    for item in records(table):
        beyond, named = bool(item["extrapolation"]), ", ".join(badge.name for badge in badges(study, item))
        for change in study.measured_changes.get((item["scan"], item["query"]), []):
            told = f"{words.number(item[column], 4)}: {millilitres(change.measured_ml)} ml; {named}"
            style = "ours hollow" if beyond else "ours"
            at = planes.Point(item[column], change.measured_ml, told, style, change.low_ml, change.high_ml)
            points.setdefault(change.region, []).append(at)
            if math.isfinite(change.expected_ml):
                expected.setdefault(change.region, []).append((item[column], change.expected_ml))
    drawn = []
    for region, measured in points.items():
        name = words.capitalised(region_label(region))
        title = f"{name}: measured change in ml along {varied[0]}"
        label = study.with_unit(varied[0])
        drawing = planes.course(measured, expected.get(region, []), label, "change (ml)", title)
        drawn.append(
            {
                "heading": name,
                "drawing": drawing,
                "has_band": any(math.isfinite(p.low) for p in measured),
                "has_expected": region in expected,
            }
        )
    return drawn


def answer(study: Study, gallery: Gallery | None, item: Mapping[str, Any]) -> Context:
    """One row of the manifest as pictures and numbers, or with the `problem` that stands in their place."""
    query = study.query_of[item["query"]]
    said = {"query": query.name, "words": words.intervention(query.do, study.config.scm), "scan": item["scan"]}
    if pd.isna(item["path"]) or gallery is None:
        return said | {"problem": plain(item.get("reason")) or "no counterfactual was made"}
    try:
        drawn = gallery.counterfactual(item, query)
    except ScanError as error:
        return said | {"problem": str(error)}
    nodes = _nodes(study, item)
    evaluated = study.changes.get((item["scan"], query.name), [])
    regions = _changes_of(study, item["scan"], query.name)
    asked = [row for row in nodes if row["node"] in query.do]
    set_to = ", ".join(f"{row['node']} {row['factual']} → {row['counterfactual']}" for row in asked)
    caption = f"{item['scan']}: {set_to or 'nothing changes, for the scan is as it is asked to be'}."
    for change in regions:
        if change.region == "ventricles":
            caption += f" Ventricles: {millilitres(change.measured_ml)} ml measured"
            if math.isfinite(change.expected_ml):
                caption += f", {millilitres(change.expected_ml)} ml expected"
            caption += "."
    return (
        said
        | drawn
        | {
            "problem": None,
            "warning": plain(item["warning"]),
            "badges": badges(study, item),
            "nodes": nodes,
            "regions": regions_table(regions),
            "is_evaluated": bool(evaluated),
            "is_bounded": any(change.is_bounded for change in regions),
            "why_unbounded": _why_no_interval(study, item) if regions else "",
            "is_expected": any(math.isfinite(change.expected_ml) for change in regions),
            "caption": caption,
            "files": [f"counterfactuals/{item[column]}" for column in ("path", "difference_path")],
        }
    )


def _why_no_interval(study: Study, item: Mapping[str, Any]) -> str:
    own = study.regions[(study.regions["scan"] == item["scan"]) & (study.regions["query"] == item["query"])]
    return str(next(iter(own["why_no_interval"].dropna()), "")) if "why_no_interval" in own else ""


def regions_table(changes: list[Change]) -> Context | None:
    """The change of each region: measured on the counterfactual, with its interval, beside expected and true ones."""
    if not changes:
        return None
    columns = [
        ("region", "Region", ""),
        ("measured", "Measured (ml)", "number"),
        ("measured_percent", "(%)", "number"),
        ("interval", "95 % interval (ml)", "number"),
    ]
    if any(math.isfinite(change.expected_ml) for change in changes):
        columns += [("expected", "Expected (ml)", "number"), ("expected_percent", "(%)", "number")]
    if any(math.isfinite(change.true_ml) for change in changes):
        columns += [("true", "True (ml)", "number"), ("true_percent", "(%)", "number")]
    return {"columns": columns, "rows": [_region_row(change) for change in changes]}


def _region_row(change: Change) -> Context:
    # Beside the name, which is in sight however narrow the window is.
    wrong = Markup(' <strong class="status warn">wrong way</strong>') if change.is_wrong_way else ""
    row: Context = {
        "region": Markup("{}{}").format(region_label(change.region), wrong),
        "interval": _interval(change) if change.is_bounded else "not calibrated",
    }
    for name in ("measured", "expected", "true"):
        value = getattr(change, f"{name}_ml")
        row[name] = millilitres(value) if math.isfinite(value) else "–"
        row[f"{name}_percent"] = millilitres(change.percent(value)) if math.isfinite(value) else "–"
    return row


def _interval(change: Change) -> Markup:
    """In ml, and under it in per cent of the region."""
    ends = [millilitres(end) for end in (change.low_ml, change.high_ml)]
    shares = [millilitres(change.percent(end)) for end in (change.low_ml, change.high_ml)]
    return Markup("{} to {}<small>{} to {} %</small>").format(*ends, *shares)


def _nodes(study: Study, item: Mapping[str, Any]) -> list[Context]:
    """The nodes' values in the scan and in its counterfactual, changed ones only."""
    rows = []
    for node in study.graph.formulas:
        before, after = plain(item.get(f"factual_{node}")), plain(item.get(f"counterfactual_{node}"))
        if before != after:
            unit = f" {study.unit(node)}" if study.unit(node) else ""
            rows.append(
                {
                    "node": node,
                    "factual": words.number(before, 4) + unit,
                    "counterfactual": words.number(after, 4) + unit,
                }
            )
    return rows


def _question(study: Study, gallery: Gallery | None, members: Sequence[QueryOptions]) -> Context:
    query, is_trajectory = members[0], members[0].trajectory is not None
    rows = study.manifest[study.manifest["query"].isin([member.name for member in members])]
    made, failed = rows[rows["path"].notna()], rows[rows["path"].isna()]
    scans = made.drop_duplicates("scan")
    if is_trajectory:
        shown = [made[made["scan"] == item["scan"]] for item in spaced(scans, TRAJECTORIES)]
        answers = [series(study, gallery, of_scan) for of_scan in shown]
    else:
        answers = [answer(study, gallery, item) for item in spaced(made, EXAMPLES)]
    responds = "nodes that the intervention causes respond" if query.effect == "total" else "all other nodes are held"
    return {
        "name": question_of(query),
        "words": words.trajectory([member.do for member in members], study.config.scm),
        "settings": f"{query.effect.capitalize()} effect: {responds}. Decoding: {query.decode}.",
        "figures": _figures(study, rows, made),
        "warnings": _warnings(made) + wrong_ways(study, question_of(query)) + standing_still(study, question_of(query)),
        "badges": _badge_counts(study, made),
        "answers": [item for item in answers if item["problem"] is None],
        "stack": _stack(gallery, made, question_of(query)),
        "stack_of": scans["scan"].iloc[0] if len(scans) else "",
        "others": scans["scan"].tolist(),
        "others_label": f"The pages of all {words.plural(len(scans), 'scan')}",
        "failed": failed.drop_duplicates("scan")[["scan", "reason"]].to_dict("records"),
    }


def _stack(gallery: Gallery | None, made: pd.DataFrame, name: str) -> Stack | None:
    """The first scan that a question was answered for, slice by slice; None where its volumes cannot be read."""
    if gallery is None or made.empty:
        return None
    scan = made["scan"].iloc[0]
    try:
        return gallery.stack(scan, spaced(made[made["scan"] == scan], MEMBERS), name)
    except ScanError:
        return None


def _badge_counts(study: Study, made: pd.DataFrame) -> list[Context]:
    """How many of a query's answers carry each badge."""
    counts = Counter(badge for item in records(made) for badge in badges(study, item))
    return [{"badge": badge, "count": counts[badge]} for badge in BADGES if counts[badge]]


def _pass_through(kept: pd.Series) -> list[Context]:
    value = f"{100 * float(kept.mean()):.0f} %" if len(kept) else None
    return [{"label": "Pass-through", "value": value, "note": "of the latent shift would survive quantisation"}]


def _figures(study: Study, rows: pd.DataFrame, made: pd.DataFrame) -> list[Context]:
    kept = made["pass_through"].dropna()
    return [
        {
            "label": "Answered",
            "value": f"{len(made):,}",
            "note": f"of {words.plural(len(rows), 'counterfactual')} asked",
        },
        {
            "label": "Beyond the data",
            "value": f"{int(made['extrapolation'].astype(bool).sum()):,}" if len(made) else None,
            "note": "outside a training range, or further out than any training scan",
        },
        {
            "label": "Training participants near",
            "value": words.number(float(made["positivity"].median())) if len(made) else None,
            "note": "median over scans; participants with similar covariates",
        },
        *(_pass_through(kept) if study.config.autoencoder.kind == "vqvae" else []),
    ]


def _warnings(made: pd.DataFrame) -> list[str]:
    warnings = []
    beyond = made[made["extrapolation"].astype(bool)]
    if len(beyond):
        example = beyond.iloc[0].to_dict()
        warnings.append(
            f"{len(beyond)} of {len(made)} answers lie beyond the training data: there the formula speaks, not the "
            f"participants. For example {example['scan']}: {example['warning']}."
        )
    lonely = int((made["positivity"] == 0).sum())
    if lonely:
        warnings.append(f"No training participant is near {lonely} of the {len(made)} answers.")
    return warnings
