"""A measurement as a row: of which source, method, decoding, query and scan, the metric, and its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

Row = dict[str, Any]
COLUMNS = [
    "source", "method", "decode", "query", "effect", "scan", "participant", "years", "region", "metric", "value",
]  # fmt: skip


def measured(about: Mapping[str, Any], values: Mapping[str, float]) -> list[Row]:
    """One row a metric; `about` says of what."""
    return [{**about, "metric": metric, "value": value} for metric, value in values.items()]


def by_region(about: Mapping[str, Any], metric: str, values: Mapping[str, float]) -> list[Row]:
    """One row a region, of one metric; `values` by region."""
    return [{**about, "region": region, "metric": metric, "value": value} for region, value in values.items()]


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Measurements as a table with the columns `COLUMNS`."""
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float})
