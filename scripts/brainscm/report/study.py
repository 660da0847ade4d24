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

from brainscm.config import Config
from brainscm.latents.store import LatentStore
from brainscm.qc.measures import MEASURES, Measure
from brainscm.report.inputs import INPUTS, TABLES
from brainscm.scans import QC_STATUS, ScanTable, records
from brainscm.scm.graph import Graph, read_graph
from brainscm.tables import evenly_spaced, read_table


def spaced(table: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """`evenly_spaced` as records."""
    return records(evenly_spaced(table, count))


@dataclass(frozen=True)
class Study:
    """The tables of one finished run; docs/reference/outputs.md tells their columns.

    `results` is the output folder, which pictures are read from. Tables of stages that gave nothing are empty.
    """

    results: Path
    config: Config
    scans: ScanTable
    latents: LatentStore
    excluded: pd.DataFrame
    notes: pd.DataFrame
    history: pd.DataFrame
    card: dict[str, Any]
    reconstruction: pd.DataFrame
    nodes: pd.DataFrame
    tests: pd.DataFrame
    implications: pd.DataFrame
    diagnostics: pd.DataFrame
    places: pd.DataFrame
    regional_effects: pd.DataFrame
    manifest: pd.DataFrame
    summary: dict[str, Any]
    metrics: pd.DataFrame
    regional_slopes: pd.DataFrame
    minimality: pd.DataFrame
    realism: pd.DataFrame

    @classmethod
    def read(cls, results: Path, config: Config) -> Study:
        """Read what the stages have written into the results folder."""
        scans = ScanTable.read(results / INPUTS["scans"], results / INPUTS["qc"])
        tables = {name: _read(results / path) for name, path in TABLES.items()}
        return cls(results, config, scans, LatentStore.open(results / INPUTS["latents"]), **tables)

    @property
    def name(self) -> str:
        folder = self.config.bids_dir or self.config.dicom_dir
        return folder.name if folder else "simulated cohort"

    @property
    def counterfactuals_dir(self) -> Path:
        return self.results / "counterfactuals"

    @cached_property
    def graph(self) -> Graph:
        return read_graph(self.config.scm)

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """One row a scan, sorted by scan: that of `ScanTable`, with its reconstruction's quality.

        `qc_status` is "none" where preprocessing has not run.
        """
        fidelity = self.reconstruction[["scan", *self.fidelity]]
        table = self.scans.rows.merge(fidelity, on="scan", how="left").sort_values("scan", ignore_index=True)
        return table.assign(**{QC_STATUS: table[QC_STATUS].fillna("none")})

    @property
    def usable(self) -> pd.DataFrame:
        """The rows of `cohort` whose scans can be used."""
        return self.cohort[self.cohort["scan"].map(self.scans.unusable == "")]

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of `cohort`, by scan id, in its order."""
        return {row["scan"]: row for row in records(self.cohort)}

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
        """Columns that hold paths of preprocessed files, relative to the folder of preprocessed files."""
        text = self.scans.rows[list(self.scans.measured)].select_dtypes(exclude="number")
        return [str(column) for column in text if text[column].astype(str).str.contains("/").any()]

    @cached_property
    def measures(self) -> list[str]:
        """Numeric columns that preprocessing measured: measures of quality first, volumes after."""
        numbers = self.scans.rows[list(self.scans.measured)].select_dtypes("number")
        own = [str(column) for column in numbers if numbers[column].notna().any()]
        return [c for c in own if not c.endswith("_ml")] + [c for c in own if c.endswith("_ml")]

    def measure(self, column: str) -> Measure:
        """What a measure is; one that the registry does not list, such as an atlas's region, keeps its name."""
        return MEASURES.get(column, Measure(column.replace("_", " "), unit="", better="neither", meaning=""))

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
        robust_sd = 1.4826 * float(np.median(np.abs(values - median)))
        percentile = 100 * float(np.mean(values < value) + 0.5 * np.mean(values == value))
        return percentile, (value - median) / robust_sd if robust_sd > 0 else float("nan")


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else read_table(path)
