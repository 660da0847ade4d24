"""Put every method to every question, and measure how near it comes to the answer where that is known."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.counterfactuals.decoding import Factual
from brainscm.errors import ScanError
from brainscm.evaluation.agreement import change_agreement
from brainscm.evaluation.intervals import LEVELS, Calibration
from brainscm.evaluation.methods import Method
from brainscm.evaluation.realism import Look, image_features
from brainscm.evaluation.regions import Expectation, RegionalModel
from brainscm.evaluation.summary import Row, measured
from brainscm.evaluation.truth import FOLLOW_UP, Brain, Case, Truth
from brainscm.images import Volume
from brainscm.scm.design import Array
from brainscm.tables import evenly_spaced
from brainscm.training.fidelity import psnr, ssim

logger = logging.getLogger("brainscm")

CALIBRATION_PEOPLE = 24
CEILING_SCANS = 8  # each answer is registered and encoded, which takes as long as all methods together
LOG_SECONDS = 30


@dataclass(frozen=True)
class Question:
    """A case with all that can be said before its image is made.

    Attributes:
        expected: the query worked out; `at` is the case's row in it.
        mean_step: (p,) mean step of the training people's design rows under the same question.
        calibrations: method -> what its intervals are made of; empty where none can be made.
    """

    case: Case
    expected: Expectation
    at: int
    mean_step: Array
    calibrations: Mapping[str, Calibration]

    @property
    def step(self) -> Array:
        return self.expected.step[self.at]


@dataclass(frozen=True)
class Scan:
    """What all questions to one scan share.

    Attributes:
        factuals: method -> the scan as it encodes it, for the fitted methods.
        decoded: method -> that encoding decoded, (x, y, z) inside the mask; reconstructed: its regions in ml.
        starts: decoding -> regions (ml) of what its change starts from: of direct decoding not the scan, but D(z).
    """

    brain: Brain
    factuals: Mapping[str, Factual]
    decoded: Mapping[str, Volume]
    reconstructed: Mapping[str, Mapping[str, float]]
    starts: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Verdict:
    """What was measured, a row a measurement, and how each method's counterfactuals look."""

    rows: list[Row]
    looks: list[Look]


@dataclass(frozen=True)
class Judge:
    """Asks every method the same questions about the same scans.

    Attributes:
        regional: what the causal model expects of the regions; `regional.scm` is the fitted model.
        voxel_glm, pca_glm, latent_glm: the methods. voxel_shrunken: the voxelwise one, estimated as the latent one
            is; None where that is least squares.
        table: usable scans, indexed by scan id, with the nodes' columns.
        read_brain: reads a scan. read_truth: the answer to a case that starts from this brain, if it has one.
        segment: regional volumes (ml) of a volume in the place of a brain's own; the same for counterfactual and truth.
        repeat_sd: by region, the standard deviation (ml) that scanning a person twice adds to a change; empty: unknown.
    """

    regional: RegionalModel
    voxel_glm: Method
    voxel_shrunken: Method | None
    pca_glm: Method
    latent_glm: Method
    table: pd.DataFrame
    read_brain: Callable[[str], Brain]
    read_truth: Callable[[Case, Brain], Truth | None]
    segment: Callable[[Volume, Brain], Mapping[str, float]]
    repeat_sd: Mapping[str, float]

    def hear(self, cases: Sequence[Case], threads: int) -> Verdict:
        """Judge every method on every case; a case that cannot be read is logged and left out."""
        verdict = Verdict([], [])
        with ThreadPoolExecutor(threads) as pool:
            asked: dict[str, list[Question]] = {}
            for question in self._prepare(cases, pool):
                asked.setdefault(question.case.scan, []).append(question)
            ceilings = set(evenly_spaced(pd.Series([*asked]), CEILING_SCANS))
            start = last_log = time.monotonic()
            judged = pool.map(lambda scan: self._judge(asked[scan], scan in ceilings), asked)
            for done, found in enumerate(judged, start=1):
                verdict.rows.extend(found.rows)
                verdict.looks.extend(found.looks)
                if time.monotonic() - last_log > LOG_SECONDS:
                    last_log = time.monotonic()
                    left = (last_log - start) / done * (len(asked) - done)
                    logger.info("judged %d of %d scans, about %.0f min left", done, len(asked), left / 60)
        return verdict

    @property
    def _fitted(self) -> tuple[Method, ...]:
        return (self.voxel_glm, self.pca_glm, self.latent_glm)

    # What can be said before any counterfactual is made

    def _prepare(self, cases: Sequence[Case], pool: ThreadPoolExecutor) -> list[Question]:
        """Work the queries out, all scans of a query at once, and calibrate the intervals of each."""
        follow_ups = [case for case in cases if case.source == "follow-up"]
        asked: dict[str, list[Case]] = {}
        for case in cases:
            if case.source != "follow-up":
                asked.setdefault(case.query.name, []).append(case)
        queries = {name: group[0].query for name, group in asked.items()}
        # Each follow-up asks for a change of its own: calibrated at the middle one, and scaled by the years.
        middle = float(np.median([self._interval(case) for case in follow_ups])) if follow_ups else float("nan")
        if follow_ups and self.repeat_sd:
            queries[FOLLOW_UP] = _years_on(middle)
        calibrated = self._calibrate(queries, pool)

        questions: list[Question] = []
        for case in follow_ups:
            years = self._interval(case)
            expected = self.regional.expect(case.query, self.table.loc[[case.scan]])
            scaled = {name: found.scaled(years / middle) for name, found in calibrated.get(FOLLOW_UP, {}).items()}
            questions.append(Question(case, expected, 0, self._mean_step(_years_on(years)), scaled))
        for name, group in asked.items():
            logger.info("working out %s", name)
            expected = self.regional.expect(queries[name], self.table.loc[[case.scan for case in group]])
            mean_step = self._mean_step(queries[name])
            questions += [Question(case, expected, at, mean_step, calibrated[name]) for at, case in enumerate(group)]
        return questions

    def _interval(self, case: Case) -> float:
        age = float(self.regional.scm.values(self.table.loc[[case.scan]])["age"].iloc[0])
        return float(case.query.do["age"]) - age

    def _mean_step(self, query: QueryOptions) -> Array:
        """The mean step of the training people under the same question: what a person's own covariates do not tell."""
        scm = self.regional.scm
        changed = scm.intervene(scm.training, query.do, query.effect)
        return (scm.design_matrix(changed) - scm.design_matrix(scm.training)).mean(axis=0)

    def _calibrate(
        self, queries: Mapping[str, QueryOptions], pool: ThreadPoolExecutor
    ) -> dict[str, dict[str, Calibration]]:
        """By query and method: measured minus expected change of each region in people who are not tested."""
        if not queries:
            return {}
        people = self._calibration_people()
        expected = {name: self.regional.expect(query, people, draws=0) for name, query in queries.items()}
        moved = {name: np.abs(each.step).max(axis=1) > 0 for name, each in expected.items()}

        def excess(at: int) -> dict[str, Array]:
            """(methods, regions) of one person, by the queries that move them."""
            try:
                brain = self.read_brain(people["scan"].iloc[at])
            except ScanError as error:
                logger.warning("%s: not used for calibration: %s", people["scan"].iloc[at], error)
                return {}
            before = self.segment(brain.volume, brain)
            factuals = {method.name: self._factual(method, brain) for method in self._fitted}
            found: dict[str, Array] = {}
            for name in (name for name in queries if moved[name][at]):
                rows = []
                for method in self._fitted:
                    volume, _ = method.predict(factuals[method.name], expected[name].step[at])
                    after = self.segment(volume * brain.mask, brain)
                    rows.append([after[region] - before[region] for region in self.regional.regions])
                found[name] = np.array(rows) - expected[name].change_ml[at]
            return found

        logger.info("calibrating the intervals of %d questions on %d people", len(queries), len(people))
        by_person = list(pool.map(excess, range(len(people))))
        calibrated: dict[str, dict[str, Calibration]] = {}
        for name in queries:
            rows = [found[name] for found in by_person if name in found]
            learnt = {
                method.name: Calibration.learn(self.regional.regions, np.array([row[place] for row in rows]))
                for place, method in enumerate(self._fitted)
            }
            calibrated[name] = {method: found for method, found in learnt.items() if found is not None}
        return calibrated

    def _calibration_people(self) -> pd.DataFrame:
        """One scan each of the validation people, and of as many training people as are needed beside them."""
        first = self.table.drop_duplicates("participant")
        validation, training = (first[first["split"] == split] for split in ("validation", "train"))
        validation = validation.head(CALIBRATION_PEOPLE)
        return pd.concat([validation, evenly_spaced(training, CALIBRATION_PEOPLE - len(validation))])

    # The counterfactuals

    def _factual(self, method: Method, brain: Brain) -> Factual:
        return method.factual(brain.volume, brain.latent if method is self.latent_glm else None)

    def _judge(self, questions: Sequence[Question], with_ceilings: bool) -> Verdict:
        """All questions to one scan, which is read, encoded and decoded once for them."""
        first = questions[0].case
        verdict = Verdict([], [])
        try:
            brain = self.read_brain(first.scan)
        except ScanError as error:
            logger.warning("%s: not evaluated: %s", first.scan, error)
            return verdict
        scan = self._hear_scan(brain)
        verdict.rows.extend(self._reconstruction(first, scan))
        for question in questions:
            try:
                truth = self.read_truth(question.case, brain)
            except ScanError as error:
                logger.warning("%s, %s: not evaluated: %s", first.scan, question.case.query.name, error)
                continue
            found = self._answer(question, scan, truth, with_ceilings)
            verdict.rows.extend(found.rows)
            verdict.looks.extend(found.looks)
        return verdict

    def _hear_scan(self, brain: Brain) -> Scan:
        factuals = {method.name: self._factual(method, brain) for method in self._fitted}
        decoded = {name: factuals[name].decoded[0, 0].numpy() * brain.mask for name in ("pca_glm", "latent_glm")}
        before = self.segment(brain.volume, brain)
        reconstructed = {name: self.segment(volume, brain) for name, volume in decoded.items()}
        quantized = self.segment(factuals["latent_glm"].decoded_quantized[0, 0].numpy() * brain.mask, brain)
        starts = {"none": before, "residual": before, "direct": reconstructed["latent_glm"], "quantized": quantized}
        return Scan(brain, factuals, decoded, reconstructed, starts)

    def _reconstruction(self, case: Case, scan: Scan) -> list[Row]:
        """What encoding and decoding alone do to a scan: the floor under direct decoding."""
        rows: list[Row] = []
        brain, before = scan.brain, scan.starts["none"]
        for method, decoded in scan.decoded.items():
            errors = {region: scan.reconstructed[method][region] - before[region] for region in before}
            about = {"source": "reconstruction", "method": method, "decode": "none"}
            about |= {"scan": case.scan, "participant": case.participant}
            found = {
                "psnr_brain_db": psnr(decoded, brain.volume, mask=brain.mask),
                "ssim_brain": ssim(decoded, brain.volume, mask=brain.mask),
                "region_volume_mae_ml": float(np.abs([*errors.values()]).mean()),
            }
            rows += measured(about, found) + _by_region(about, "region_volume_error_ml", errors)
        return rows

    def _answer(self, question: Question, scan: Scan, truth: Truth | None, with_ceilings: bool) -> Verdict:
        """One question to one scan."""
        case, brain, before = question.case, scan.brain, scan.starts["none"]
        about = {
            "source": case.source,
            "query": case.query.name,
            "effect": case.query.effect,
            "scan": case.scan,
            "participant": case.participant,
            "years": self._years(question),
        }
        rows: list[Row] = []
        looks: list[Look] = []
        expected = dict(zip(question.expected.regions, question.expected.change_ml[question.at].tolist(), strict=True))
        about_model = {**about, "method": "scm", "decode": "none"}
        rows += _by_region(about_model, "region_change_ml", expected)
        if truth is not None:
            true_ml = {region: truth.regions_ml[region] - before[region] for region in before}
            rows += _by_region({**about, "method": "truth", "decode": "none"}, "region_change_ml", true_ml)
        for name, decode, volume, change in self._predictions(question, scan, truth, with_ceilings):
            own = {**about, "method": name, "decode": decode}
            volume, change = volume * brain.mask, change * brain.mask
            after = self.segment(volume, brain) if name != "persistence" else before
            start = scan.starts[decode]
            rows += _by_region(own, "region_change_ml", {region: after[region] - start[region] for region in after})
            off_target = self._off_target(question, after)
            rows += _by_region(own, "effectiveness_error_ml", off_target)
            if off_target:
                rows += measured(own, {"effectiveness_mae_ml": float(np.abs([*off_target.values()]).mean())})
            if truth is not None:
                rows += self._against_truth(question, own, brain, truth, volume, change, after)
            if case.source != "follow-up" and name in scan.factuals:
                covariates = question.expected.changed.iloc[question.at]
                features = image_features(volume, brain.mask)
                looks.append(Look(case.query.name, name, decode, covariates, after, features))
        return Verdict(rows, looks)

    def _against_truth(
        self,
        question: Question,
        about: Mapping[str, object],
        brain: Brain,
        truth: Truth,
        volume: Volume,
        change: Volume,
        after: Mapping[str, float],
    ) -> list[Row]:
        found = change_agreement(volume, change, truth.volume, truth.volume - brain.volume, brain.mask)
        errors_ml = {region: after[region] - true_ml for region, true_ml in truth.regions_ml.items()}
        found["region_volume_mae_ml"] = float(np.abs([*errors_ml.values()]).mean())
        rows = _by_region(about, "region_volume_error_ml", errors_ml)
        calibration = question.calibrations.get(str(about["method"]))
        if calibration is not None and about["decode"] == "residual" and question.step.any():
            noise = self.repeat_sd if question.case.source == "follow-up" else {}
            intervals = calibration.intervals(after, question.expected.drawn_ml[:, question.at], noise)
            for level in LEVELS:
                covered = {r: float(i.covers(truth.regions_ml[r], level)) for r, i in intervals.items()}
                found[f"interval_coverage_{100 * level:.0f}"] = float(np.mean([*covered.values()]))
                rows += _by_region(about, f"interval_coverage_{100 * level:.0f}", covered)
            widths = {region: 2 * interval.half_width(0.95) for region, interval in intervals.items()}
            rows += _by_region(about, "interval_width_95_ml", widths)
        return rows + measured(about, found)

    def _predictions(
        self, question: Question, scan: Scan, truth: Truth | None, with_ceilings: bool
    ) -> Iterator[tuple[str, str, Volume, Volume]]:
        """Every method's answer: method, decoding, counterfactual volume and signed change.

        A `ceiling` encodes the true answer itself: what its encoding could reach if the causal model made no error.
        """
        step = question.step
        voxels, scores, latent = (scan.factuals[method.name] for method in self._fitted)
        yield "voxel_glm", "residual", *self.voxel_glm.predict(voxels, step)
        yield "pca_glm", "residual", *self.pca_glm.predict(scores, step)
        for decode in ("residual", "direct", "quantized"):
            yield "latent_glm", decode, *self.latent_glm.predict(latent, step, decode)
        if truth is not None:
            yield "persistence", "none", scan.brain.volume, np.zeros_like(scan.brain.volume)
            if self.voxel_shrunken is not None:
                yield "voxel_shrunken", "residual", *self.voxel_shrunken.predict(voxels, step)
            yield "mean_change", "residual", *self.voxel_glm.predict(voxels, question.mean_step)
        if truth is not None and with_ceilings:
            yield "pca_ceiling", "residual", *self.pca_glm.reach(scores, truth.volume)
            yield "latent_ceiling", "residual", *self.latent_glm.reach(latent, truth.volume)

    def _off_target(self, question: Question, after: Mapping[str, float]) -> dict[str, float]:
        """Measured minus intended volume of the regions that are nodes and that this question moves (ml)."""
        changed, at = question.expected.changed, question.at
        errors = {}
        for region, node in self.regional.node_of.items():
            target = float(changed[f"{region}_ml"].iloc[at])
            if node in question.case.query.do or target != float(question.expected.table[f"{region}_ml"].iloc[at]):
                errors[region] = after[region] - target
        return errors

    def _years(self, question: Question) -> float:
        """The change of age that a question asks for; NaN where the graph has no age, or it stays."""
        scm = self.regional.scm
        if "age" not in scm.covariates.ranges:
            return float("nan")
        tables = (question.expected.table, question.expected.changed)
        before, after = (float(scm.values(table)["age"].iloc[question.at]) for table in tables)
        return round(after - before, 6) if after != before else float("nan")


def _years_on(years: float) -> QueryOptions:
    return QueryOptions(name=FOLLOW_UP, do={"age": f"{years:+.4f}"})


def _by_region(about: Mapping[str, object], metric: str, values: Mapping[str, float]) -> list[Row]:
    return [row for region, value in values.items() for row in measured({**about, "region": region}, {metric: value})]
