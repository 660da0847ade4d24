"""Put every method to every case, and measure how near it comes to the answer where that is known."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainscm.counterfactuals.decoding import STRATEGIES, Factual
from brainscm.errors import ScanError
from brainscm.evaluation.calibration import calibrate
from brainscm.evaluation.cases import Case
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.measurements import Row, by_region
from brainscm.evaluation.methods import Methods
from brainscm.evaluation.questions import PreparedCase, prepare, queries_to_calibrate
from brainscm.evaluation.realism import CounterfactualFeatures, image_features
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.evaluation.scoring import (
    score_agreement,
    score_change,
    score_effectiveness,
    score_intervals,
    score_reconstruction,
)
from brainscm.evaluation.truth import Truth
from brainscm.images import Volume
from brainscm.parallel import side_by_side
from brainscm.regions import MeasureRegions
from brainscm.tables import evenly_spaced

logger = logging.getLogger("brainscm")

CEILING_SCANS = 8  # each answer is registered and encoded, which takes as long as all methods together
LOG_SECONDS = 30


@dataclass(frozen=True)
class Scores:
    """What was measured, a row a measurement, and the features of each method's counterfactuals."""

    rows: list[Row]
    features: list[CounterfactualFeatures]

    def add(self, other: Scores) -> None:
        self.rows.extend(other.rows)
        self.features.extend(other.features)


@dataclass(frozen=True)
class EncodedScan:
    """What all cases of one scan share.

    Attributes:
        factuals: method → the scan as it encodes it, for the compared methods.
        decoded: method → that encoding decoded, (x, y, z) inside the mask, where encoding loses anything.
        decoded_ml: method → the regions of `decoded`.
        start_ml: decoding → regions of what its change starts from: of direct decoding not the scan, but D(z).
    """

    scan: Scan
    factuals: Mapping[str, Factual]
    decoded: Mapping[str, Volume]
    decoded_ml: Mapping[str, Mapping[str, float]]
    start_ml: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, scan: Scan, methods: Methods, measure: MeasureRegions) -> EncodedScan:
        factuals = methods.encode(scan)
        latent = factuals["latent_glm"]
        decoded = {name: factuals[name].decoded[0, 0].numpy() * scan.mask for name in ("pca_glm", "latent_glm")}
        decoded_ml = {name: scan.regions_ml(volume, measure) for name, volume in decoded.items()}
        own_ml = scan.regions_ml(scan.volume, measure)
        quantized_ml = scan.regions_ml(latent.decoded_quantized[0, 0].numpy() * scan.mask, measure)
        start_ml = {"none": own_ml, "residual": own_ml, "direct": decoded_ml["latent_glm"], "quantized": quantized_ml}
        return cls(scan, factuals, decoded, decoded_ml, start_ml)


@dataclass(frozen=True)
class Evaluator:
    """Puts every method to the same cases of the same scans.

    Attributes:
        inputs: of the evaluation. methods: fitted on the same training scans.
        regional: what the causal model expects of the regions.
        repeat_sd: by region, the standard deviation (ml) of the difference between two scans of a participant; empty
            where it is not known.
    """

    inputs: EvaluationInputs
    methods: Methods
    regional: RegionalModel
    repeat_sd: Mapping[str, float]

    def evaluate(self, cases: Sequence[Case]) -> Scores:
        """Score every method on every case; a case that cannot be read is logged and left out."""
        usable = self.inputs.scans.usable
        queries = queries_to_calibrate(cases, self.inputs.scm, usable, with_follow_ups=bool(self.repeat_sd))
        calibrated = calibrate(queries, self.inputs, self.methods, self.regional)
        of_scan: dict[str, list[PreparedCase]] = {}
        for prepared in prepare(cases, self.regional, usable, calibrated):
            of_scan.setdefault(prepared.case.scan, []).append(prepared)
        with_ceilings = set(evenly_spaced(pd.Series([*of_scan]), CEILING_SCANS))

        scores = Scores([], [])
        start = last_log = time.monotonic()
        evaluated = side_by_side(lambda scan: self._evaluate_scan(of_scan[scan], scan in with_ceilings), of_scan)
        for done, found in enumerate(evaluated, start=1):
            scores.add(found)
            if time.monotonic() - last_log > LOG_SECONDS:
                last_log = time.monotonic()
                left = (last_log - start) / done * (len(of_scan) - done)
                logger.info("evaluated %d of %d scans, about %.0f min left", done, len(of_scan), left / 60)
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
        encoded = EncodedScan.of(scan, self.methods, self.inputs.measure)
        for method, decoded in encoded.decoded.items():
            about = {"source": "reconstruction", "method": method, "decode": "none"}
            about |= {"scan": asked.scan, "participant": asked.participant}
            own_ml, decoded_ml = encoded.start_ml["none"], encoded.decoded_ml[method]
            scores.rows.extend(score_reconstruction(about, decoded, decoded_ml, scan, own_ml))
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
        case, scan = prepared.case, encoded.scan
        truth = self.inputs.read_truth(case, scan)
        own_ml = encoded.start_ml["none"]
        scores = Scores([], [])
        rows = scores.rows
        rows += by_region(
            {**prepared.about, "method": "scm", "decode": "none"}, "region_change_ml", prepared.expected_ml
        )
        if truth is not None:
            about = {**prepared.about, "method": "truth", "decode": "none"}
            rows += score_change(about, truth.regions_ml, own_ml)
        for method, decode, made in self._counterfactuals(prepared, encoded, truth, with_ceilings):
            about = {**prepared.about, "method": method, "decode": decode}
            unchanged = method == "persistence"
            after_ml = own_ml if unchanged else scan.regions_ml(made.volume, self.inputs.measure)
            rows += score_change(about, after_ml, encoded.start_ml[decode])
            rows += score_effectiveness(about, after_ml, prepared.targets_ml)
            if truth is not None:
                rows += score_agreement(about, made, after_ml, truth, scan)
                rows += score_intervals(about, prepared.intervals(method, decode, after_ml, self.repeat_sd), truth)
            if case.source != "follow-up" and method in encoded.factuals:
                features = image_features(made.volume, scan.mask)
                scores.features.append(
                    CounterfactualFeatures(case.query.name, method, decode, prepared.changed, after_ml, features)
                )
        return scores

    def _counterfactuals(
        self, prepared: PreparedCase, encoded: EncodedScan, truth: Truth | None, with_ceilings: bool
    ) -> Iterator[tuple[str, str, Counterfactual]]:
        """Every method's answer: method, decoding, and the counterfactual inside the brain mask.

        A `ceiling` encodes the true answer itself: what its encoding could reach if the causal model made no error.
        """
        methods, step, mask = self.methods, prepared.step, encoded.scan.mask
        voxels, scores, latent = (encoded.factuals[method.name] for method in methods.compared)
        yield "voxel_glm", "residual", methods.voxel_glm.predict(voxels, step).masked(mask)
        yield "pca_glm", "residual", methods.pca_glm.predict(scores, step).masked(mask)
        for decode in STRATEGIES:
            written = self._written(prepared.case, decode)
            yield "latent_glm", decode, written or methods.latent_glm.predict(latent, step, decode).masked(mask)
        if truth is None:
            return
        yield (
            "persistence",
            "none",
            Counterfactual(encoded.scan.volume, np.zeros_like(encoded.scan.volume)).masked(mask),
        )
        if methods.voxel_shrunken is not None:
            yield "voxel_shrunken", "residual", methods.voxel_shrunken.predict(voxels, step).masked(mask)
        yield "mean_change", "residual", methods.voxel_glm.predict(voxels, prepared.mean_step).masked(mask)
        if with_ceilings:
            yield "pca_ceiling", "residual", methods.pca_glm.reach(scores, truth.volume).masked(mask)
            yield "latent_ceiling", "residual", methods.latent_glm.reach(latent, truth.volume).masked(mask)

    def _written(self, case: Case, decode: str) -> Counterfactual | None:
        """The volumes that the study's users look at, where this question was put to this scan."""
        if case.source == "follow-up" or decode != case.query.decode:
            return None
        return self.inputs.written.find(case.scan, case.query)
