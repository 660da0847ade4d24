"""What the report says of error rates is what the benchmark found."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from brainscm.config import ImageOptions
from brainscm.scm import error_rates
from brainscm.scm.error_rates import doubtful_p, of_few_visits

FOUND = json.loads((Path(__file__).parents[2] / "benchmarks/results/calibration.json").read_text())


def worst(rows: Iterable[dict[str, Any]], rate: str, **of: Any) -> int:
    """In per cent: the largest rejection rate, or the smallest coverage, of those rows."""
    rates = [row[rate] for row in rows if all(row[key] == value for key, value in of.items())]
    return round(100 * (max(rates) if rate.startswith("rejection") else min(rates)))


def test_the_figures_are_the_benchmarks_worst() -> None:
    robust = [row for row in FOUND["contrasts"] if row["errors"] in ("hc3", "clustered")]
    assert worst(robust, "rejection_05", noise="skewed") == error_rates.ROBUST_SKEWED
    assert worst(FOUND["family_wise"], "rejection_05", noise="normal") == error_rates.FLIPPED
    assert worst(FOUND["family_wise"], "rejection_05", noise="skewed") == error_rates.FLIPPED_SKEWED
    assert worst(FOUND["variance_groups"], "rejection_05") == error_rates.WEIGHED
    assert worst(FOUND["slopes_in_time"], "rejection_05", noise="skewed") == error_rates.SLOPES_SKEWED
    assert worst(FOUND["changes_in_time"], "coverage_95", participants=15) == error_rates.FEW_VISITS


@pytest.mark.parametrize(
    ("options", "told"),
    [({"errors": "hc3"}, "flipping signs"), ({"variance_by": "site"}, "residual variances by site"), ({}, "")],
)
def test_options_whose_family_wise_p_errs_are_told_of(options: dict[str, Any], told: str) -> None:
    image = ImageOptions.model_validate({"formula": "age + site", **options})
    found = doubtful_p(image, 500)["warning"].tolist()
    assert len(found) == bool(told)
    assert all(told in words and " % of cases where it says 5 %" in words for words in found)
    assert doubtful_p(image, 0).empty


def test_few_who_came_several_times_are_told_of() -> None:
    assert of_few_visits(12).startswith("only 12 training participants came several times")
    assert of_few_visits(error_rates.FEW_RETURNING) == ""
