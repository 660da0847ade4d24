"""How right the counterfactuals are: beside known answers, beside simpler methods, and beside real participants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist, median

import pandas as pd
from markupsafe import Markup

from brainscm.questions import by_question
from brainscm.regions import region_label
from brainscm.report import charts, words
from brainscm.report.cells import Context, plain
from brainscm.report.gallery import Gallery
from brainscm.report.headlines import CEILINGS, findings, millilitres
from brainscm.report.pages.agreement import WITH_INTERVALS, reliabilities, scatters
from brainscm.report.pages.cohort import unbalanced
from brainscm.report.study import Study
from brainscm.scans import records
from brainscm.wording import listed

SOURCES = {
    "simulated": "the simulator's true counterfactual heads",
    "follow-up": "real follow-up scans, taken as do(age = age then) on the first scan",
}
APART = "Ceilings: what the encoding could show at best"
MOST_SPREAD = 3.0  # a larger spread than three times the change says that the change itself is not told from none
AXIOMS = {
    "composition_1": "Composition, once",
    "composition_10": "Composition, ten times",
    "reversibility_1": "There and back, once",
    "reversibility_3": "There and back, three times",
}


def context(study: Study, gallery: Gallery | None) -> Context:
    metrics, fidelity = study.metrics, study.summary["reconstruction"]
    with_regions = metrics[metrics["level"] == "mean"]
    means = with_regions[with_regions["region"].isna()]
    overall = means[means["stratum"] == "all"]
    sources = [source for source in SOURCES if (overall["source"] == source).any()]
    return {
        "findings": findings(study) + slope_findings(study) + unbalanced(study),
        "truths": [_methods(study, overall[overall["source"] == source], source) for source in sources],
        "why_null": _why_null(study),
        "floor": (
            f"For scale: the autoencoder reproduces unchanged test scans at {fidelity['psnr_brain_db']:.1f} dB, "
            f"SSIM {fidelity['ssim_brain']:.3f}. Direct decoding cannot do better than that; residual decoding can, "
            "because it adds the decoded change to the scan itself."
            if fidelity["psnr_brain_db"] is not None
            else "The reconstruction could not be evaluated: the test split has no usable scan."
        ),
        "intervals": _intervals(overall),
        "reliability": {
            "truths": [
                {"words": f"Against {SOURCES[source]}", "charts": charts_of_source}
                for source in sources
                if overall.loc[overall["source"] == source, "participants"].max() >= words.TOO_FEW
                and (charts_of_source := reliabilities(with_regions[with_regions["stratum"] == "all"], source))
            ],
            "methods": [(words.METHODS[method], style) for method, style in WITH_INTERVALS.items()],
        },
        "spreads": _spreads(study),
        "own_slopes": _own_slopes(study),
        "matrix": _matrix(study.minimality),
        "realism": _realism(study.realism),
        "slopes": _slopes(study.regional_slopes),
        "axioms": _axioms(overall),
        "strata": _strata(means, sources),
        "too_few": words.TOO_FEW,
    }


def _intervals(overall: pd.DataFrame) -> Context | None:
    """How often calibrated intervals of three levels hold the truth."""
    means = overall[overall["source"].isin(SOURCES)]
    value = means.set_index(["source", "method", "decode", "metric"])["value"]
    rows = []
    for source in SOURCES:
        for method in ("voxel_glm", "pca_glm", "latent_glm"):
            keys = {level: (source, method, "residual", f"interval_coverage_{level}") for level in (50, 80, 95)}
            if all(key in value.index for key in keys.values()):
                shown = {f"at_{level}": words.number(float(value[key]), 2) for level, key in keys.items()}
                rows.append({"method": words.METHODS[method], "truth": source, **shown})
    columns = [("method", "Method", ""), ("truth", "Truth", "text")]
    columns += [(f"at_{level}", f"{level} % interval", "number") for level in (50, 80, 95)]
    of_source = means[means["metric"] == "interval_coverage_95"].groupby("source")["participants"].max()
    few = [
        f"{words.plural(int(count), 'participant')} against {SOURCES[str(source)]}"
        for source, count in of_source.items()
        if count < words.TOO_FEW
    ]
    too_few = f"{words.capitalised(listed(few))}: so few cannot tell whether intervals hold what they promise."
    return {"columns": columns, "rows": rows, "too_few": too_few if few else None} if rows else None


def spread_that_halves(half_width: float, change: float) -> float:
    """How far participants' own changes must differ from the expected one for a 95 % interval to hold half as many.

    The interval is ± 1.96 σ; with a standard deviation of s·|change| between participants, that of the truth about its
    middle is √(σ² + s²change²). Returns s, as a share of the change.
    """
    sigma = half_width / NormalDist().inv_cdf(0.975)
    with_participants = half_width / NormalDist().inv_cdf((1 + 0.95 / 2) / 2)
    return math.sqrt(with_participants**2 - sigma**2) / abs(change) if change else math.inf


def _spreads(study: Study) -> Context | None:
    """A row a query, a column a region: the median over its scans of the spread that halves the coverage."""
    found: dict[str, dict[str, list[float]]] = {}
    for (_, query), changes in study.changes.items():
        for change in changes:
            if change.is_bounded and math.isfinite(change.expected_ml):
                half_ml = (change.high_ml - change.low_ml) / 2
                spread = spread_that_halves(half_ml, change.expected_ml)
                found.setdefault(query, {}).setdefault(change.region, []).append(spread)
    regions = list(dict.fromkeys(region for by_region in found.values() for region in by_region))
    rows = []
    for query, by_region in found.items():
        medians = {region: median(by_region[region]) for region in regions if region in by_region}
        rows.append({"query": query, **{region: _share(medians.get(region, math.inf)) for region in regions}})
    columns = [("query", "Query", ""), *((region, region_label(region), "number") for region in regions)]
    return {"columns": columns, "rows": rows} if rows else None


def _own_slopes(study: Study) -> str:
    """How far participants' own slopes in time differ, where repeated visits tell."""
    told = study.diagnosed("slope_spread")
    if told.empty:
        return "No five participants came often enough to tell how far they do: no interval is widened by it."
    shares = [f"{region_label(str(row['item']))} {100 * float(row['value']):.0f} %" for row in records(told)]
    few = study.diagnosed("returning_participants")["warning"].dropna()
    cautions = [f" {words.capitalised(caution)}." for caution in few]
    return (
        "Repeated visits tell how far participants' own slopes in time differ, in per cent of the mean slope: "
        f"{listed(shares)}. Intervals of total changes in time are wider by that, and the table counts what "
        "would come on top." + "".join(cautions)
    )


def _share(spread: float) -> str:
    return f"{100 * spread:.0f} %" if spread < MOST_SPREAD else "–"


def _matrix(minimality: pd.DataFrame) -> Context | None:
    """The minimality matrix of BrainSCM: a row a query, a column a region, the colour how far beyond the noise."""
    own = minimality[(minimality["method"] == "latent_glm") & (minimality["decode"] == "residual")]
    if own.empty:
        return None
    regions = list(dict.fromkeys(own["region"]))
    rows: list[Context] = []
    for (query, effect), part in own.groupby(["query", "effect"], sort=False):
        cells = {cell["region"]: _heat(cell) for cell in records(part)}
        rows.append({"query": f"{query}, {effect} effect", **{region: cells.get(region, "–") for region in regions}})
    noise = own.drop_duplicates("region").set_index("region")["noise_ml"]
    floor = {region: f"{noise[region]:.1f}" if math.isfinite(noise[region]) else "–" for region in regions}
    rows.append({"query": "noise floor", **floor})
    return {
        "columns": [("query", "Query", ""), *((r, f"{region_label(r)} (ml)", "number") for r in regions)],
        "rows": rows,
        "words": (
            f"Means over {words.plural(int(own['participants'].max()), 'test participant')}. "
            f"Noise floor from {own['noise_source'].iloc[0]}."
        ),
    }


def _heat(cell: Context) -> Markup:
    excess, noise = float(cell["excess_ml"]), float(cell["noise_ml"])
    shown = Markup("<strong>{}</strong>" if cell["beyond_noise"] else "{}").format(millilitres(excess))
    measured, expected = (millilitres(float(cell[f"{kind}_ml"])) for kind in ("measured", "expected"))
    share = min(abs(excess) / noise, 3) / 3 if noise > 0 else 0.0
    return Markup('<span class="heat {}" style="--share: {:.0f}%">{}<small>{} for {}</small></span>').format(
        "above" if excess > 0 else "below", 45 * share, shown, measured, expected
    )


def _realism(table: pd.DataFrame) -> Context | None:
    """Can counterfactuals be told from real scans of other participants with those covariates?"""
    if table.empty:
        return None
    rows = []
    for key, part in table.groupby(["query", "method", "decode"], sort=False):
        query, method, decode = map(str, key)
        row: Context = {"query": query, "method": f"{words.METHODS[method]} ({decode})", "note": ""}
        for found in records(part):
            known = math.isfinite(found["mmd2"]) if plain(found["mmd2"]) is not None else False
            row["pairs"] = words.number(found["pairs"])
            shown = f"{found['mmd2']:.3f} ({found['null_95']:.3f}), p {words.p_value(found['p'])}" if known else "–"
            row[found["features"]] = shown
            row["note"] = plain(found["why_null"]) or ""
        rows.append(row)
    columns = [
        ("query", "Query", ""),
        ("method", "Method", ""),
        ("pairs", "Pairs", "number"),
        ("regions", "Regional volumes: MMD² (95 % of null)", "number"),
        ("image", "Contrast and sharpness: MMD² (95 % of null)", "number"),
    ]
    if any(row["note"] for row in rows):
        columns.append(("note", "Note", "text"))
    return {"columns": columns, "rows": rows}


def slope_findings(study: Study) -> list[str]:
    """One sentence a query on how its counterfactuals' slopes compare with those across participants."""
    sentences = []
    ends = {members[-1].name for members in by_question(study.queries).values()}  # of a trajectory its last value
    for key, part in study.regional_slopes.groupby(["query", "node"], sort=False):
        query, node = map(str, key)
        if query in set(study.query_of) - ends:
            continue
        compared = []
        by_region = {row["region"]: row for row in records(part)}
        for row in (by_region[region] for region in ("ventricles", "gm") if region in by_region):
            across, within = row["same_mask_slope_ml"], row["counterfactual_slope_ml"]
            if math.isfinite(across) and math.isfinite(within):
                region, unit = region_label(row["region"]), row["unit"]
                compared.append(
                    f"{region} {_per(within, unit)} (across participants of one mask volume {_per(across, unit)})"
                )
        if compared:
            sentences.append(f"Under {query}, a change of {node} moves {' and '.join(compared)}.")
    return sentences


def _per(slope: float, unit: object) -> str:
    per = {"years": "year"}.get(unit, unit) if isinstance(unit, str) else "unit"
    return words.signed(f"{slope:+#.2g}".rstrip(".") + f" ml a {per}")


def _methods(study: Study, overall: pd.DataFrame, source: str) -> Context:
    """The table and the charts of all methods against one kind of truth; of very few participants a sentence."""
    order = {method: place for place, method in enumerate(words.METHODS)}
    overall = overall[overall["method"].isin(list(order))]
    variants = list(dict.fromkeys(zip(overall["method"], overall["decode"], strict=True)))
    variants.sort(key=lambda variant: order[variant[0]])
    cells = {(cell["method"], cell["decode"], cell["metric"]): cell for cell in records(overall)}
    groups: dict[str, dict[str, list[charts.Estimate]]] = {metric: {"": [], APART: []} for metric in words.SCORES}
    rows: list[Context] = []
    for method, decode in variants:
        label = words.METHODS[method] + (f" ({decode})" if method == "latent_glm" else "")
        is_own, is_ceiling = (method, decode) == ("latent_glm", "residual"), method in CEILINGS
        row: Context = {"method": label, "_class": "best" if is_own else "ceiling" if is_ceiling else ""}
        if is_ceiling and not any(each["_class"] == "ceiling" for each in rows):
            row["_above"] = APART
        for metric, score in words.SCORES.items():
            cell = cells.get((method, decode, metric))
            if cell is None:
                row[metric] = "–"
                continue
            value, low, high = (float(cell[column]) for column in ("value", "ci95_low", "ci95_high"))
            row[metric] = words.interval(value, low, high, score.decimals)
            style = "ceiling" if is_ceiling else "ours" if method == "latent_glm" else "theirs"
            groups[metric][APART if is_ceiling else ""].append(charts.Estimate(label, value, low, high, style))
        rows.append(row)
    participants = int(overall["participants"].max())
    headings = {key: f"{m.short} ({m.unit})" if m.unit else m.short for key, m in words.SCORES.items()}
    too_few = participants < words.TOO_FEW
    return {
        "too_few": _in_a_sentence(cells) if too_few else None,
        "coinciding": _coinciding(study, cells),
        "words": (
            f"Truth: {SOURCES[source]}; {words.plural(int(overall['scans'].max()), 'scan')} of "
            f"{words.plural(participants, 'participant')}."
        ),
        "few": participants < words.FEW_PARTICIPANTS,
        "columns": [("method", "Method", ""), *((key, heading, "number") for key, heading in headings.items())],
        "rows": rows,
        "scatters": [] if too_few else scatters(study, source),
        "charts": [
            {
                "drawing": charts.forest(
                    {heading: each for heading, each in groups[key].items() if each},
                    score.unit,
                    score.name,
                    score.ideal,
                ),
                "caption": f"{score.name}{f' ({score.unit})' if score.unit else ''}: {score.better}",
            }
            for key, score in words.SCORES.items()
            if groups[key][""] and not too_few
        ],
    }


def _known(groups: Mapping[str, list[charts.Estimate]]) -> dict[str, list[charts.Estimate]]:
    return {heading: estimates for heading, estimates in groups.items() if estimates}


Cells = Mapping[tuple[str, str, str], Context]  # by method, decoding and metric


def _in_a_sentence(cells: Cells) -> str:
    """BrainSCM beside the best baseline, where there are too few participants to compare methods."""

    def value(method: str, decode: str, metric: str) -> float:
        return float(cells.get((method, decode, metric), {"value": math.nan})["value"])

    own = {metric: value("latent_glm", "residual", metric) for metric in words.SCORES}
    told = []
    for metric in ("psnr_brain_db", "change_correlation", "change_slope"):
        score = words.SCORES[metric]
        if math.isfinite(own[metric]):
            told.append(f"{score.short} {words.signed(f'{own[metric]:.{score.decimals}f}')} {score.unit}".strip())
    rivals = {
        method: float(cell["value"])
        for (method, _, metric), cell in cells.items()
        if metric == "psnr_brain_db" and method not in (*CEILINGS, "latent_glm")
    }
    sentence = f"BrainSCM reaches {listed(told)}" if told else "Nothing could be measured"
    if rivals:
        best = max(rivals, key=lambda name: rivals[name])
        sentence += f"; the nearest baseline to the truth, {words.METHODS[best]}, has PSNR {rivals[best]:.1f} dB"
    return f"{sentence}. So few participants cannot tell methods apart."


def _coinciding(study: Study, cells: Cells) -> list[str]:
    """One sentence a pair of baselines whose figures are the same, with the reason."""
    variants = list(dict.fromkeys((method, decode) for method, decode, _ in cells if method not in CEILINGS))
    sentences = []
    for place, first in enumerate(variants):
        for second in variants[place + 1 :]:
            pairs = [
                (float(cells[(*first, metric)]["value"]), float(cells[(*second, metric)]["value"]))
                for metric in words.SCORES
                if (*first, metric) in cells and (*second, metric) in cells
            ]
            if len(pairs) > 1 and all(math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6) for a, b in pairs):
                names = [
                    words.METHODS[method] + (f" ({decode})" if method == "latent_glm" else "")
                    for method, decode in (first, second)
                ]
                sentences.append(f"{listed(names)} coincide{_why_they_coincide(study, first[0], second[0])}.")
    return sentences


def _why_they_coincide(study: Study, first: str, second: str) -> str:
    if {first, second} == {"voxel_glm", "pca_glm"}:
        scans = len(study.scans.of_split("train"))
        return (
            f": with as many components as {words.plural(scans, 'training scan')} can give, PCA loses nothing of what "
            "a linear model of these scans can move"
        )
    if {first, second} == {"persistence", "voxel_shrunken"}:
        return ": shrinkage leaves the voxelwise GLM no effect"
    if first == second == "latent_glm":
        return ": where the encoder has no codebook, quantised decoding changes nothing"
    return " on these scans"


def _why_null(study: Study) -> list[str]:
    """One line a reason: what it takes away, of which methods."""
    lost: dict[str, dict[str, list[str]]] = {}
    for method, found in study.summary["methods"].items():
        for metric, reason in found.get("why_null", {}).items():
            lost.setdefault(reason, {}).setdefault(words.SCORES[metric].short, []).append(words.METHODS[method])
    lines = []
    for reason, by_metric in lost.items():
        methods = list(dict.fromkeys(method for names in by_metric.values() for method in names))
        lines.append(f"{listed(list(by_metric))} of {listed(methods)}: {reason}.")
    return lines


def _slopes(table: pd.DataFrame) -> list[Context]:
    """One block a query: slopes across participants and in the counterfactuals, side by side."""
    blocks = []
    for key, part in table.groupby(["query", "node", "effect"], sort=False):
        query, node, effect = map(str, key)
        found = records(part)
        unit = found[0]["unit"]
        per = f"ml per {unit.removesuffix('s') if isinstance(unit, str) else 'unit'}"
        groups = {
            region_label(row["region"]): [
                _estimate(row, "participants", "across participants", "theirs"),
                _estimate(row, "same_mask", "at one mask volume", "theirs"),
                _estimate(row, "counterfactual", "counterfactuals", "ours"),
            ]
            for row in found
        }
        blocks.append(
            {
                "title": f"{query}: {node}, {effect} effect",
                "words": (
                    f"{words.plural(int(found[0]['counterfactuals']), 'counterfactual')} beside "
                    f"{words.plural(int(found[0]['participants']), 'real participant')}."
                ),
                "drawing": charts.forest(groups, per, f"Slopes of regional volumes on {node} under {query}", 0.0),
                "caption": f"Slopes on {node}, {per}",
                "columns": [
                    ("region", "Region", ""),
                    ("mean", "Mean (ml)", "number"),
                    ("participants", "Across participants", "number"),
                    ("same_mask", "At one mask volume", "number"),
                    ("within", "Counterfactuals", "number"),
                    ("ratio", "Ratio", "number"),
                    *([("note", "Note", "text")] if any(plain(row["why_null"]) for row in found) else []),
                ],
                "rows": [_slope_row(row, *groups[region_label(row["region"])]) for row in found],
            }
        )
    return blocks


def _estimate(row: Context, kind: str, label: str, style: str) -> charts.Estimate:
    value, low, high = (float(row[f"{kind}_{column}_ml"]) for column in ("slope", "low", "high"))
    return charts.Estimate(label, value, low, high, style)


def _slope_row(row: Context, across: charts.Estimate, same_mask: charts.Estimate, within: charts.Estimate) -> Context:
    ratio = within.value / same_mask.value if same_mask.value else math.nan
    return {
        "region": region_label(row["region"]),
        "mean": words.number(float(row["mean_ml"])),
        "participants": words.interval(across.value, across.low, across.high, 2),
        "same_mask": words.interval(same_mask.value, same_mask.low, same_mask.high, 2),
        "within": words.interval(within.value, within.low, within.high, 2),
        "ratio": words.signed(f"{ratio:.2f}") if math.isfinite(ratio) else "–",
        "note": plain(row["why_null"]) or "",
    }


def _axioms(overall: pd.DataFrame) -> Context | None:
    found = overall[overall["source"] == "axiom"]
    if found.empty:
        return None
    value = found.set_index(["metric", "decode"])["value"]
    rows = []
    for axiom, label in AXIOMS.items():
        row = {"axiom": label}
        for decode in ("residual", "direct"):
            for kind, digits in (("l1", 2), ("ssim", 4)):
                key = (f"{axiom}_{kind}", decode)
                row[f"{decode}_{kind}"] = words.number(float(value[key]), digits) if key in value.index else "–"
        rows.append(row)
    return {
        "columns": [
            ("axiom", "Rule", ""),
            ("residual_l1", "Residual decoding: mean |error|", "number"),
            ("residual_ssim", "SSIM", "number"),
            ("direct_l1", "Direct decoding: mean |error|", "number"),
            ("direct_ssim", "SSIM", "number"),
        ],
        "rows": rows,
        "words": f"On {words.plural(int(found['scans'].max()), 'test scan')}.",
    }


def _strata(means: pd.DataFrame, sources: list[str]) -> list[Context]:
    """The latent model and its best rivals by query, age interval and level."""
    blocks: dict[str, list[Context]] = {}
    own = means[means["source"].isin(sources) & (means["stratum"] != "all")]
    for (stratum, source), part in own.groupby(["stratum", "source"], sort=False):
        kind, _, level = str(stratum).partition("=")
        participants = int(part["participants"].max())
        told = part if participants >= words.TOO_FEW else part.head(0)
        cells = told.set_index(["method", "decode", "metric"])["value"]

        def shown(method: str, metric: str, cells: pd.Series = cells) -> str:
            key = (method, "residual", metric)
            return words.number(float(cells[key])) if key in cells.index else "–"

        blocks.setdefault(kind, []).append(
            {
                "level": level,
                "truth": source,
                "participants": participants,
                "correlation": shown("latent_glm", "change_correlation"),
                "slope": shown("latent_glm", "change_slope"),
                "psnr": shown("latent_glm", "psnr_brain_db"),
                "voxel": shown("voxel_glm", "change_correlation"),
                "pca": shown("pca_glm", "change_correlation"),
                "coverage": shown("latent_glm", "interval_coverage_95"),
            }
        )
    columns = [
        ("level", "Group", ""),
        ("truth", "Truth", ""),
        ("participants", "Participants", "number"),
        ("correlation", "BrainSCM: correlation", "number"),
        ("slope", "Slope", "number"),
        ("psnr", "PSNR (dB)", "number"),
        ("coverage", "Coverage", "number"),
        ("voxel", "Voxelwise GLM: correlation", "number"),
        ("pca", "PCA + GLM: correlation", "number"),
    ]
    most = max((row["participants"] for rows in blocks.values() for row in rows), default=0)
    if most < words.TOO_FEW:
        return []
    titles = {"query": "By query", "years": "By change of age (years)"}
    return [{"name": titles.get(kind, f"By {kind}"), "columns": columns, "rows": rows} for kind, rows in blocks.items()]
