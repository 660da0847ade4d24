"""The evaluation stage: what is fitted once, what is scored of each test scan, and what is made of all scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.errors import BrainSCMError
from brainscm.evaluation.axioms import axiom_scans, check_axioms
from brainscm.evaluation.cases import Case, find_cases
from brainscm.evaluation.evaluator import Evaluator, Scores, asked_scans
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.intervals import PARTICIPANTS_NEEDED
from brainscm.evaluation.measurements import table_of
from brainscm.evaluation.minimality import minimality_table
from brainscm.evaluation.peers import Peers
from brainscm.evaluation.realism import FEATURES, features_of, image_features, realism_table
from brainscm.evaluation.repeats import Repeats, measure_repeats
from brainscm.evaluation.scores import ShardScores, in_order
from brainscm.evaluation.slopes import counterfactual_changes, numeric_answers, regional_slopes
from brainscm.evaluation.summary import metrics_table, summarise
from brainscm.files import write_json
from brainscm.regions import COMPARED
from brainscm.scm.design import Array
from brainscm.shards import WHOLE, Shard
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")

NO_TRUTH = "no true counterfactual and no follow-up scan of a usable test participant"


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation writes: the contract's summary and the tables (see docs/reference/outputs.md)."""

    summary: dict[str, Any]
    metrics: pd.DataFrame
    regional_slopes: pd.DataFrame
    minimality: pd.DataFrame
    realism: pd.DataFrame

    def write(self, folder: Path) -> None:
        write_json(folder / "summary.json", self.summary)
        for name in ("metrics", "regional_slopes", "minimality", "realism"):
            write_table(getattr(self, name), folder / f"{name}.tsv")


def fit_peers(inputs: EvaluationInputs) -> Peers | None:
    """Fit what the study's own method is compared with, and calibrate intervals; None where no test scan is asked.

    Raises:
        BrainSCMError: a participant of the test split is among those that the causal model was fitted on.
    """
    _refuse_leak(inputs)
    cases, repeats = _cases(inputs), _repeats(inputs)
    answered = sum(case.source != "unanswered" for case in cases)
    logger.info("%d questions, %d of which have a known answer", len(cases), answered)
    logger.info("noise floor of the regions: %s", repeats.source)
    return Peers.fit(inputs, cases, _regional(inputs), bool(repeats.sd_ml)) if cases else None


def score(inputs: EvaluationInputs, peers: Peers | None, shard: Shard = WHOLE) -> ShardScores:
    """Put every method to the questions of a shard's test scans, and measure.

    Args:
        peers: as `fit_peers` gives them.
    """
    cases, scores = _cases(inputs), Scores([], [])
    if peers is not None and any(shard.holds(case.scan) for case in cases):
        evaluator = Evaluator(inputs, peers, _regional(inputs), _repeats(inputs).sd_ml)
        scores = evaluator.evaluate(cases, shard)
    axioms = check_axioms(inputs, inputs.queries[0], shard) if inputs.queries else []
    return ShardScores(
        measurements=table_of([*scores.rows, *axioms]),
        features=pd.DataFrame(scores.features, columns=FEATURES),
        changes=counterfactual_changes(inputs, shard),
    )


def gather(inputs: EvaluationInputs, parts: Sequence[ShardScores], seed: int) -> Evaluation:
    """What the scores of all shards say. What needs a truth is null, with the reason, where there is none.

    Raises:
        BrainSCMError: a participant of the test split is among those that the causal model was fitted on.
    """
    _refuse_leak(inputs)
    scm, usable = inputs.scm, inputs.scans.usable
    cases, repeats = _cases(inputs), _repeats(inputs)
    asked, axioms = asked_scans(cases), axiom_scans(inputs)["scan"]
    scored = [part.measurements.assign(is_axiom=part.measurements["source"] == "axiom") for part in parts]
    order = [(is_axiom, scan) for is_axiom, scans in ((False, asked), (True, axioms)) for scan in scans]
    measurements = in_order(scored, ["is_axiom", "scan"], order).drop(columns="is_axiom")
    answers = [(row["query"], row["scan"]) for row in numeric_answers(inputs)]
    changes = in_order([part.changes for part in parts], ["query", "scan"], answers)
    features = in_order([part.features for part in parts], ["scan"], asked)
    metrics = metrics_table(measurements, scm, usable, seed)

    def real_features(scan: str) -> Array:
        return image_features(inputs.scans.volume(scan), inputs.scans.mask(scan))

    return Evaluation(
        summary=summarise(metrics, inputs.reconstruction, NO_TRUTH, _why_no_interval(cases, repeats)),
        metrics=metrics,
        regional_slopes=regional_slopes(scm, usable[usable["split"].isin(["train", "test"])], changes, COMPARED),
        minimality=minimality_table(measurements, usable, COMPARED, repeats, seed),
        realism=realism_table(
            features_of(features, scm, inputs.queries, usable), scm, usable, COMPARED, real_features, seed
        ),
    )


def evaluate(inputs: EvaluationInputs, seed: int) -> Evaluation:
    """Evaluate a study in one go, as one shard."""
    return gather(inputs, [score(inputs, fit_peers(inputs))], seed)


def _cases(inputs: EvaluationInputs) -> list[Case]:
    age_column = inputs.scm.covariates.columns["age"] if "age" in inputs.scm.covariates.ranges else None
    return find_cases(inputs.bids_dir, inputs.scans.usable, inputs.queries, age_column)


def _repeats(inputs: EvaluationInputs) -> Repeats:
    return measure_repeats(inputs.scans.usable, inputs.scm, COMPARED)


def _regional(inputs: EvaluationInputs) -> RegionalModel:
    return RegionalModel.fit(inputs.scm, inputs.scans.usable, COMPARED)


def _refuse_leak(inputs: EvaluationInputs) -> None:
    """Stop where the test split was fitted on: every figure would look better than it is."""
    rows = inputs.scans.rows
    leaked = sorted(set(inputs.scm.training["participant"]) & set(rows.loc[rows["split"] == "test", "participant"]))
    if leaked:
        raise BrainSCMError(
            f"evaluation: {len(leaked)} participants of the test split ({leaked[0]}, …) are among those that the "
            "causal model was fitted on; run fit_scm again with the present split."
        )


def _why_no_interval(cases: Sequence[Case], repeats: Repeats) -> str:
    if all(case.source != "simulated" for case in cases) and not repeats.sd_ml:
        return f"how far two scans of a participant come apart is not known: {repeats.source}"
    return f"fewer than {PARTICIPANTS_NEEDED} participants outside the test split to calibrate intervals on"
