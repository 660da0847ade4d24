"""Values as table cells, and whole tables as the report's `table` macro takes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from brainscm.report import words
from brainscm.scans import records

Context = dict[str, Any]


def plain(value: Any) -> Any:
    """A cell of a DataFrame as JSON holds it; missing is None."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.6g}") if isinstance(value, float) else value


def embedded(content: Any) -> Markup:
    """JSON for a script element, in which no text of a user's can end the element."""
    return Markup(json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))


def whole_table(table: pd.DataFrame, headings: dict[str, str]) -> Context:
    """Every row, with the columns and headings of `headings`; columns that are missing or empty are left out."""
    filled = table.replace("", None).notna().any()
    shown = {column: heading for column, heading in headings.items() if column in table and filled[column]}
    numeric = {column: pd.api.types.is_numeric_dtype(table[column]) for column in shown}
    rows = [
        {column: _cell(column, value) if numeric[column] else plain(value) or "" for column, value in row.items()}
        for row in records(table[list(shown)])
    ]
    columns = [(column, heading, "number" if numeric[column] else "") for column, heading in shown.items()]
    return {"columns": columns, "rows": rows}


def _cell(column: str, value: Any) -> str:
    if column in ("p", "q", "min_p", "min_q", "p_holm", "min_p_fwe"):
        return words.p_value(float(value))
    if column.startswith("share_"):
        return f"{100 * float(value):.1f} %"
    return words.number(plain(value), 4)
