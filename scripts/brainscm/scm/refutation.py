"""Refuters: the regional effects estimated anew where they should vanish, and where they should stay.

With a placebo for a cause, or volumes that are somebody else's, nothing should be found; a half of the participants, or
a draw from them, should tell the same; and a common cause of stated strength shows what it would take (the refuters of
Sharma & Kiciman, 2020, DoWhy, arXiv 2011.04216, for all regional effects at once).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.errors import BrainSCMError
from brainscm.questions import question_of, select_scans
from brainscm.scans import records
from brainscm.scm.design import Array
from brainscm.scm.model import Scm
from brainscm.scm.permutation import Basis, exchange
from brainscm.scm.regional_effects import Change, contrast_change, estimates, measured_effects, query_change
from brainscm.scm.sensitivity import left_under_confounder

logger = logging.getLogger("brainscm")

COLUMNS = [
    "asked", "contrast", "effect", "region", "effect_p", "refuter", "strength", "estimate_ml", "mean_ml", "low_95_ml",
    "high_95_ml", "repeats", "p", "holds",
]  # fmt: skip
REPEATS = 100
QUESTIONS = 3  # of a study's counterfactuals, so many are refuted, too
FEWEST = 20  # repeats that can be fitted, below which nothing is said
# Shares of what is left of cause and outcome that an unmeasured common cause explains: small, medium and large effects
# by Cohen (1988), whose f² are 0.02, 0.15 and 0.35.
STRENGTHS = (0.02, 0.13, 0.26)
LEVEL = 0.05
GIVEN = ("asked", "contrast", "effect", "region", "effect_p", "estimate_ml")
VANISHING = ("placebo", "outcome")  # refuters under which nothing should be found

Refuter = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]


def refute(
    scm: Scm,
    table: pd.DataFrame,
    effects: pd.DataFrame,
    regions: Sequence[str],
    queries: Sequence[QueryOptions] = (),
) -> pd.DataFrame:
    """What refuters make of the measured regional effects of each contrast, and of the study's first three questions.

    A question's regional effect is the mean change over its scans, by the measured volumes of the training scans.

    Args:
        scm: the fitted model; its seed decides what is drawn.
        table: scan, participant, split, the nodes' columns, and `<region>_ml`.
        effects: those of `measured_effects`.
        regions: names of the regions.
        queries: of the study; of a trajectory the first is taken.

    Returns:
        One row a contrast (or question, as `asked` says), effect, region and refuter; `effect_p` is its own p:

        - `placebo`: the contrast's nodes are exchanged between participants, as in the permutation test, and every node
          is fitted anew. `outcome`: so are the volumes, all of a scan together. `p` is the share of repeats whose
          estimate is at least as large as the true one, `estimate_ml`.
        - `half`: a random half of the participants. `bootstrap`: as many participants, drawn with replacement. `p` is
          twice the share of repeats on the other side of zero.
        - `confounder`: `mean_ml` is what is left under a common cause of `strength`; see `left_under_confounder`.

        `mean_ml`, `low_95_ml`, `high_95_ml` are of the estimates in all `repeats` that could be fitted; of fewer than
        20 nothing is said. `holds`: p < 0.05; of a confounder, the sign stays.
    """
    volumes = [f"{region}_ml" for region in regions if f"{region}_ml" in table]
    cohort = scm.training.merge(table[["scan", *volumes]], on="scan", how="left", suffixes=("", "_again"))
    rows = []
    asked = [("contrast", contrast_change(scm, name), effects) for name in scm.options.contrasts]
    for change in _questions(scm, table, queries):
        asked.append(("counterfactual", change, measured_effects(scm, table, regions, [change])))
    for kind, change, of_change in asked:
        own = of_change[(of_change["contrast"] == change.name) & (of_change["source"] == "measured")]
        own = own[own["standard_error_ml"] > 0].assign(asked=kind, effect_p=own["p"])
        known = records(own)
        for name, refuter in _refuters(scm, change, volumes).items() if known else ():
            found = list(_repeated(scm, cohort, regions, change, refuter))
            logger.info("%s, %s: %d of %d repeats could be fitted", change.name, name, len(found), REPEATS)
            for effect in known:
                key = effect["effect"], effect["region"]
                rows.append(_told(effect, name, np.array([each[key] for each in found if key in each])))
        rows += [_confounded(effect, strength) for strength in STRENGTHS for effect in known]
    return pd.DataFrame(rows, columns=COLUMNS)


def _questions(scm: Scm, table: pd.DataFrame, queries: Sequence[QueryOptions]) -> Iterator[Change]:
    """The first few questions of a study that change anything."""
    usable = table[scm.problems(table) == ""]
    first: dict[str, QueryOptions] = {}
    for query in queries:
        first.setdefault(question_of(query), query)
    for query in list(first.values())[:QUESTIONS]:
        scans = select_scans(table, query)
        scans = usable[usable["scan"].isin(scans["scan"])]
        if len(scans) and np.any(query_change(query, scans).average(scm, query.effect)[0]):
            yield query_change(query, scans)


def _refuters(scm: Scm, change: Change, volumes: list[str]) -> dict[str, Refuter]:
    participants, causes = scm.training["participant"].tolist(), [scm.covariates.columns[node] for node in change.high]
    row = change.average(scm, change.effects[0])[0]
    tested = Basis.of(scm.design_matrix(scm.training), row[None]).tested
    draw = exchange(participants, tested)[1]

    def exchanged(columns: list[str]) -> Refuter:
        def refuter(cohort: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
            return cohort.assign(**cohort[columns].iloc[draw(rng)].reset_index(drop=True))

        return refuter

    return {"placebo": exchanged(causes), "outcome": exchanged(volumes), "half": _half, "bootstrap": _bootstrap}


def _half(cohort: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    participants = cohort["participant"].unique()
    kept = rng.choice(participants, (len(participants) + 1) // 2, replace=False)
    return cohort[cohort["participant"].isin(kept)]


def _bootstrap(cohort: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A participant who is drawn twice counts as two."""
    by_participant = cohort.groupby("participant").indices
    participants = list(by_participant)
    drawn = [by_participant[participants[k]] for k in rng.integers(len(participants), size=len(participants))]
    rows = cohort.iloc[np.concatenate(drawn)]
    again = np.repeat(np.arange(len(drawn)), [len(each) for each in drawn]).astype(str)
    return rows.assign(participant=again, scan=rows["scan"].to_numpy() + "_" + again)


def _repeated(
    scm: Scm, cohort: pd.DataFrame, regions: Sequence[str], change: Change, refuter: Refuter
) -> Iterator[dict[tuple[str, str], float]]:
    """The estimates of each repeat that can be fitted, by effect and region."""
    columns = list(scm.training.columns)
    for k in range(REPEATS):
        changed = refuter(cohort, np.random.default_rng([scm.seed, 4, k])).reset_index(drop=True)
        try:
            with _silent():
                found = estimates(scm.relearn(changed[columns]), changed, regions, change)
        except BrainSCMError:  # a level that nobody has, columns that cannot be told apart, …
            continue
        yield found


@contextmanager
def _silent() -> Iterator[None]:
    """Warnings of one repeat's nodes are nobody's concern."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _told(effect: dict[str, Any], refuter: str, found: Array) -> dict[str, Any]:
    """A row, of the estimates in all repeats."""
    told = {key: effect[key] for key in GIVEN} | {"refuter": refuter, "repeats": len(found)}
    if len(found) < FEWEST:
        return told
    if refuter in VANISHING:
        p = (1 + (np.abs(found) >= abs(effect["estimate_ml"])).sum()) / (1 + len(found))
    else:
        p = min(1.0, 2 * (1 + min((found <= 0).sum(), (found >= 0).sum())) / (1 + len(found)))
    low, high = np.quantile(found, (0.025, 0.975))
    return told | {"mean_ml": found.mean(), "low_95_ml": low, "high_95_ml": high, "p": p, "holds": bool(p < LEVEL)}


def _confounded(effect: dict[str, Any], strength: float) -> dict[str, Any]:
    told = {key: effect[key] for key in GIVEN} | {"refuter": "confounder", "strength": strength}
    if not np.isfinite(effect["robustness_value"]):
        return told
    left = float(left_under_confounder(effect["robustness_value"], strength))
    return told | {"mean_ml": left * effect["estimate_ml"], "holds": left > 0}
