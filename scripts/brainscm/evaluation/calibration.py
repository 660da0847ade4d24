"""Calibrate intervals: put each question to participants who are not tested, and see what it measures beyond intent."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.errors import ScanError
from brainscm.evaluation.expectation import RegionalModel
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.intervals import Calibration
from brainscm.evaluation.methods import Methods
from brainscm.parallel import side_by_side
from brainscm.scm.design import Array
from brainscm.tables import evenly_spaced

logger = logging.getLogger("brainscm")

CALIBRATION_PARTICIPANTS = 24


def calibrate(
    queries: Mapping[str, QueryOptions], inputs: EvaluationInputs, methods: Methods, regional: RegionalModel
) -> dict[str, dict[str, Calibration]]:
    """By query and method: measured minus expected change of each region; a method is left out where few were asked."""
    if not queries:
        return {}
    asked = calibration_scans(inputs.scans.usable)
    expected = {name: regional.expect(query, asked, draws=0) for name, query in queries.items()}

    def excess(at: int) -> dict[str, Array]:
        """(methods, regions) of one scan, by the queries that change it."""
        name = asked["scan"].iloc[at]
        try:
            scan = inputs.read_scan(name)
        except ScanError as error:
            logger.warning("%s: not used for calibration: %s", name, error)
            return {}
        before = scan.regions_ml(scan.volume)
        factuals = methods.encode(scan)
        found: dict[str, Array] = {}
        for query, each in expected.items():
            if not each.step[at].any():
                continue
            rows = []
            for method in methods.compared:
                made = method.predict(factuals[method.name], each.step[at]).masked(scan.mask)
                after = scan.regions_ml(made.volume)
                rows.append([after[region] - before[region] for region in regional.regions])
            found[query] = np.array(rows) - each.change_ml[at]
        return found

    logger.info("calibrating the intervals of %d questions on %d participants", len(queries), len(asked))
    by_scan = list(side_by_side(excess, range(len(asked))))
    return {
        query: _learn([found[query] for found in by_scan if query in found], methods, regional) for query in queries
    }


def calibration_scans(table: pd.DataFrame) -> pd.DataFrame:
    """One scan each of the validation participants, and of as many training participants as are needed beside them.

    Args:
        table: usable scans: participant, split.
    """
    first = table.drop_duplicates("participant")
    validation, training = (first[first["split"] == split] for split in ("validation", "train"))
    validation = validation.head(CALIBRATION_PARTICIPANTS)
    return pd.concat([validation, evenly_spaced(training, CALIBRATION_PARTICIPANTS - len(validation))])


def _learn(excess_ml: list[Array], methods: Methods, regional: RegionalModel) -> dict[str, Calibration]:
    """From each scan's (methods, regions)."""
    learnt = {
        method.name: Calibration.learn(regional.regions, np.array([each[place] for each in excess_ml]))
        for place, method in enumerate(methods.compared)
    }
    return {name: calibration for name, calibration in learnt.items() if calibration is not None}
