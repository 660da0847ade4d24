"""Put every method to every question whose answer is known, and measure how near it comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats

from brainscm.autoencoder.volumes import Volume
from brainscm.config import QueryOptions
from brainscm.counterfactuals.queries import Plan, plan_query
from brainscm.errors import ScanError
from brainscm.evaluation.agreement import change_agreement, interval_covers
from brainscm.evaluation.methods import Method
from brainscm.evaluation.summary import Row, measured
from brainscm.evaluation.truth import Brain, Case, Truth
from brainscm.scm.design import Array
from brainscm.scm.model import Scm

logger = logging.getLogger("brainscm")

INTERVAL_CASES = 12  # an interval costs K decodings and segmentations a method: no more cases than this
LOG_SECONDS = 30


@dataclass(frozen=True)
class Judge:
    """Asks every method the same questions about the same scans.

    Attributes:
        scm: the fitted causal model.
        voxel_glm, pca_glm, latent_glm: the methods.
        table: usable scans, indexed by scan id, with the nodes' columns.
        read_brain: reads a scan. read_truth: the answer to a case that starts from this brain.
        segment: regional volumes (ml) of a volume in the place of a brain's own; the same for counterfactual and truth.
        repeat_sd: by region, the standard deviation (ml) that scanning a person twice adds to a change.
    """

    scm: Scm
    voxel_glm: Method
    pca_glm: Method
    latent_glm: Method
    table: pd.DataFrame
    read_brain: Callable[[str], Brain]
    read_truth: Callable[[Case, Brain], Truth]
    segment: Callable[[Volume, Brain], Mapping[str, float]]
    repeat_sd: Mapping[str, float]

    def hear(self, cases: Sequence[Case], threads: int) -> list[Row]:
        """Judge every method on every case, a row a measurement; a case that cannot be read is logged and left out."""
        start = last_log = time.monotonic()
        with_intervals = set(np.linspace(0, len(cases) - 1, min(INTERVAL_CASES, len(cases))).astype(int).tolist())
        rows: list[Row] = []
        with ThreadPoolExecutor(threads) as pool:
            judged = pool.map(lambda place: self._judge(cases[place], place in with_intervals), range(len(cases)))
            for done, found in enumerate(judged, start=1):
                rows += found
                if time.monotonic() - last_log > LOG_SECONDS:
                    last_log = time.monotonic()
                    left = (last_log - start) / done * (len(cases) - done)
                    logger.info("judged %d of %d cases, about %.0f min left", done, len(cases), left / 60)
        return rows

    def _judge(self, case: Case, with_intervals: bool) -> list[Row]:
        try:
            brain = self.read_brain(case.scan)
            truth = self.read_truth(case, brain)
        except ScanError as error:
            logger.warning("%s, %s: not evaluated: %s", case.scan, case.query.name, error)
            return []
        plan = plan_query(self.scm, self.table.loc[[case.scan]], case.query)
        about = {
            "source": case.source,
            "query": case.query.name,
            "effect": case.query.effect,
            "scan": case.scan,
            "participant": case.participant,
            "years": self._years(plan),
        }
        fitted = {method.name: method for method in (self.voxel_glm, self.pca_glm, self.latent_glm)}
        true_change = truth.volume - brain.volume
        rows: list[Row] = []
        for name, decode, volume, change in self._predictions(case, brain, plan.step[0]):
            own = {**about, "method": name, "decode": decode}
            volume, change = volume * brain.mask, change * brain.mask
            found = change_agreement(volume, change, truth.volume, true_change, brain.mask)
            predicted_ml = self.segment(volume, brain)
            errors_ml = {region: predicted_ml[region] - true_ml for region, true_ml in truth.regions_ml.items()}
            found["region_volume_mae_ml"] = float(np.abs([*errors_ml.values()]).mean())
            for region, error_ml in errors_ml.items():
                rows += measured({**own, "region": region}, {"region_volume_error_ml": error_ml})
            if with_intervals and decode == "residual" and name in fitted:
                drawn = self._drawn_ml(fitted[name], brain, plan.drawn_steps[:, 0])
                noise = self.repeat_sd if case.source == "follow-up" else {}
                quantile = float(scipy.stats.t.ppf(0.975, len(drawn) - 1))  # the sd itself comes from few draws
                covered = interval_covers(predicted_ml, drawn, truth.regions_ml, noise, quantile)
                found["interval_coverage_95"] = float(np.mean([*covered.values()]))
                for region, value in covered.items():
                    rows += measured({**own, "region": region}, {"interval_coverage_95": value})
            rows += measured(own, found)
        return rows

    def _predictions(self, case: Case, brain: Brain, step: Array) -> Iterator[tuple[str, str, Volume, Volume]]:
        """Every method's answer: method, decoding, counterfactual volume and signed change."""
        yield "persistence", "none", brain.volume, np.zeros_like(brain.volume)
        voxels = self.voxel_glm.factual(brain.volume)
        yield "mean_change", "residual", *self.voxel_glm.predict(voxels, self._mean_step(case))
        yield "voxel_glm", "residual", *self.voxel_glm.predict(voxels, step)
        yield "pca_glm", "residual", *self.pca_glm.predict(self.pca_glm.factual(brain.volume), step)
        latent = self.latent_glm.factual(brain.volume, brain.latent)
        for decode in ("residual", "direct", "quantized"):
            yield "latent_glm", decode, *self.latent_glm.predict(latent, step, decode)

    def _mean_step(self, case: Case) -> Array:
        """The mean step of the training people under the same question: what a person's own covariates do not tell.

        A follow-up is asked of them as a change of age by its interval, since they are of other ages.
        """
        query = case.query
        if case.source == "follow-up":
            years = float(query.do["age"]) - float(self.scm.values(self.table.loc[[case.scan]])["age"].iloc[0])
            query = QueryOptions(name=query.name, do={"age": f"+{years:.4f}"})
        training = self.scm.training
        changed = self.scm.intervene(training, query.do, query.effect)
        return (self.scm.design_matrix(changed) - self.scm.design_matrix(training)).mean(axis=0)

    def _drawn_ml(self, method: Method, brain: Brain, drawn_steps: Array) -> list[Mapping[str, float]]:
        latent = brain.latent if method is self.latent_glm else None
        draws = method.draws(method.factual(brain.volume, latent), drawn_steps)
        return [self.segment(volume * brain.mask, brain) for volume in draws]

    def _years(self, plan: Plan) -> float:
        """The change of age that a question asks for; NaN where the graph has no age, or it stays."""
        if "age" not in self.scm.covariates.ranges:
            return float("nan")
        before, after = (float(self.scm.values(table)["age"].iloc[0]) for table in (plan.table, plan.changed))
        return round(after - before, 6) if after != before else float("nan")
