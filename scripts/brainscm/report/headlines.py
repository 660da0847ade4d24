"""What the evaluation found, in figures and sentences: from its complete table, with intervals, the worst beside the
mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainscm.evaluation.bootstrap import bootstrap_mean
from brainscm.questions import by_question
from brainscm.regions import region_label
from brainscm.report import words
from brainscm.report.changes import SMALL_PERCENT, Change, mean_changes
from brainscm.wording import listed

if TYPE_CHECKING:
    from brainscm.report.study import Study

OWN = "latent_glm"
PROMISED = 0.95  # share of truths, by the intervals of regional volumes
CEILINGS = ("pca_ceiling", "latent_ceiling")
# The decodings that stand for a method in summary.json, too.
DECODES = ("none", "residual")


@dataclass(frozen=True)
class Found:
    """A mean over scans and queries with its 95 % interval (NaN: none), and the query that does worst, if several do.

    `worst` is (query, value).
    """

    value: float
    low: float
    high: float
    scans: int
    participants: int
    worst: tuple[str, float] | None = None

    @property
    def is_bounded(self) -> bool:
        return self.low < self.high

    def shown(self, decimals: int, factor: float = 1.0) -> str:
        """`0.19 (0.12 to 0.27)`."""
        value, low, high = (_fixed(factor * number, decimals) for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if self.is_bounded else value

    @property
    def basis(self) -> str:
        return f"{words.plural(self.scans, 'scan')} of {words.plural(self.participants, 'participant')}"


@dataclass(frozen=True)
class Margin:
    """By how many dB BrainSCM's volumes are nearer to the truth than those of `rival`, the best of all baselines."""

    rival: str
    found: Found


@dataclass(frozen=True)
class Evidence:
    """The measurements against one kind of truth.

    Attributes:
        means: overall means and those of strata; scans: single measurements; both of metrics.tsv, without reasons.
    """

    means: pd.DataFrame
    scans: pd.DataFrame

    @classmethod
    def of(cls, metrics: pd.DataFrame, source: str | None) -> Evidence:
        own = metrics[(metrics["source"] == source) & metrics["decode"].isin(DECODES)]
        return cls(own[own["level"] == "mean"], own[own["level"] == "scan"])

    def score(self, metric: str) -> Found | None:
        """BrainSCM's mean score; None where there is none."""
        rows = self.means[(self.means["method"] == OWN) & (self.means["metric"] == metric)]
        rows = rows[rows["region"].isna()]
        overall = rows[rows["stratum"] == "all"]
        if overall.empty:
            return None
        row = overall.iloc[0]
        queries = rows[rows["stratum"].str.startswith("query=")].set_index("stratum")["value"]
        worst = _worst({str(name).removeprefix("query="): float(value) for name, value in queries.items()}, metric)
        value, low, high = (float(row[column]) for column in ("value", "ci95_low", "ci95_high"))
        return Found(value, low, high, int(row["scans"]), int(row["participants"]), worst)

    def margin(self) -> Margin | None:
        """BrainSCM against the best of all baselines by PSNR, pair by pair."""
        rows = self.scans[(self.scans["metric"] == "psnr_brain_db") & self.scans["region"].isna()]
        methods = [method for method in words.METHODS if method not in CEILINGS]
        table = rows[rows["method"].isin(methods)].pivot_table(
            index=["query", "scan", "participant"], columns="method", values="value"
        )
        if OWN not in table or table.shape[1] < 2:
            return None
        rivals = table.drop(columns=OWN).mean()
        rival = str(rivals.idxmax())
        pairs = (table[OWN] - table[rival]).dropna().reset_index(name="margin")
        if pairs.empty:
            return None
        value, low, high = bootstrap_mean(
            pairs["margin"].to_numpy(), pairs["participant"].to_numpy(), np.random.default_rng(0)
        )
        by_query = {str(query): float(mean) for query, mean in pairs.groupby("query")["margin"].mean().items()}
        counts = pairs["scan"].nunique(), pairs["participant"].nunique()
        return Margin(rival, Found(value, low, high, *counts, _worst(by_query, "psnr_brain_db")))

    def least_covered(self) -> tuple[str, str, int, int] | None:
        """The query and region whose truth the 95 % intervals hold least often: (query, region, held, cases)."""
        rows = self.scans[(self.scans["method"] == OWN) & (self.scans["metric"] == "interval_coverage_95")]
        cells = rows[rows["region"].notna()].groupby(["query", "region"])["value"].agg(["mean", "sum", "count"])
        if cells.empty:
            return None
        least = cells.reset_index().sort_values("mean", kind="stable").iloc[0]
        return str(least["query"]), str(least["region"]), int(least["sum"]), int(least["count"])


def _worst(values: Mapping[str, float], metric: str) -> tuple[str, float] | None:
    """The query that is furthest to the bad side; None where there is only one."""
    finite = {query: value for query, value in values.items() if math.isfinite(value)}
    if len(values) < 2 or not finite:
        return None
    score = words.SCORES[metric]
    if metric == "change_slope":
        worst = max(finite, key=lambda query: abs(finite[query] - 1))
    elif score.better == "lower is better":
        worst = max(finite, key=lambda query: finite[query])
    else:
        worst = min(finite, key=lambda query: finite[query])
    return worst, finite[worst]


def evidence(study: Study) -> Evidence:
    """The measurements that summary.json is made from."""
    return Evidence.of(study.metrics, study.summary.get("truth", {}).get("source"))


def fidelity_figure(study: Study) -> dict[str, Any]:
    """How faithfully scans that nothing was fitted on are encoded, with its interval and the scan that does worst."""
    table = study.reconstruction.dropna(subset=["psnr_brain_db"])
    if study.bundle is None:
        table = table[table["split"] == "test"]
    label = "Reconstruction" if study.bundle else "Reconstruction, test split"
    if table.empty:
        return {"label": label, "value": None, "note": "no usable scan" if study.bundle else "no usable test scan"}
    owners = table["scan"].map({scan: row["participant"] for scan, row in study.rows.items()}).to_numpy()
    mean = bootstrap_mean(table["psnr_brain_db"].to_numpy(), owners, np.random.default_rng(0))
    found = Found(*mean, scans=len(table), participants=len(set(owners)))
    note = f"PSNR inside the brain: how faithful the encoding is ({_interval(found, 1)}{found.basis})"
    if len(table) > 1:
        worst = table.sort_values("psnr_brain_db").iloc[0]
        note += f"; worst is {worst['scan']}: {_fixed(worst['psnr_brain_db'], 1)}"
    return {"label": label, "value": f"{_fixed(found.value, 1)} dB", "note": note}


def headline_figures(study: Study) -> list[dict[str, Any]]:
    """How right the answers are, for the top of the first page, with intervals, basis and the worst query."""
    own = study.summary["methods"][OWN]
    reasons = own.get("why_null", {})
    known = evidence(study)
    shown = []
    for metric, label, meaning in (
        ("change_correlation", "Agreement with the truth", "correlation of predicted and true change"),
        ("change_slope", "Size of the change", "of the true change; 1 is right"),
    ):
        found = known.score(metric)
        if found is None:
            shown.append({"label": label, "value": None, "note": reasons.get(metric, "no truth is known")})
            continue
        worst = f"; worst under {found.worst[0]}: {_fixed(found.worst[1], 2)}" if found.worst else ""
        note = f"{meaning} ({_interval(found, 2)}{found.basis}){worst}"
        shown.append({"label": label, "value": _fixed(found.value, 2), "note": note})
    return shown


def findings(study: Study) -> list[str]:
    """What the evaluation found, in sentences."""
    own = study.summary["methods"][OWN]
    reasons = own.get("why_null", {})
    known = evidence(study)
    correlation, slope = known.score("change_correlation"), known.score("change_slope")
    if correlation is None:
        return [
            "Whether the counterfactuals are right could not be measured: "
            f"{reasons.get('change_correlation', 'no reason was recorded')}."
        ]
    mean = "mean with its 95 % interval, " if correlation.is_bounded else ""
    sentences = [
        f"The predicted change correlates {correlation.shown(2)} with the true one: {mean}{correlation.basis}."
        f"{_least(correlation, 2)}"
    ]
    if slope is not None:
        furthest = f" Furthest off is {slope.worst[0]} ({_fixed(slope.worst[1], 2)})." if slope.worst else ""
        sentences.append(
            f"It is {words.size_of_change(slope.value)}"
            f"{f' (95 % interval {_fixed(slope.low, 2)} to {_fixed(slope.high, 2)})' if slope.is_bounded else ''}."
            f"{furthest}"
        )
    margin = known.margin()
    if margin is not None:
        sentences.append(_compared(margin))
    sentences.append(_coverage_words(known, reasons))
    sentences += wrong_ways(study) + standing_still(study)
    if correlation.participants < words.FEW_PARTICIPANTS:
        counted = words.plural(correlation.participants, "participant")
        sentences.append(
            f"All this rests on {counted}: another few may give other figures, and 95 % intervals from so few are "
            "themselves too narrow."
        )
    return sentences


def _compared(margin: Margin) -> str:
    found, name = margin.found, words.METHODS[margin.rival]
    rival, gap = name[0].lower() + name[1:] if name[1].islower() else name, found.value
    interval = f" (95 % interval {_fixed(found.low, 1)} to {_fixed(found.high, 1)})" if found.is_bounded else ""
    if abs(gap) < 0.05 or (found.is_bounded and found.low < 0 < found.high):
        told = f"cannot be told from those of the best baseline, {rival}, by how near to the truth they are: "
        told += f"a gain of {_fixed(gap, 1)} dB{interval}"
    else:
        nearer = "nearer to" if gap > 0 else "further from"
        told = f"are {abs(gap):.1f} dB {nearer} the truth than those of the best baseline, {rival}{interval}"
    worst = f" Least is gained under {found.worst[0]} ({_fixed(found.worst[1], 1)} dB)." if found.worst else ""
    return f"Its volumes {told}.{worst}"


def _coverage_words(known: Evidence, reasons: Mapping[str, str]) -> str:
    found = known.score("interval_coverage_95")
    if found is None:
        return f"Intervals were not evaluated: {reasons.get('interval_coverage_95', 'no reason was recorded')}."
    held = 100 * found.value
    told = f"Its 95 % intervals of regional volumes hold the truth in {held:.0f} % of cases"
    if found.is_bounded:
        told += f" (95 % interval {100 * found.low:.0f} to {100 * found.high:.0f} %)"
    told += f": {_trust(found)}."
    least = known.least_covered()
    if least is not None and least[2] < 0.93 * least[3]:
        query, region, held_cases, cases = least
        told += f" Least often held: {region_label(region)} under {query}, {held_cases} of {cases}."
        if found.worst and found.worst[0] != query:
            told += f" Of the queries the worst is {found.worst[0]} ({100 * found.worst[1]:.0f} %)."
        elif found.worst:
            told += f" All regions under {query}: {100 * found.worst[1]:.0f} %."
    return told


def _trust(found: Found) -> str:
    """What a coverage of 95 % intervals says; that of few participants cannot be told from what was promised."""
    low, high = (found.low, found.high) if found.is_bounded else (found.value, found.value)
    if not found.is_bounded or found.participants < words.FEW_PARTICIPANTS:
        # A bootstrap over few knows only what these few show, and is too narrow.
        fewest, most = _wilson(found.value, found.participants)
        low, high = min(low, fewest), max(high, most)
    if high < PROMISED:
        return "too narrow"
    if low > PROMISED:
        return "wider than needed"
    as_promised = abs(found.value - PROMISED) <= 0.02
    return "as they should" if as_promised else f"by so few, that cannot be told from {100 * PROMISED:.0f} %"


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n."""
    z = NormalDist().inv_cdf(0.975)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


def _means_of_questions(study: Study, only: str | None) -> Iterator[tuple[str, dict[str, list[Change]]]]:
    """Each question, or `only` one, with the mean change of each region under each of its members."""
    for question, members in by_question(study.queries).items():
        if only in (None, question):
            yield question, {member.name: mean_changes(study.changes, member.name) for member in members}


def wrong_ways(study: Study, only: str | None = None) -> list[str]:
    """One sentence a question under which the mean change of a region goes the wrong way.

    Of a trajectory the member is told in which a region goes furthest the wrong way.
    """
    sentences = []
    for question, by_member in _means_of_questions(study, only):
        furthest: dict[str, tuple[Change, str]] = {}
        for member, changes in by_member.items():
            for change in changes:
                before = furthest.get(change.region)
                if change.is_wrong_way and (before is None or change.miss_ml > before[0].miss_ml):
                    furthest[change.region] = (change, member)
        named = []
        for change, name in furthest.values():
            known = math.isfinite(change.true_ml)
            told = f"{millilitres(change.measured_ml)} ml where {millilitres(change.right_ml)} "
            told += "are true" if known else "are expected"
            told += f", under {name}" if len(by_member) > 1 else ""
            named.append(f"{region_label(change.region)} ({told})")
        if named:
            sentences.append(f"Under {question} move in the wrong direction: {listed(named)}.")
    return sentences


def standing_still(study: Study, only: str | None = None) -> list[str]:
    """One sentence a question under which no region moves, on average, though one should."""
    sentences = []
    for question, by_member in _means_of_questions(study, only):
        changes = [change for each in by_member.values() for change in each]
        known = [change for change in changes if math.isfinite(change.right_ml)]
        if not known or any(abs(change.percent(change.measured_ml)) >= SMALL_PERCENT for change in changes):
            continue
        most = max(known, key=lambda change: abs(change.percent(change.right_ml)))
        if abs(most.percent(most.right_ml)) >= SMALL_PERCENT:
            kind = "true" if math.isfinite(most.true_ml) else "expected"
            sentences.append(
                f"Under {question} hardly anything moves: no region by {SMALL_PERCENT:g} % or more, where "
                f"{millilitres(most.right_ml)} ml of {region_label(most.region)} are {kind}."
            )
    return sentences


def millilitres(value: float) -> str:
    """A change in ml with its sign; none has no sign."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.1f}"
    return words.signed(text if float(text) else text[1:])


def _interval(found: Found, decimals: int) -> str:
    return f"{_fixed(found.low, decimals)} to {_fixed(found.high, decimals)}; " if found.is_bounded else ""


def _least(found: Found, decimals: int) -> str:
    return f" Least is {found.worst[0]} ({_fixed(found.worst[1], decimals)})." if found.worst else ""


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return words.signed(text.removeprefix("-") if float(text) == 0 else text)
