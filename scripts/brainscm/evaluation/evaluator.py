"""Put every method to every case, and measure how near it comes to the answer where that is known."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from brainscm.errors import ScanError
from brainscm.evaluation.answers import Answer, EncodedScan, answer
from brainscm.evaluation.cases import Case
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.measurements import Row, by_region
from brainscm.evaluation.peers import Peers
from brainscm.evaluation.questions import PreparedCase, prepare
from brainscm.evaluation.realism import feature_row
from brainscm.evaluation.scoring import (
    bound_change,
    score_agreement,
    score_change,
    score_effectiveness,
    score_intervals,
    score_reconstruction,
    score_written_intervals,
)
from brainscm.evaluation.truth import Truth
from brainscm.parallel import side_by_side
from brainscm.shards import WHOLE, Shard
from brainscm.tables import evenly_spaced

logger = logging.getLogger("brainscm")

CEILING_SCANS = 8  # each answer is registered and encoded, which takes as long as all methods together
LOG_SECONDS = 30


@dataclass(frozen=True)
class Scores:
    """What was measured, a row a measurement, and the features of each method's counterfactuals (see `realism`)."""

    rows: list[Row]
    features: list[Row]

    def add(self, other: Scores) -> None:
        self.rows.extend(other.rows)
        self.features.extend(other.features)


@dataclass(frozen=True)
class Evaluator:
    """Puts every method to the same cases of the same scans.

    Attributes:
        inputs: of the evaluation. peers: fitted on the training scans.
        regional: what the causal model expects of the regions.
        repeat_sd: by region, the standard deviation (ml) of the difference between two scans of a participant; empty
            where it is not known.
    """

    inputs: EvaluationInputs
    peers: Peers
    regional: RegionalModel
    repeat_sd: Mapping[str, float]

    def evaluate(self, cases: Sequence[Case], shard: Shard = WHOLE) -> Scores:
        """Score every method on every case of a shard's scans; a case that cannot be read is logged and left out.

        Args:
            cases: of all shards, since the middle of all follow-ups and the scans with ceilings are theirs.
        """
        of_scan: dict[str, list[PreparedCase]] = {scan: [] for scan in asked_scans(cases)}
        with_ceilings = set(evenly_spaced(pd.Series([*of_scan]), CEILING_SCANS))
        for prepared in prepare(cases, self.regional, self.inputs.scans.usable, self.peers.calibrated):
            of_scan[prepared.case.scan].append(prepared)
        own = [scan for scan in of_scan if shard.holds(scan)]

        scores = Scores([], [])
        start = last_log = time.monotonic()
        evaluated = side_by_side(lambda scan: self._evaluate_scan(of_scan[scan], scan in with_ceilings), own)
        for done, found in enumerate(evaluated, start=1):
            scores.add(found)
            if time.monotonic() - last_log > LOG_SECONDS:
                last_log = time.monotonic()
                left = (last_log - start) / done * (len(own) - done)
                logger.info("evaluated %d of %d scans, about %.0f min left", done, len(own), left / 60)
        return scores

    def _evaluate_scan(self, cases: Sequence[PreparedCase], with_ceilings: bool) -> Scores:
        """All cases of one scan, which is read, encoded and decoded once for them."""
        asked = cases[0].case
        scores = Scores([], [])
        try:
            scan = self.inputs.read_scan(asked.scan)
        except ScanError as error:
            logger.warning("%s: not evaluated: %s", asked.scan, error)
            return scores
        encoded = EncodedScan.of(scan, self.peers.methods)
        for method, decoded in encoded.decoded.items():
            about = {"source": "reconstruction", "method": method, "decode": "none"}
            about |= {"scan": asked.scan, "participant": asked.participant}
            scores.rows.extend(score_reconstruction(about, decoded, encoded.decoded_ml[method], scan, encoded.own_ml))
        for prepared in cases:
            try:
                scores.add(self._evaluate_case(prepared, encoded, with_ceilings))
            except ScanError as error:
                logger.warning("%s, %s: not evaluated: %s", asked.scan, prepared.case.query.name, error)
        return scores

    def _evaluate_case(self, prepared: PreparedCase, encoded: EncodedScan, with_ceilings: bool) -> Scores:
        """Every method's answer to one case.

        Raises:
            ScanError: the true answer, or what the study has written, cannot be read.
        """
        truth = self.inputs.read_truth(prepared.case, encoded.scan)
        of_model = {**prepared.about, "method": "scm", "decode": "none"}
        scores = Scores(by_region(of_model, "region_change_ml", prepared.expected_ml), [])
        if truth is not None:
            of_truth = {**prepared.about, "method": "truth", "decode": "none"}
            scores.rows.extend(score_change(of_truth, truth.regions_ml, encoded.own_ml))
        for each in answer(prepared, encoded, self.inputs, self.peers.methods, truth, with_ceilings):
            scores.add(self._score(each, prepared, encoded, truth))
        return scores

    def _score(self, given: Answer, prepared: PreparedCase, encoded: EncodedScan, truth: Truth | None) -> Scores:
        scan, made = encoded.scan, given.made
        about = {**prepared.about, "method": given.method, "decode": given.decode}
        is_scan = given.method == "persistence"
        after_ml = encoded.own_ml if is_scan else scan.regions_ml(made.volume)
        rows = score_change(about, after_ml, encoded.start_ml[given.decode])
        rows += score_effectiveness(about, after_ml, prepared.targets_ml)
        intervals = prepared.intervals(given.method, given.decode, after_ml, self.repeat_sd)
        rows += bound_change(about, intervals, encoded.own_ml)
        if truth is not None:
            rows += score_agreement(about, made, after_ml, truth, scan) + score_intervals(about, intervals, truth)
        if truth is not None and given.is_written:
            bounds = self.inputs.written.bounds_ml(prepared.case.scan, prepared.case.query)
            change = {region: after - encoded.own_ml[region] for region, after in truth.regions_ml.items()}
            rows += score_written_intervals(about, bounds, change)
        if prepared.case.source == "follow-up" or given.method not in encoded.factuals:
            return Scores(rows, [])
        named = {key: about[key] for key in ("query", "method", "decode", "scan")}
        return Scores(rows, [feature_row(named, after_ml, made.volume, scan.mask)])


def asked_scans(cases: Sequence[Case]) -> list[str]:
    """The scans of cases in the order in which they are evaluated: those with a follow-up first."""
    ordered = sorted(cases, key=lambda case: case.source != "follow-up")
    return [*dict.fromkeys(case.scan for case in ordered)]
