"""A measurement as a row: of which source, method, decoding, query and scan, the metric, and its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


def measured(about: Mapping[str, Any], values: Mapping[str, float]) -> list[Row]:
    """One row a metric; `about` says of what."""
    return [{**about, "metric": metric, "value": value} for metric, value in values.items()]


def by_region(about: Mapping[str, Any], metric: str, values: Mapping[str, float]) -> list[Row]:
    """One row a region, of one metric; `values` by region."""
    return [{**about, "region": region, "metric": metric, "value": value} for region, value in values.items()]
