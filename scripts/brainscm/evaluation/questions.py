"""What can be said of a case before any image is made: what the causal model expects, and how sure a method can be."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.evaluation.cases import FOLLOW_UP, Case
from brainscm.evaluation.expectation import Expectation, RegionalModel
from brainscm.evaluation.intervals import Calibration, RegionInterval
from brainscm.scm.design import Array
from brainscm.scm.model import Scm
from brainscm.scm.slope_spread import years_asked

logger = logging.getLogger("brainscm")


@dataclass(frozen=True)
class PreparedCase:
    """A case with its query worked out.

    Attributes:
        changed: the scan's table row under the intervention. years: the change of age that is asked for; NaN where the
            graph has no age, or it stays.
        step: (p,) change of the scan's design row. mean_step: the mean one of the training scans under the same
            question, which a participant's own covariates do not tell.
        expected_ml: by region, the change that the causal model expects. drawn_ml: (K, r) the same under draws of all
            parameters.
        targets_ml: the volumes that the causal model sets, of regions that are nodes and that this question changes.
        calibrations: method → what its intervals are made of; empty where none can be made.
        slope_sd_ml: by region, how far participants' own changes in as much time may differ, where that is known.
    """

    case: Case
    changed: pd.Series
    years: float
    step: Array
    mean_step: Array
    expected_ml: Mapping[str, float]
    drawn_ml: Array
    targets_ml: Mapping[str, float]
    calibrations: Mapping[str, Calibration]
    slope_sd_ml: Mapping[str, float] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What a measurement of this case says of it."""
        return {
            "source": self.case.source,
            "query": self.case.query.name,
            "effect": self.case.query.effect,
            "scan": self.case.scan,
            "participant": self.case.participant,
            "years": self.years,
        }

    def intervals(
        self, method: str, decode: str, measured_ml: Mapping[str, float], repeat_sd: Mapping[str, float]
    ) -> dict[str, RegionInterval]:
        """The interval of each region of a method's counterfactual; {} where the method states none.

        Args:
            measured_ml: volumes of the regions in the counterfactual.
            repeat_sd: what a second scan adds, see `Repeats`: only a follow-up's truth is one.
        """
        calibration = self.calibrations.get(method)
        if calibration is None or decode != "residual" or not self.step.any():
            return {}
        further = dict(self.slope_sd_ml)
        if self.case.source == "follow-up":
            further |= {region: math.hypot(sd, further.get(region, 0.0)) for region, sd in repeat_sd.items()}
        return calibration.intervals(measured_ml, self.drawn_ml, further)


def queries_to_calibrate(
    cases: Sequence[Case], scm: Scm, table: pd.DataFrame, with_follow_ups: bool
) -> dict[str, QueryOptions]:
    """The queries whose intervals are calibrated, by name.

    Each follow-up asks for a change of its own: they are calibrated together, at the middle one.
    """
    queries = {case.query.name: case.query for case in cases if case.source != "follow-up"}
    follow_ups = _follow_ups(cases, scm, table)
    if follow_ups and with_follow_ups:
        queries[FOLLOW_UP] = _older_by(_middle_years(follow_ups))
    return queries


def prepare(
    cases: Sequence[Case],
    regional: RegionalModel,
    table: pd.DataFrame,
    calibrated: Mapping[str, Mapping[str, Calibration]],
) -> list[PreparedCase]:
    """Work the queries out, all scans of a query at once.

    Args:
        table: usable scans, indexed by scan id, with the nodes' columns.
        calibrated: by the name of each query of `queries_to_calibrate`, and method.
    """
    prepared: list[PreparedCase] = []
    follow_ups = _follow_ups(cases, regional.scm, table)
    for case, years in follow_ups:
        expected = regional.expect(case.query, table.loc[[case.scan]])
        factor = years / _middle_years(follow_ups)
        scaled = {method: found.scaled(factor) for method, found in calibrated.get(FOLLOW_UP, {}).items()}
        prepared += _prepared([case], expected, regional, _mean_step(regional.scm, _older_by(years)), scaled)
    asked: dict[str, list[Case]] = {}
    for case in cases:
        if case.source != "follow-up":
            asked.setdefault(case.query.name, []).append(case)
    for name, group in asked.items():
        logger.info("working out %s", name)
        query = group[0].query
        expected = regional.expect(query, table.loc[[case.scan for case in group]])
        prepared += _prepared(group, expected, regional, _mean_step(regional.scm, query), calibrated[name])
    return prepared


def _prepared(
    cases: Sequence[Case],
    expected: Expectation,
    regional: RegionalModel,
    mean_step: Array,
    calibrations: Mapping[str, Calibration],
) -> list[PreparedCase]:
    """Cases of one query, worked out together; case i is row i of `expected`."""
    years = _years_asked(regional.scm, expected)
    in_time = np.abs(years_asked(regional.scm, expected.table, expected.changed, expected.query.effect))
    return [
        PreparedCase(
            case=case,
            changed=expected.changed.iloc[at],
            years=years[at],
            step=expected.step[at],
            mean_step=mean_step,
            expected_ml=dict(zip(expected.regions, expected.change_ml[at].tolist(), strict=True)),
            drawn_ml=expected.drawn_ml[:, at],
            targets_ml=_targets(case, regional, expected.table.iloc[at], expected.changed.iloc[at]),
            calibrations=calibrations,
            slope_sd_ml={region: slopes.predicted_sd_ml * in_time[at] for region, slopes in regional.slopes.items()},
        )
        for at, case in enumerate(cases)
    ]


def _targets(case: Case, regional: RegionalModel, factual: pd.Series, changed: pd.Series) -> dict[str, float]:
    targets = {}
    for region, node in regional.node_of.items():
        target = float(changed[f"{region}_ml"])
        if node in case.query.do or target != float(factual[f"{region}_ml"]):
            targets[region] = target
    return targets


def _mean_step(scm: Scm, query: QueryOptions) -> Array:
    changed = scm.intervene(scm.training, query.do, query.effect)
    return np.asarray((scm.design_matrix(changed) - scm.design_matrix(scm.training)).mean(axis=0))


def _years_asked(scm: Scm, expected: Expectation) -> list[float]:
    """The change of age of each row; NaN where the graph has no age, or it stays."""
    if "age" not in scm.covariates.ranges:
        return [float("nan")] * len(expected.table)
    before, after = (scm.values(table)["age"] for table in (expected.table, expected.changed))
    change = (after - before).astype(float).round(6)
    return change.where((after != before).to_numpy()).tolist()


def _follow_ups(cases: Sequence[Case], scm: Scm, table: pd.DataFrame) -> list[tuple[Case, float]]:
    """Each follow-up with the years from its scan to the later one."""
    follow_ups = [case for case in cases if case.source == "follow-up"]
    ages = [float(scm.values(table.loc[[case.scan]])["age"].iloc[0]) for case in follow_ups]
    return [(case, float(case.query.do["age"]) - age) for case, age in zip(follow_ups, ages, strict=True)]


def _middle_years(follow_ups: Sequence[tuple[Case, float]]) -> float:
    return float(np.median([years for _, years in follow_ups]))


def _older_by(years: float) -> QueryOptions:
    return QueryOptions(name=FOLLOW_UP, do={"age": f"{years:+.4f}"})
