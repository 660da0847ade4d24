"""How a counterfactual changes each region: as it was measured, with its interval, beside what is expected and true."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from brainscm.evaluation.cases import FOLLOW_UP
from brainscm.scans import records

YEARS_DECIMALS = 3
# A change below this share of its region is too small for its direction to mean anything.
SMALL_PERCENT = 0.2
# By metric of metrics.tsv, for the study's own answers; by method, for what stands beside them.
MEASURED = {
    "region_change_ml": "measured_ml",
    "region_change_low_95_ml": "low_ml",
    "region_change_high_95_ml": "high_ml",
}
BESIDE = {"scm": "expected_ml", "truth": "true_ml"}


@dataclass(frozen=True)
class Change:
    """The change of one region, in ml: NaN where it is not known.

    Attributes:
        before_ml: volume of the region in the scan.
        measured_ml: change that is measured on the counterfactual. low_ml, high_ml: its calibrated 95 % interval, which
            is not centred on it, because what the calibration found to be off is taken off.
        expected_ml: change that the causal model's own regression of the region expects. true_ml: where the truth is
            known.
    """

    region: str
    before_ml: float
    measured_ml: float = math.nan
    low_ml: float = math.nan
    high_ml: float = math.nan
    expected_ml: float = math.nan
    true_ml: float = math.nan

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.low_ml) and math.isfinite(self.high_ml)

    def percent(self, change_ml: float) -> float:
        return 100 * change_ml / self.before_ml if self.before_ml > 0 else math.nan

    @property
    def right_ml(self) -> float:
        """The truth or, where that is not known, what is expected."""
        return self.true_ml if math.isfinite(self.true_ml) else self.expected_ml

    @property
    def miss_ml(self) -> float:
        """How far the measured change is from the right one."""
        return abs(self.measured_ml - self.right_ml)

    @property
    def is_wrong_way(self) -> bool:
        """Measured against the truth or, where that is not known, against what is expected."""
        large = min(abs(self.percent(self.measured_ml)), abs(self.percent(self.right_ml))) >= SMALL_PERCENT
        return large and self.measured_ml * self.right_ml < 0


Changes = Mapping[tuple[str, str], list[Change]]


def read_changes(metrics: pd.DataFrame, scans: pd.DataFrame, decodes: Mapping[str, str]) -> Changes:
    """By scan and query, the change of each region; the one place that knows where the tables hold it.

    Args:
        metrics: the evaluation's. scans: indexed by scan id, with `<region>_ml`.
        decodes: query → how its volumes were decoded.
    """
    rows = metrics[metrics["source"].isin(["simulated", "unanswered"]) & metrics["query"].isin(list(decodes))]
    return _by_answer(rows, scans, decodes)


def read_follow_ups(metrics: pd.DataFrame, scans: pd.DataFrame) -> dict[tuple[str, float], list[Change]]:
    """By first scan and the years until the later one, the change of each region. Arguments as of `read_changes`."""
    rows = metrics[metrics["source"] == FOLLOW_UP]
    years = rows["years"].astype(float).round(YEARS_DECIMALS)
    found = _by_answer(rows.assign(query=years.astype(str)), scans, dict.fromkeys(years.astype(str), "residual"))
    return {(scan, float(query)): changes for (scan, query), changes in found.items()}


def _by_answer(rows: pd.DataFrame, scans: pd.DataFrame, decodes: Mapping[str, str]) -> Changes:
    rows = rows[(rows["level"] == "scan") & rows["scan"].isin(scans.index) & rows["metric"].isin(list(MEASURED))]
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in records(rows):
        scan, query, region = (str(row[key]) for key in ("scan", "query", "region"))
        if row["method"] == "latent_glm" and row["decode"] == decodes[query]:
            column = MEASURED[row["metric"]]
        elif row["method"] in BESIDE and row["metric"] == "region_change_ml":
            column = BESIDE[row["method"]]
        else:
            continue
        found.setdefault((scan, query), {}).setdefault(region, {})[column] = float(row["value"])
    regions = {region for by_region in found.values() for region in by_region}
    before_ml = {
        (str(scan), region): float(value) for region in regions for scan, value in scans[f"{region}_ml"].items()
    }
    return {
        (scan, query): [Change(region, before_ml[scan, region], **values) for region, values in by_region.items()]
        for (scan, query), by_region in found.items()
    }


def read_measured(regions: pd.DataFrame, expected: Mapping[tuple[str, str, str], float]) -> Changes:
    """By scan and query, the change of each region of every counterfactual, with its calibrated interval.

    Args:
        regions: counterfactuals/regions.tsv. expected: by scan, query and region, in ml.
    """
    found: dict[tuple[str, str], list[Change]] = {}
    for row in records(regions):
        volumes = {"measured_ml": row["change_ml"], "low_ml": row["low_95_ml"], "high_ml": row["high_95_ml"]}
        known = {name: float(value) for name, value in volumes.items() if pd.notna(value)}
        scan, query, region = (str(row[name]) for name in ("scan", "query", "region"))
        known["expected_ml"] = expected.get((scan, query, region), math.nan)
        found.setdefault((scan, query), []).append(Change(region, float(row["before_ml"]), **known))
    return found


def mean_changes(changes: Changes, query: str) -> list[Change]:
    """The mean change of each region over a query's scans, without intervals."""
    own = [change for (_, asked), regions in changes.items() if asked == query for change in regions]
    table = pd.DataFrame([vars(change) for change in own])
    if table.empty:
        return []
    means = table.drop(columns=["low_ml", "high_ml"]).groupby("region", sort=False).mean()
    return [Change(**row) for row in records(means.reset_index())]
