"""How far the data can answer a question about a scan: the badges that every figure of a counterfactual carries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from brainscm.report.changes import Change
from brainscm.scans import records

if TYPE_CHECKING:
    from brainscm.report.study import Study

FEW_NEAR = 5  # training participants
TRUSTED_COVERAGE = 0.8  # of 95 % intervals


@dataclass(frozen=True)
class Badge:
    """`kind` is a CSS class; `weight` says how much it takes from a figure."""

    name: str
    kind: str
    meaning: str
    weight: int


SUPPORTED = Badge(
    "supported",
    "pass",
    f"inside the training range, {FEW_NEAR} or more training participants with similar covariates, and calibrated",
    0,
)
FEW = Badge("few near", "warn", f"fewer than {FEW_NEAR} training participants have similar covariates", 2)
EXTRAPOLATION = Badge(
    "extrapolation", "fail", "outside a training range, or further out than any training scan: the formula speaks", 4
)
NOT_CALIBRATED = Badge(
    "not calibrated",
    "warn",
    "no calibrated interval, or 95 % intervals of this query that hold the truth in fewer than "
    f"{100 * TRUSTED_COVERAGE:.0f} % of cases",
    1,
)
BADGES = (SUPPORTED, FEW, EXTRAPOLATION, NOT_CALIBRATED)


def badges(study: Study, item: Mapping[str, Any]) -> list[Badge]:
    """The badges of one row of the manifest."""
    scan, query = str(item["scan"]), str(item["query"])
    changes = study.changes.get((scan, query)) or study.measured_changes.get((scan, query), [])
    return badges_of(item, changes, study.coverage.get(query, 1.0))


def badges_of(support: Mapping[str, Any], changes: Sequence[Change], coverage: float) -> list[Badge]:
    """The badges of an answer.

    Args:
        support: `extrapolation` and `positivity`, as the manifest tells them. changes: of its regions.
        coverage: the share of truths that 95 % intervals of its question hold.
    """
    found = []
    if bool(support["extrapolation"]):
        found.append(EXTRAPOLATION)
    if pd.notna(support["positivity"]) and support["positivity"] < FEW_NEAR:
        found.append(FEW)
    if coverage < TRUSTED_COVERAGE or not any(change.is_bounded for change in changes):
        found.append(NOT_CALIBRATED)
    return found or [SUPPORTED]


def badge_names(study: Study, queries: Collection[str]) -> dict[tuple[str, str], str]:
    """By scan and query, the names of the badges of each answer to the queries."""
    asked = study.made[study.made["query"].isin(list(queries))]
    return {
        (item["scan"], item["query"]): ", ".join(badge.name for badge in badges(study, item)) for item in records(asked)
    }


def burden(study: Study, item: Mapping[str, Any]) -> int:
    """How much its badges take from an answer; 0 where it is supported."""
    return sum(badge.weight for badge in badges(study, item))
