"""Learn how wide the intervals of regional changes have to be, on participants who are not tested.

The truth of a counterfactual is never seen. What can be seen is how far the change that is measured on a counterfactual
lies from what the causal model's own regression of that region expects of the same question. Each node that leads to
the image is asked about, by a change towards the training scans' middle, so that no answer extrapolates. What is learnt
holds for all questions: it is in units of the spread of the draws, which grows with the question.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainscm.config import QueryOptions
from brainscm.counterfactuals.intervals import NEEDED, IntervalFactors
from brainscm.counterfactuals.prediction import Draws
from brainscm.counterfactuals.queries import Plan, plan_query, reaches_image
from brainscm.counterfactuals.synthesis import make_counterfactual, read_factual
from brainscm.errors import ScanError
from brainscm.evaluation.calibration import calibration_scans
from brainscm.evaluation.expectation import Expectation, RegionalModel
from brainscm.latents.encoded import EncodedScans
from brainscm.parallel import device_of, side_by_side
from brainscm.questions import as_change
from brainscm.regions import REGIONS, MeasureRegions
from brainscm.scm.design import Array
from brainscm.scm.model import Scm

logger = logging.getLogger("brainscm")

Scores = dict[str, Array]  # by region, one of each draw of what is expected


def learn_factors(scm: Scm, encoded: EncodedScans, measure: MeasureRegions) -> IntervalFactors:
    """The factors of a study, from its validation participants and as many training participants as are needed.

    Args:
        encoded: the cohort; `measure`: as preprocessing measured its scans.
    """
    encoded = scm.answerable(encoded)
    usable = encoded.scans.usable
    rows = calibration_scans(usable)
    regional = RegionalModel.fit(scm, usable, [each.name for each in REGIONS if f"{each.name}_ml" in usable])
    if len(rows) < NEEDED:
        return IntervalFactors({}, dict.fromkeys(regional.regions, len(rows)), regional.slopes)
    scores: dict[str, dict[str, list[Array]]] = {region: {} for region in regional.regions}
    asked, draws = list(questions(scm, rows)), Draws(encoded.encoder, scm.image)
    logger.info("calibrating intervals of regional changes on %d participants: %d questions", len(rows), len(asked))
    for query, of_query in asked:
        plan, expected = plan_query(scm, of_query, query), regional.expect(query, of_query)
        score = partial(_score, encoded, measure, scm, plan, expected, draws)
        found = side_by_side(score, range(len(of_query)), device_of(encoded.encoder))
        for participant, of_scan in zip(of_query["participant"], found, strict=True):
            for region, own in of_scan.items():
                scores[region].setdefault(participant, []).append(own)
    pooled = {region: {who: np.concatenate(own) for who, own in of.items()} for region, of in scores.items()}
    return IntervalFactors.learn(pooled, regional.slopes)


def _score(
    encoded: EncodedScans,
    measure: MeasureRegions,
    scm: Scm,
    plan: Plan,
    expected: Expectation,
    draws: Draws,
    at: int,
) -> Scores:
    """Of one scan: the distance of what is measured from each draw of what is expected, over the draws' spread."""
    scan = plan.asked[at]
    try:
        read = read_factual(encoded, scan, measure)
    except ScanError as error:
        logger.warning("%s: not used for calibration: %s", scan, error)
        return {}
    made = make_counterfactual(scm, plan, at, read.factual, read.measure, draws)
    drawn = dict(zip(expected.regions, expected.drawn_ml[:, at].T, strict=True))
    changes = {region: change for region, change in made.regions.items() if region in drawn and change.error_ml}
    return {region: np.abs(change.change_ml - drawn[region]) / change.error_ml for region, change in changes.items()}


def questions(scm: Scm, rows: pd.DataFrame) -> Iterator[tuple[QueryOptions, pd.DataFrame]]:
    """Each question with the scans that it is put to: a node's standard deviation down for those above its mean and up
    for those below, or the first and the last of its levels for those of others."""
    training, values = scm.training_values, scm.values(rows)
    for node in scm.options.nodes:
        levels = scm.covariates.levels[node]
        dos: dict[str, NDArray[np.bool_]] = {}
        if levels is None:
            mean, sd = float(training[node].mean()), float(training[node].std())
            above = (values[node] > mean).to_numpy()
            if sd > 0:
                dos = {as_change(sd): ~above, as_change(-sd): above}
        else:
            dos = {level: (values[node] != level).to_numpy() for level in dict.fromkeys((levels[0], levels[-1]))}
        for value, chosen in dos.items():
            query = QueryOptions(name=f"calibration-{node}", do={node: value})
            if reaches_image(scm.graph, query) and chosen.any():
                yield query, rows[chosen]
