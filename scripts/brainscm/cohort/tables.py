"""Read and write the workflow's TSV tables the same way everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

IDENTIFIERS = ("scan", "participant", "session", "query")


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a BIDS-style TSV: tab-separated, `n/a` (or an empty cell) is missing, identifiers stay text."""
    text = dict.fromkeys([*IDENTIFIERS, "participant_id", "session_id"], str)
    return pd.read_csv(path, sep="\t", na_values=["n/a", ""], keep_default_na=False, dtype=text)


def write_table(table: pd.DataFrame, path: Path | str) -> None:
    """Write a TSV atomically; numbers keep every digit that they need to be read back unchanged."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    table.to_csv(partial, sep="\t", index=False, na_rep="n/a")
    os.replace(partial, path)
