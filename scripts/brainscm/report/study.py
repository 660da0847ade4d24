"""Everything that the report shows, read once from the results folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import Config, QueryOptions
from brainscm.qc.measures import MEASURES, Measure
from brainscm.scm.graph import Graph, read_graph
from brainscm.tables import evenly_spaced, read_table

SPLITS = ("train", "validation", "test")
IDENTITY = ("scan", "participant", "session", "path", "further_runs", "split")
ASSETS = Path(__file__).resolve().parents[3] / "report"  # templates, style, script


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def spaced(table: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """`evenly_spaced` as records."""
    return records(evenly_spaced(table, count))


@dataclass(frozen=True)
class Study:
    """The tables of one run; see docs/reference/outputs.md for their columns.

    `results` is the output folder, which pictures are read from. Tables of stages that gave nothing are empty.
    """

    results: Path
    config: Config
    scans: pd.DataFrame
    excluded: pd.DataFrame
    qc: pd.DataFrame
    history: pd.DataFrame
    card: dict[str, Any]
    reconstruction: pd.DataFrame
    nodes: pd.DataFrame
    tests: pd.DataFrame
    diagnostics: pd.DataFrame
    regional_effects: pd.DataFrame
    manifest: pd.DataFrame
    summary: dict[str, Any]
    metrics: pd.DataFrame
    regional_slopes: pd.DataFrame
    minimality: pd.DataFrame
    realism: pd.DataFrame

    @classmethod
    def read(cls, results: Path, config: Config, paths: dict[str, Path]) -> Study:
        """Read the tables (TSV) and documents (JSON) at `paths`, keyed by the names of the fields above."""
        content: dict[str, Any] = {}
        for name, path in paths.items():
            content[name] = json.loads(path.read_text()) if path.suffix == ".json" else read_table(path)
        return cls(results=results, config=config, **content)

    @property
    def name(self) -> str:
        folder = self.config.bids_dir or self.config.dicom_dir
        return folder.name if folder else "simulated cohort"

    @property
    def preproc_dir(self) -> Path:
        return self.results / "preproc"

    @property
    def counterfactuals_dir(self) -> Path:
        return self.results / "counterfactuals"

    @cached_property
    def graph(self) -> Graph:
        return read_graph(self.config.scm)

    @property
    def queries(self) -> list[QueryOptions]:
        return self.config.counterfactuals

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """One row a scan: identity, split, covariates, status, QC metrics, volumes and reconstruction, by scan."""
        table = self.scans.merge(self.qc.drop(columns=self._shared(self.qc)), on="scan", how="left")
        table["status"] = table["status"].where(table["status"].notna(), "none")
        fidelity = self.reconstruction[["scan", *self.fidelity]]
        table = table.merge(fidelity, on="scan", how="left")
        return table.sort_values("scan", ignore_index=True)

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of `cohort`, by scan id, in its order."""
        return {row["scan"]: row for row in records(self.cohort)}

    @property
    def covariates(self) -> list[str]:
        """Columns that the user's own tables brought."""
        return [str(column) for column in self.scans if column not in IDENTITY]

    @cached_property
    def made(self) -> pd.DataFrame:
        """The rows of the manifest whose counterfactual exists."""
        return self.manifest[self.manifest["path"].notna()]

    @property
    def fidelity(self) -> list[str]:
        """Columns of the reconstruction's quality."""
        return [
            column for column in ("psnr_brain_db", "ssim_brain", "psnr_db", "ssim") if column in self.reconstruction
        ]

    @property
    def output_roles(self) -> list[str]:
        """Columns that hold paths of preprocessed files, relative to `preproc_dir`."""
        text = [str(c) for c in self.qc.select_dtypes(exclude="number") if c not in ("scan", "status", "reasons")]
        return [c for c in text if self.qc[c].astype(str).str.contains("/").any()]

    @cached_property
    def measures(self) -> list[str]:
        """Numeric columns that preprocessing measured: QC metrics first, volumes after."""
        own = [str(c) for c in self.qc.select_dtypes("number") if c not in self.scans and self.qc[c].notna().any()]
        return [c for c in own if not c.endswith("_ml")] + [c for c in own if c.endswith("_ml")]

    def measure(self, column: str) -> dict[str, str]:
        """Label, unit, meaning and the better way of a measure; one that the registry lacks keeps its name."""
        known = MEASURES.get(column, Measure(column.replace("_", " "), "", "neither", ""))
        return {key: getattr(known, key) for key in ("label", "unit", "better", "meaning")}

    def unit(self, node: str) -> str:
        options = self.config.scm.nodes.get(node)
        return (options.unit or "") if options else ""

    def with_unit(self, column: str) -> str:
        """A covariate's name with its unit, for headings."""
        return f"{column} ({self.unit(column)})" if self.unit(column) else column

    def standing(self, row: Mapping[str, Any], column: str) -> tuple[float, float]:
        """Percentile (0–100) and robust z, (value - median) / (1.4826 MAD), of a scan's measure within the cohort.

        NaN where it has no value; z is NaN where the cohort does not vary.
        """
        values = self.cohort[column].dropna().to_numpy(dtype=float)
        value = float(row[column])
        if not np.isfinite(value) or not len(values):
            return float("nan"), float("nan")
        median = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - median)))
        percentile = 100 * float(np.mean(values < value) + 0.5 * np.mean(values == value))
        return percentile, (value - median) / spread if spread > 0 else float("nan")

    def _shared(self, table: pd.DataFrame) -> list[str]:
        return [str(column) for column in table if column != "scan" and column in self.scans]
