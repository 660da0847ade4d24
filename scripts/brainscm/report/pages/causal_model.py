"""The causal model: the declared graph, what was fitted to each node, and what a statistician would ask about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from brainscm.errors import ScanError
from brainscm.questions import question_of
from brainscm.regions import REGIONS as SEGMENTED
from brainscm.regions import region_label
from brainscm.report import charts, words
from brainscm.report.cells import Context, whole_table
from brainscm.report.gallery import Gallery
from brainscm.report.graph import MissingArrow, draw_graph
from brainscm.report.pages.effect_maps import effect_maps, effect_path, effect_paths, has_direct
from brainscm.report.pages.fit_checks import designs, residual_charts
from brainscm.report.study import Study
from brainscm.scans import records
from brainscm.scm.claims import ALL, adjustment_warnings, identification, in_words
from brainscm.scm.graph import Graph
from brainscm.wording import listed

SEEN = 0.1  # of the colours' limit: what changes less is black in a picture
TELLING_AIC = 2.0  # a difference below it tells nothing (Burnham & Anderson 2002)
REGION_NAMES = {name for region in SEGMENTED for name in (region.name, f"{region.name}_ml")}

COEFFICIENTS = {
    "term": "Term", "estimate": "Estimate", "standard_error": "Standard error", "t": "t", "df": "df", "p": "p",
    "ci95_low": "95 % from", "ci95_high": "to", "undone": "To explain it away, an unmeasured common cause must have",
}  # fmt: skip
TESTS = {
    "contrast": "Contrast", "effect": "Effect", "statistic": "Test", "df1": "df", "df2": "residual df",
    "share_q05": "q < 0.05", "max_abs_statistic": "Largest |t|, F", "min_q": "Smallest q",
    "share_fwe05": "FWE p < 0.05", "min_p_fwe": "Smallest FWE p",
    "median_partial_r2": "Median R²", "max_partial_r2": "Largest R²",
    "max_abs_d": "Largest |d|", "undone": "To bring it to zero, an unmeasured common cause must explain",
}  # fmt: skip
REGIONS = {
    "effect": "Effect", "region": "Region", "source": "From", "estimate_ml": "Change (ml)", "ci95_low_ml": "95 % from",
    "ci95_high_ml": "to", "estimate_percent": "Change (%)", "cohens_d": "d", "p": "p",
    "undone": "To bring it to zero, an unmeasured common cause must explain",
}  # fmt: skip
DIAGNOSTICS = {"check": "Check", "item": "Of", "value": "Value", "warning": "Warning"}


def context(study: Study, gallery: Gallery | None) -> Context:
    graph = study.graph
    parents = {node: list(graph.parents(node)) for node in graph.formulas} | {"image": list(graph.image.names)}
    families = dict(study.nodes[["node", "family"]].itertuples(index=False, name=None))
    notes = {node: families.get(node, study.unit(node) or "exogenous") for node in graph.formulas} | {
        "image": "latent of the scan"
    }
    arrows = "; ".join(f"{' and '.join(above)} to {node}" for node, above in parents.items() if above)
    formulas = {
        **{node: formula and formula.text for node, formula in graph.formulas.items()},
        "image": graph.image.text,
    }
    diagnostics = whole_table(study.diagnostics, DIAGNOSTICS)
    tests = whole_table(study.tests.assign(undone=_undone_contrasts(study)), TESTS)
    return {
        "lead": f"{words.plural(len(graph.formulas), 'node')} and the image, {_fitted_where(study)}.",
        "graph": draw_graph(parents, notes, f"Causal graph: {arrows}", _missing(study)),
        "claims": CLAIMS if len(study.implications) else {},
        "formulas": [
            {
                "node": node,
                "role": "modelled" if formula else "exogenous",
                "formula": Markup("<code>{}</code>").format(formula) if formula else "–",
            }
            for node, formula in formulas.items()
        ],
        "graph_findings": _graph_findings(study),
        "if_wrong": _if_wrong(study),
        "rests_on": _rests_on(study),
        "implications": _implications(study),
        "simpler": _simpler(study),
        "findings": _findings(study),
        "cautions": _cautions(study),
        "diagnostics": diagnostics["rows"],
        "diagnostic_columns": diagnostics["columns"],
        "tests": tests["rows"],
        "test_columns": tests["columns"],
        "effects": _effects(study, gallery),
        "maps": effect_maps(study, gallery),
        "designs": designs(study),
        "residuals": residual_charts(study),
        "regions": [
            {
                "contrast": contrast,
                "charts": _paired(str(contrast), rows),
                "is_indirect": not has_direct(study, study.config.scm.contrasts[str(contrast)])
                and study.graph.reaches_image(list(study.config.scm.contrasts[str(contrast)])),
                **_regions(study, str(contrast), rows),
            }
            for contrast, rows in _declared(study).groupby("contrast", sort=False)
        ],
        "refutation": _refutation(study),
        "has_e_values": study.nodes["e_value"].notna().any() if "e_value" in study.nodes else False,
        "models": [
            {"node": node, **whole_table(rows.assign(undone=_undone_terms(rows)), COEFFICIENTS)}
            for node, rows in study.nodes.groupby("node", sort=False)
        ],
    }


def _fitted_where(study: Study) -> str:
    own = "fitted on the training split alone"
    return f"{own} of the fitted study; nothing is fitted here" if study.bundle else own


def _declared(study: Study) -> pd.DataFrame:
    """The regional effects without direct ones of what has no arrow into the image, which are zero by the graph."""
    table = study.regional_effects
    direct = [name for name, ends in study.config.scm.contrasts.items() if has_direct(study, ends)]
    return table[(table["effect"] != "direct") | table["contrast"].isin(direct)]


def _regions(study: Study, contrast: str, rows: pd.DataFrame) -> Context:
    """The table of a contrast's regional effects, each with what would undo it."""
    causes = listed(list(study.config.scm.contrasts[contrast]))
    regions = rows["region"].map(region_label)
    undone = [
        words.undone_by(row["robustness_value"], row["p"], causes, region)
        for row, region in zip(records(rows), regions, strict=True)
    ]
    return whole_table(rows.assign(region=regions, undone=undone), REGIONS)


def _undone_contrasts(study: Study) -> list[str]:
    causes = {name: listed(list(ends)) for name, ends in study.config.scm.contrasts.items()}
    return [
        words.undone_by(
            row["max_robustness_value"],
            row["min_q"] if pd.isna(row["min_p_fwe"]) else row["min_p_fwe"],
            causes[str(row["contrast"])],
            "the latent where it is clearest",
        )
        for row in records(study.tests)
    ]


def _undone_terms(rows: pd.DataFrame) -> list[str]:
    """Of the coefficients of a node with two levels."""
    values = rows["e_value"] if "e_value" in rows else pd.Series(np.nan, rows.index)
    return [f"a risk ratio of {value:.3g} with both" if np.isfinite(value) else "" for value in values]


def _rests_on(study: Study) -> list[str]:
    """Of each effect that is asked for, what the formulas must hold and what must not be there."""
    graph = study.graph
    asked: dict[tuple[tuple[str, ...], str], dict[str, dict[str, None]]] = {}
    for kind, name, do, effects in [
        *(("contrast", name, tuple(ends), ("total", "direct")) for name, ends in study.config.scm.contrasts.items()),
        *(("question", question_of(query), tuple(query.do), (query.effect,)) for query in study.queries),
    ]:
        if graph.reaches_image(do):
            apart = graph.descendants(do) and has_direct(study, do)
            for effect in effects if apart else effects[:1]:
                asked.setdefault((do, effect), {}).setdefault(kind, {})[name] = None
    sentences = []
    for (do, effect), kinds in asked.items():
        by = "; ".join(f"{kind}{'s' if len(names) > 1 else ''} {listed(list(names))}" for kind, names in kinds.items())
        kind = f"{effect} effect" if graph.descendants(do) else "effect"
        needed = words.capitalised(identification(graph, do, effect))
        sentences.append(f"The {kind} of {listed(list(do))} ({by}). {needed}.")
    return sentences


def _paired(contrast: str, effects: pd.DataFrame) -> list[Context]:
    """A chart an effect: the change of each region in per cent, as measured and as decoded, each with its interval."""
    drawn = []
    for effect, rows in effects.groupby("effect", sort=False):
        groups = {
            region_label(str(region)): [_in_percent(row) for row in records(part)]
            for region, part in rows.groupby("region", sort=False)
        }
        title = f"Changes of regions under {contrast}, {effect} effect, in per cent"
        drawing = charts.forest(groups, "%", title, 0.0)
        drawn.append(
            {"caption": f"{words.capitalised(str(effect))} effect, in per cent of the mean", "drawing": drawing}
        )
    return drawn


def _in_percent(row: Context) -> charts.Estimate:
    value, low, high = (
        100 * float(row[f"{name}_ml"]) / row["mean_ml"] for name in ("estimate", "ci95_low", "ci95_high")
    )
    return charts.Estimate(row["source"], value, low, high, "theirs" if row["source"] == "measured" else "ours")


IMPLICATIONS = {
    "claim": "The graph says", "statistic": "Test", "df1": "df", "df2": "residual df", "value": "Statistic", "p": "p",
    "p_holm": "Adjusted p", "reason": "Not tested because",
}  # fmt: skip


def _implications(study: Study) -> Context:
    """The table of what the graph implies."""
    table = study.implications
    if table.empty:
        return {}
    claims = ["all of the nodes' claims" if row["node"] == ALL else in_words(row) for _, row in table.iterrows()]
    return whole_table(table.assign(claim=claims), IMPLICATIONS)


SIMPLER = {
    "node": "Node", "lacks": "Formula", "parameters": "Parameters", "aic": "AIC", "statistic": "Test", "df1": "df",
    "df2": "residual df", "value": "Statistic", "p": "p", "held_out_log_likelihood": "Held-out log-likelihood",
    "held_out_r2": "Held-out R²", "reason": "Not compared because",
}  # fmt: skip


# How an arrow that the graph leaves out is drawn, by what its test found: a CSS class, and words.
CLAIMS = {"held": "not contradicted", "against": "contradicted (adjusted p < 0.05)", "untested": "not tested"}


def _missing(study: Study) -> list[MissingArrow]:
    """The arrows that the graph leaves out, each with its test."""
    table = study.implications
    missing = []
    for _, row in table[table["node"] != ALL].iterrows():
        is_tested = pd.notna(row["p_holm"])
        against = str(row["conflict"]).lower() == "true"
        found = f"adjusted p {words.p_value(row['p_holm'])}" if is_tested else f"not tested: {row['reason']}"
        style = "untested" if not is_tested else "against" if against else "held"
        missing.append(MissingArrow(str(row["other"]), str(row["node"]), style, f"{in_words(row)}: {found}"))
    return missing


def _simpler(study: Study) -> Context:
    """The table of formulas and simpler ones, and a sentence on each that is as good."""
    table = study.formulas
    if table.empty:
        return {}
    sentences = []
    for node, rows in table.groupby("node", sort=False):
        declared = rows[rows["simpler"].isna()].iloc[0]
        for _, row in rows[rows["simpler"].notna() & (rows["aic"] < declared["aic"])].iterrows():
            measure = "held_out_r2" if node == "image" else "held_out_log_likelihood"
            less = declared["aic"] - row["aic"]
            sentence = f"{node}, {row['simpler']}: AIC is smaller by {less:.2g}"
            sentence += "" if less >= TELLING_AIC else f" (by less than {TELLING_AIC:g} it tells nothing)"
            if np.isfinite(gain := row[measure] - declared[measure]):
                held_out = words.plural(int(row["held_out_scans"]), "held-out scan")
                sentence += f", and it predicts {held_out} {'better' if gain > 0 else 'no better'}"
            sentences.append(f"{sentence}.")
    none = ["No simpler formula has a smaller AIC."]
    shown = whole_table(table.assign(lacks=table["simpler"].fillna("as declared")), SIMPLER)
    return {"sentences": sentences or none, **shown}


REFUTERS = {
    "placebo": "a placebo: the cause exchanged between participants",
    "outcome": "volumes exchanged between participants",
    "half": "a half of the participants",
    "bootstrap": "participants drawn with replacement",
    "confounder": "an unmeasured common cause",
}
REFUTATION = {
    "effect": "Effect", "region": "Region", "words": "Against", "strength": "Its share", "estimate_ml": "Change (ml)",
    "mean_ml": "With it", "low_95_ml": "95 % from", "high_95_ml": "to", "repeats": "Repeats", "p": "p",
    "holds": "Holds",
}  # fmt: skip


def _refutation(study: Study) -> list[Context]:
    """For each contrast and question, how many clear regional effects hold against each refuter, and the table."""
    if study.refutation.empty:
        return []
    told = study.refutation.assign(held=study.refutation["holds"].astype(str).str.lower() == "true")
    items = []
    for (kind, contrast), rows in told.groupby(["asked", "contrast"], sort=False):
        asked = rows[rows["holds"].notna() & (rows["effect_p"] < 0.05)]
        sentences = []
        for (refuter, _), each in asked.groupby(["refuter", "strength"], sort=False, dropna=False):
            share = 100 * each["strength"].iloc[0]
            of = f" that explains {share:.0f} % of both" if refuter == "confounder" else ""
            sentences.append(
                f"Against {REFUTERS[str(refuter)]}{of}: {each['held'].sum()} of "
                f"{words.plural(len(each), 'effect')} {'holds' if each['held'].sum() == 1 else 'hold'}."
            )
        shown = rows.assign(
            region=rows["region"].map(region_label),
            words=rows["refuter"].map(REFUTERS),
            holds=np.where(rows["holds"].isna(), "not told", np.where(rows["held"], "yes", "no")),
        )
        none = [f"No regional effect of {contrast} is told from zero, so that there is nothing to refute."]
        name = contrast if kind == "contrast" else f"the question {contrast}"
        items.append({"contrast": name, "sentences": sentences or none, **whole_table(shown, REFUTATION)})
    return items


def _graph_findings(study: Study) -> list[str]:
    """How the graph fared against the data, and what its adjustment rests on."""
    table, graph = study.implications, study.graph
    sentences = []
    if not table.empty:
        single = table[table["node"] != ALL]
        conflicts = single[single["conflict"].astype(str).str.lower() == "true"]
        tested = int(single["p"].notna().sum())
        if len(conflicts):
            sentences.append(
                f"The data contradict {words.plural(len(conflicts), 'claim')} of the {tested} that could be tested: "
                "draw an arrow, or say why the two go together otherwise."
            )
            for _, row in conflicts.iterrows():
                sentences.append(f"{in_words(row)}, and does (adjusted p {words.p_value(row['p_holm'])}).")
        elif tested:
            sentences.append(
                f"The data contradict none of the {words.plural(tested, 'claim')} that could be tested. That is no "
                "proof: a small cohort contradicts little, and the direction of an arrow is not tested."
            )
    measured = [name for name in graph.formulas if (study.config.scm.nodes[name].column or name) in REGION_NAMES]
    sentences += [f"{warning}." for warning in adjustment_warnings(graph, measured)]
    sentences += [f"{warning}." for warning in study.diagnosed("exogenous_association_p")["warning"].dropna()]
    return [sentence if sentence.startswith("scm.") else words.capitalised(sentence) for sentence in sentences]


def _if_wrong(study: Study) -> list[str]:
    """What an error of the graph would have to be like to undo the effects, and what refuters make of them."""
    sentences = []
    effects = study.regional_effects
    tested = effects[(effects["source"] == "measured") & effects["robustness_value"].notna()]
    told = tested[tested["p"] < 0.05]
    if len(told):
        by_strength = told.sort_values("robustness_value")
        weakest, strongest = by_strength.iloc[0], by_strength.iloc[-1]
        counted = f"Of {words.plural(len(tested), 'measured regional effect')} {len(told)}"
        below = f"{counted} {'has' if len(told) == 1 else 'have'} p below 0.05, as chance alone gives one in twenty"
        one = f"{_effect_name(weakest)}, which can be explained away"
        several = f"the easiest to explain away is {_effect_name(weakest)}"
        sentence = (
            f"{below}; {one if len(told) == 1 else several}: an unmeasured common cause does it that explains "
            f"{100 * weakest['robustness_value']:.0f} % of what is left of cause and volume."
        )
        if len(told) > 1:
            sentence += f" The hardest is {_effect_name(strongest)}: {100 * strongest['robustness_value']:.0f} %."
        sentences.append(sentence)
    nodes = study.nodes
    odds = nodes[nodes["e_value"].notna() & (nodes["p"] < 0.05)]
    if len(odds):
        least = odds.sort_values("e_value").iloc[0]
        sentences.append(
            f"The easiest arrow to explain away into a node with two levels is {least['term']} ({least['node']}): a "
            f"risk ratio of {least['e_value']:.2g} with both would do it (E-value)."
        )
    refuted = study.refutation
    if study.bundle:
        sentences.append("Refuters are put to the effects where they are fitted, not here.")
    elif refuted.empty:
        sentences.append(
            "Refuters have not been asked for: the target refute puts placebos and other tests to the effects."
        )
    else:
        asked = refuted[refuted["holds"].notna() & (refuted["effect_p"] < 0.05)]
        held = (asked["holds"].astype(str).str.lower() == "true").sum()
        sentences.append(
            f"Of {words.plural(len(asked), 'test')} that refuters put to the effects, {held} "
            f"{'was' if held == 1 else 'were'} passed."
        )
    return sentences


def _effect_name(row: pd.Series) -> str:
    return f"{region_label(str(row['region']))} under {row['contrast']} ({row['effect']})"


def _findings(study: Study) -> list[str]:
    """The fit in two sentences, then every warning of the diagnostics."""
    table = study.diagnostics
    if table.empty:
        return ["No diagnostics were written."]
    value = table.drop_duplicates(["check", "item"]).set_index(["check", "item"])["value"]
    scans, participants = int(value["training_scans", "used"]), int(value["training_participants", "used"])
    freedom = int(value["degrees_of_freedom", "image"])
    sentences = [
        f"The fit rests on {words.plural(scans, 'training scan')} of {words.plural(participants, 'participant')}; "
        f"{words.plural(freedom, 'degree')} of freedom are left for the noise."
    ]
    condition = value.get(("condition_number", "image"))
    warnings = table["warning"].dropna().tolist()
    if condition is not None and not any("collinear" in warning or "VIF" in warning for warning in warnings):
        inflations = study.diagnosed("vif").loc[lambda found: found["item"].str.startswith("image: "), "value"]
        told = f"; the largest VIF is {inflations.max():.2g}" if len(inflations) else ""
        sentences.append(f"The image's covariates can be told apart (condition number {condition:.3g}{told}).")
    sentences += _without_effect(study.graph)
    summed = {"participants_in_level", "max_cooks_distance"}
    few = study.diagnosed("participants_in_level").dropna(subset=["warning"])
    if len(few):
        levels = [f"{row['item'].replace('=', ' ')} ({row['value']:.0f})" for row in records(few)]
        sentences.append(f"Few training participants have {listed(levels)}.")
    others = table.loc[~table["check"].isin(summed), "warning"].dropna()
    return sentences + [f"{words.capitalised(warning)}." for warning in others] + _influential(study)


def _influential(study: Study) -> list[str]:
    """One sentence a participant who alone moves coefficients by much: of what, and by how much at most.

    Who that is cannot be told beside a bundle, which holds nothing of single participants.
    """
    warned = study.diagnosed("max_cooks_distance").dropna(subset=["warning"])
    moved: dict[str, dict[str, float]] = {}
    for item, distance in zip(warned["item"].astype(str), warned["value"].astype(float), strict=True):
        model, _, measure = item.rpartition(": ")
        name = region_label(measure) if model else f"{measure} (the node)"
        if study.residuals.empty:
            moved.setdefault("One participant", {})[name] = distance
            continue
        own = study.residuals[
            (study.residuals["model"] == (model or measure)) & (study.residuals["measure"] == measure)
        ]
        row = own.sort_values("cooks_distance", na_position="first").iloc[-1]
        moved.setdefault(str(row["participant"]), {})[name] = float(row["cooks_distance"])
    return [
        f"{participant} alone moves the coefficients of {listed(list(distances))} by much "
        f"(Cook’s distance {'up to ' if len(distances) > 1 else ''}{max(distances.values()):.2g})."
        for participant, distances in moved.items()
    ]


DOUBTS = ("residual_variance_p", "residual_skewness", "error_rate_05")  # checks that speak of p-values


def _cautions(study: Study) -> list[str]:
    """What stands beside the p-values: where they say too little, and contrasts that could not be tested."""
    tests = study.tests
    found = study.diagnosed(*DOUBTS)["warning"].dropna().tolist()
    noted = tests[tests["note"].notna()] if "note" in tests else tests.iloc[:0]
    found += [f"{row['contrast']} ({row['effect']}): {row['note']}" for _, row in noted.iterrows()]
    through = [name for name, ends in study.config.scm.contrasts.items() if study.graph.descendants(list(ends))]
    if through and len(tests):
        found.append(
            f"the total effect of {listed(through)} takes what the nodes in between pass on as it was estimated: "
            "its t and p do not count how uncertain that is, which the regional effects below do"
        )
    return [f"{words.capitalised(sentence)}." for sentence in found]


def _without_effect(graph: Graph) -> list[str]:
    """Nodes from which no way leads to the image, and those that reach it through others alone."""
    apart = [node for node in graph.formulas if not graph.reaches_image([node])]
    through = [node for node in graph.formulas if node not in apart and node not in graph.image.names]
    sentences = []
    if apart:
        sentences.append(
            f"No arrow leads from {listed(apart)} to the image, at first or second hand: do({apart[0]}) changes "
            "no voxel, and what differs with it stays in the residual."
        )
    if through:
        sentences.append(
            f"{listed(through)} {'acts' if len(through) == 1 else 'act'} on the image through other nodes alone."
        )
    return sentences


def _effects(study: Study, gallery: Gallery | None) -> list[Context]:
    """The decoded maps of the contrasts, all on one scale."""
    if gallery is None:
        return []
    found = [(name, path) for name in study.config.scm.contrasts if (path := effect_path(study, name)).exists()]
    try:
        limit = gallery.effect_limit(list(effect_paths(study).values()))
        pictures = {name: gallery.effect(path, limit) for name, path in found}
        largest = {name: gallery.largest_effect(path) for name, path in found}
    except ScanError:
        return []
    items = []
    for name, picture in pictures.items():
        ends = study.config.scm.contrasts[name]
        change = ", ".join(f"{node} from {low} to {high}" for node, (low, high) in ends.items())
        items.append(
            {
                "name": name,
                "picture": picture,
                "limit": limit,
                "words": "change of the mean brain (white matter = 1)",
                "file": f"scm/effects/{name}_T1w.nii.gz",
                "caption": f"{name}: {change}. What it adds to the mean training brain, decoded."
                + (f" No voxel changes by more than {largest[name]:.2g}." if largest[name] < SEEN * limit else ""),
            }
        )
    return items
