"""The evaluation stage: from a study's files to the summary, the metrics and the tables beside them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.errors import BrainSCMError
from brainscm.evaluation.axioms import check_axioms
from brainscm.evaluation.cases import Case, find_cases
from brainscm.evaluation.evaluator import Evaluator, Scores
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.intervals import PARTICIPANTS_NEEDED
from brainscm.evaluation.methods import Methods
from brainscm.evaluation.minimality import minimality_table
from brainscm.evaluation.realism import image_features, realism_table
from brainscm.evaluation.repeats import Repeats, measure_repeats
from brainscm.evaluation.slopes import counterfactual_changes, regional_slopes
from brainscm.evaluation.summary import metrics_table, summarise
from brainscm.files import write_json
from brainscm.parallel import one_thread
from brainscm.regions import COMPARED
from brainscm.scm.design import Array
from brainscm.tables import write_table
from brainscm.training.volume_store import VolumeStore

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


def run(inputs: EvaluationInputs, seed: int, out_dir: Path) -> None:
    """Evaluate a study that has come as far as its counterfactuals, and write what is found to `out_dir`."""
    evaluate(inputs, seed).write(out_dir)


def evaluate(inputs: EvaluationInputs, seed: int) -> Evaluation:
    """Evaluate a study. What needs a truth is null, with the reason, where there is none; the rest is computed.

    Raises:
        BrainSCMError: a participant of the test split is among those that the causal model was fitted on.
    """
    _refuse_leak(inputs)
    scm, usable = inputs.scm, inputs.scans.usable
    age_column = scm.covariates.columns["age"] if "age" in scm.covariates.ranges else None
    cases = find_cases(inputs.bids_dir, usable, inputs.queries, age_column)
    answered = sum(case.source != "unanswered" for case in cases)
    logger.info("%d questions, %d of which have a known answer", len(cases), answered)
    repeats = measure_repeats(usable, scm, COMPARED)
    logger.info("noise floor of the regions: %s", repeats.source)
    scores = _score(inputs, cases, repeats)
    axioms = check_axioms(inputs, inputs.queries[0]) if inputs.queries else []
    metrics = metrics_table([*scores.rows, *axioms], scm, usable, seed)

    def real_features(scan: str) -> Array:
        read = inputs.read_scan(scan)
        return image_features(read.volume, read.mask)

    return Evaluation(
        summary=summarise(metrics, inputs.reconstruction, NO_TRUTH, _why_no_interval(cases, repeats)),
        metrics=metrics,
        regional_slopes=regional_slopes(
            scm, usable[usable["split"].isin(["train", "test"])], counterfactual_changes(inputs), COMPARED
        ),
        minimality=minimality_table(scores.rows, usable, COMPARED, repeats, seed),
        realism=realism_table(scores.features, scm, usable, COMPARED, real_features, seed),
    )


def _score(inputs: EvaluationInputs, cases: Sequence[Case], repeats: Repeats) -> Scores:
    if not cases:
        return Scores([], [])
    scm, scans = inputs.scm, inputs.scans
    # The peers read every training scan several times: decoded once, to a file that is gone at the end.
    with tempfile.TemporaryDirectory() as folder:
        volumes = VolumeStore.open_or_build(scans, scm.training["scan"].tolist(), Path(folder)).volumes
        with one_thread():
            methods = Methods.fit(scm, inputs.encoder, volumes, scans.grid.shape, inputs.components)
        regional = RegionalModel.fit(scm, scans.usable, COMPARED)
        return Evaluator(inputs, methods, regional, repeats.sd_ml).evaluate(cases)


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
