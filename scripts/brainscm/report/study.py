"""Everything that the report shows, read once from the results folder."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from brainscm.bundle import Bundle
from brainscm.config import Config, QueryOptions
from brainscm.evaluation.cases import simulated_cases
from brainscm.latents.store import LatentStore
from brainscm.qc.collect import robust_z
from brainscm.qc.measures import MEASURES, Measure
from brainscm.questions import read_queries
from brainscm.report.changes import Change, Changes, read_changes, read_follow_ups, read_measured
from brainscm.report.expected import expected_changes
from brainscm.report.inputs import ABSENT, REFUTATION, TABLES, report_inputs
from brainscm.report.words import TOO_FEW, signed
from brainscm.scans import QC_STATUS, ScanTable, records
from brainscm.scm.graph import Graph, read_graph
from brainscm.tables import evenly_spaced, read_table


def spaced(table: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    """`evenly_spaced` as records."""
    return records(evenly_spaced(table, count))


@dataclass(frozen=True)
class StandingOut:
    """The measure by which a scan stands furthest out, "" for none, and how far: robust standard deviations."""

    measure: str
    distance: float


@dataclass(frozen=True)
class Study:
    """The tables of one finished run; docs/reference/outputs.md tells their columns.

    `results` is the output folder, which pictures are read from. Tables of stages that gave nothing are empty.
    `support` has a row a scan where the study puts its scans to a bundle. `refutation` is there once it was asked for.
    """

    results: Path
    config: Config
    scans: ScanTable
    latents: LatentStore
    excluded: pd.DataFrame
    notes: pd.DataFrame
    history: pd.DataFrame
    codes: pd.DataFrame
    card: dict[str, Any]
    reconstruction: pd.DataFrame
    sample: pd.DataFrame
    nodes: pd.DataFrame
    tests: pd.DataFrame
    implications: pd.DataFrame
    formulas: pd.DataFrame
    diagnostics: pd.DataFrame
    residuals: pd.DataFrame
    places: pd.DataFrame
    regional_effects: pd.DataFrame
    manifest: pd.DataFrame
    regions: pd.DataFrame
    summary: dict[str, Any]
    metrics: pd.DataFrame
    regional_slopes: pd.DataFrame
    minimality: pd.DataFrame
    realism: pd.DataFrame
    support: pd.DataFrame = field(default_factory=pd.DataFrame)
    refutation: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def read(cls, results: Path, config: Config) -> Study:
        """Read what the stages have written into the results folder."""
        paths = report_inputs(str(results), str(config.bundle) if config.bundle else None)
        scans, latents = ScanTable.read(paths["scans"], paths["qc"]), LatentStore.open(paths["latents"])
        tables = {name: _read(Path(paths[name])) if name in paths else _absent(name) for name in TABLES}
        support = _read(Path(paths["support"])) if "support" in paths else pd.DataFrame()
        asked = results / REFUTATION
        refutation = _read(asked) if asked.exists() and not config.bundle else pd.DataFrame()
        return cls(results, config, scans, latents, **tables, support=support, refutation=refutation)

    @cached_property
    def bundle(self) -> Bundle | None:
        """The fitted study that the scans are put to, if it is another one."""
        return Bundle.open(self.config.bundle) if self.config.bundle else None

    @property
    def fitted(self) -> Path:
        """Where the fitted models and what is told of them lie."""
        return self.config.bundle or self.results

    @property
    def name(self) -> str:
        folder = self.config.bids_dir or self.config.dicom_dir
        return folder.name if folder else "simulated cohort"

    @property
    def key(self) -> str:
        """What a browser keeps ratings of this cohort under: the same after another run, another for other scans."""
        folder = self.config.bids_dir or self.config.dicom_dir or self.config.work_dir
        return f"{self.name}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"

    def relative(self, text: str) -> str:
        """A sentence in which paths begin at the data set, not at the machine's root."""
        folder = self.config.bids_dir or self.config.dicom_dir or self.config.work_dir
        return text.replace(f"{folder.absolute()}/", "")

    @property
    def reconstructions(self) -> Path:
        """The folder of what the autoencoder makes of each scan."""
        return self.results / ("support" if self.config.bundle else "autoencoder") / "reconstructions"

    @property
    def counterfactuals_dir(self) -> Path:
        return self.results / "counterfactuals"

    @cached_property
    def graph(self) -> Graph:
        return read_graph(self.config.scm)

    @cached_property
    def queries(self) -> list[QueryOptions]:
        """What was asked, a trajectory as its members."""
        return read_queries(self.config.counterfactuals)

    @cached_property
    def query_of(self) -> dict[str, QueryOptions]:
        """Each query by its name."""
        return {query.name: query for query in self.queries}

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
    def worst_first(self) -> list[str]:
        """All scans: failed, not run, with a warning, passed; among equals the one furthest beyond a limit first, and
        then the one that stands furthest out of the cohort."""
        severity = {status: place for place, status in enumerate(("fail", "none", "warn", "pass"))}
        return sorted(
            self.rows,
            key=lambda scan: (
                severity[self.rows[scan][QC_STATUS]],
                -self.beyond_limits[scan],
                -self.standing_out[scan].distance,
                scan,
            ),
        )

    @cached_property
    def beyond_limits(self) -> dict[str, float]:
        """By scan, how far it lies beyond the limit that it breaks most; 0 where it breaks none.

        In steps from where a measure warns to where it fails or, of one that has one limit only, in times that limit. A
        scan that failed before anything of it was measured is beyond all limits.
        """
        table = self.cohort.set_index("scan")
        furthest = pd.Series(0.0, index=table.index)
        for column in self.measures:
            limits, fail = self.measure(column).limits, self.limits(column, "fail")
            first = self.limits(column, "warn") or fail
            if limits is None or not first:
                continue
            value = table[column].astype(float)
            low, high = {"below": (True, False), "above": (False, True)}.get(limits.bad, (True, True))
            for is_bad, end, sign in ((low, 0, -1.0), (high, -1, 1.0)):
                step = abs(fail[end] - first[end] if fail else 0.0) or abs(first[end]) or 1.0
                beyond = sign * (value - first[end]) / step
                furthest = furthest.mask(is_bad & (beyond > furthest), beyond)
        furthest[(table[QC_STATUS] == "fail") & (furthest == 0)] = np.inf
        return {str(scan): float(distance) for scan, distance in furthest.items()}

    @cached_property
    def standing_out(self) -> dict[str, StandingOut]:
        """By scan, the measure of quality by which it stands furthest out of the cohort, on the measure's bad side."""
        furthest = pd.Series(0.0, index=self.cohort["scan"])
        which = pd.Series("", index=self.cohort["scan"])
        for column in self.measures:
            better = self.measure(column).better
            is_measure = column in MEASURES and not column.endswith("_z")
            if not is_measure or (better == "neither" and self.measure(column).limits is None):
                continue  # a large brain is no fault
            z = robust_z(self.cohort.set_index("scan")[column].astype(float))
            bad = {"higher": -z, "lower": z, "neither": z.abs()}[better].fillna(0.0)
            which = which.where(bad <= furthest, column)
            furthest = furthest.where(bad <= furthest, bad)
        return {
            str(scan): StandingOut(measure, float(distance))
            for scan, measure, distance in zip(furthest.index, which, furthest, strict=True)
        }

    def diagnosed(self, *checks: str) -> pd.DataFrame:
        """The rows of `diagnostics` of some checks: none where no model was fitted."""
        if self.diagnostics.empty:
            return pd.DataFrame(columns=["check", "item", "value", "warning"])
        return self.diagnostics[self.diagnostics["check"].isin(checks)]

    @cached_property
    def made(self) -> pd.DataFrame:
        """The rows of the manifest whose counterfactual exists."""
        return self.manifest[self.manifest["path"].notna()]

    @cached_property
    def changes(self) -> Changes:
        """By scan and query, how each region changes; only of what the evaluation measured."""
        decodes = {query.name: query.decode for query in self.queries}
        return read_changes(self.metrics, self.scans.rows, decodes)

    @cached_property
    def measured_changes(self) -> Changes:
        """By scan and query, how each region of every counterfactual changes, and what is expected of it."""
        return read_measured(self.regions, expected_changes(self))

    @cached_property
    def follow_up_changes(self) -> dict[tuple[str, float], list[Change]]:
        """By first scan and the years until the later one, how each region changes."""
        return read_follow_ups(self.metrics, self.scans.rows)

    @cached_property
    def truths(self) -> dict[tuple[str, str], str]:
        """The raw heads of true answers that a simulator wrote beside its scans, by scan and query."""
        rows = self.scans.usable
        if rows.empty:
            return {}
        raw = Path(rows["path"].iloc[0])
        dataset = next((folder.parent for folder in reversed(raw.parents) if folder.name.startswith("sub-")), raw)
        cases = simulated_cases(dataset, rows, self.queries)
        return {(case.scan, case.query.name): case.answer for case in cases}

    @cached_property
    def command(self) -> str:
        """What was typed to make the results; as the documentation has it where that is not known."""
        record = self.results / "run.json"
        told = json.loads(record.read_text()) if record.exists() else {}
        return str(told.get("command", "snakemake --cores all"))

    @cached_property
    def study_file(self) -> str:
        """What the command says of the study, such as `--configfile my-study.yaml`; "" where it says nothing."""
        said: list[str] = []
        is_told = False
        for word in shlex.split(self.command):
            if word.startswith("-"):
                is_told = word.partition("=")[0] in ("--configfile", "--configfiles", "--config", "--directory", "-d")
            said += [word] if is_told else []
        return shlex.join(said)

    @cached_property
    def coverage(self) -> dict[str, float]:
        """By query, the share of regional truths that the calibrated 95 % intervals hold, where truths are known."""
        own = self._coverages("simulated")
        own = own[own["stratum"].astype(str).str.startswith("query=")]
        queries = own["stratum"].str.removeprefix("query=")
        return dict(zip(queries, own["value"].astype(float), strict=True))

    @cached_property
    def follow_up_coverage(self) -> float:
        """The share of the regional truths of later scans that the 95 % intervals hold; 1 where that is not known."""
        own = self._coverages("follow-up")
        return float(next(iter(own.loc[(own["stratum"] == "all") & own["region"].isna(), "value"]), 1.0))

    def _coverages(self, source: str) -> pd.DataFrame:
        table = self.metrics
        return table[
            (table["level"] == "mean")
            & (table["metric"] == "interval_coverage_95")
            & (table["method"] == "latent_glm")
            & (table["source"] == source)
        ]

    @property
    def fidelity(self) -> list[str]:
        """Columns of the reconstruction's quality."""
        return [
            column for column in ("psnr_brain_db", "ssim_brain", "psnr_db", "ssim") if column in self.reconstruction
        ]

    @cached_property
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

    def limits(self, column: str, kind: Literal["warn", "fail"]) -> list[float]:
        """Where a measure warns or fails: one number, both ends of a range, or nothing."""
        limits = self.measure(column).limits
        option = getattr(limits, kind) if limits else ""
        if limits is None or not option:
            return []
        value = getattr(self.config.quality, option)
        ends = [float(end) for end in value] if isinstance(value, tuple) else [float(value)]
        return [-ends[0], ends[0]] if limits.bad == "beyond" else ends

    def limit_words(self, column: str, kind: Literal["warn", "fail"]) -> str:
        """Where a measure warns or fails in words, such as `warn below 0.9`; "" where it does not."""
        limits, ends = self.measure(column).limits, self.limits(column, kind)
        if limits is None or not ends:
            return ""
        told = f"±{ends[-1]:g}" if limits.bad == "beyond" else "–".join(signed(f"{end:g}") for end in ends)
        return f"{kind} {limits.bad} {told}"

    def unit(self, node: str) -> str:
        options = self.config.scm.nodes.get(node)
        return (options.unit or "") if options else ""

    def with_unit(self, column: str) -> str:
        """A covariate's name with its unit, for headings."""
        return f"{column} ({self.unit(column)})" if self.unit(column) else column

    def standing(self, row: Mapping[str, Any], column: str) -> tuple[float, float]:
        """Percentile (0–100) and robust z, (value - median) / (1.4826 MAD), of a scan's measure within the cohort.

        NaN where it has no value, or fewer than `TOO_FEW` have one; z is NaN where the cohort does not vary.
        """
        values = self.cohort[column].dropna().to_numpy(dtype=float)
        value = float(row[column])
        if not np.isfinite(value) or len(values) < TOO_FEW:
            return float("nan"), float("nan")
        median = float(np.median(values))
        robust_sd = 1.4826 * float(np.median(np.abs(values - median)))
        percentile = 100 * float(np.mean(values < value) + 0.5 * np.mean(values == value))
        return percentile, (value - median) / robust_sd if robust_sd > 0 else float("nan")


# The columns of tables that cannot be there, as far as pages look into them.
COLUMNS_OF_ABSENT = {
    "places": ["scan"],
    "residuals": ["model", "measure"],
    "metrics": [
        "level",
        "metric",
        "source",
        "query",
        "method",
        "decode",
        "scan",
        "region",
        "stratum",
        "years",
        "value",
    ],
}


def _absent(name: str) -> Any:
    assert name in ABSENT
    return {} if TABLES[name].endswith(".json") else pd.DataFrame(columns=COLUMNS_OF_ABSENT.get(name, []))


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else read_table(path)
