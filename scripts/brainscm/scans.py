"""The cohort's scans: read once, checked once; which of them can be used, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.errors import BrainSCMError, ScanError
from brainscm.images import Displacement, Grid, Mask, Volume, read_displacement, read_mask, read_volume
from brainscm.regions import Geometry
from brainscm.tables import LEFT_OUT_OF_SCM, read_table
from brainscm.tissue_levels import LEVEL_COLUMNS, TissueLevels
from brainscm.visits import add_years_since_baseline

SPLITS = ("train", "validation", "test")
STATUSES = ("pass", "warn", "fail")
# The columns of scans.tsv that the cohort's index makes; the others are the study's own.
INDEX = ("scan", "participant", "session", "path", "further_runs", "split", LEFT_OUT_OF_SCM)
# The columns of qc.tsv that a study's own tables may have, too, with another meaning.
QC_STATUS, QC_REASONS = "qc_status", "qc_reasons"


@dataclass(frozen=True)
class ScanTable:
    """All scans of a cohort, with the reason why a scan cannot be used at the stage that holds the table.

    Attributes:
        rows: one row a scan, indexed by its id: scan, participant, split, what the study's own tables say, the two
            halves of age, and the columns of qc.tsv, of which status and reasons are called `qc_status`, `qc_reasons`.
        unusable: why each scan cannot be used, by scan id; "" where it can.
        preproc_dir: what the paths of preprocessed files are relative to.
        covariates: the columns of `rows` that the study's own tables brought.
        measured: those that preprocessing did, beside status and reasons: measures, volumes and paths of files.
    """

    rows: pd.DataFrame
    unusable: pd.Series
    preproc_dir: Path
    covariates: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()

    @classmethod
    def read(cls, scans_tsv: Path | str, qc_tsv: Path | str) -> ScanTable:
        """Join the cohort's index and the table of quality control, which lies in the folder of preprocessed files.

        Raises:
            BrainSCMError: a scan is listed twice, or its split or status is none that there is.
        """
        scans, qc = _read(scans_tsv, "split", SPLITS), _read(qc_tsv, "status", STATUSES)
        qc = qc.rename(columns={"status": QC_STATUS, "reasons": QC_REASONS})
        covariates = tuple(str(column) for column in scans if column not in INDEX)
        scans = add_years_since_baseline(scans)
        qc = qc[["scan", *(column for column in qc if column not in scans)]]
        measured = tuple(str(column) for column in qc if column not in ("scan", QC_STATUS, QC_REASONS))
        joined = scans.merge(qc, on="scan", how="left")
        joined = joined.set_index("scan", drop=False).rename_axis(None)
        unusable = pd.Series("", index=joined.index, dtype=object)
        failed = joined[QC_STATUS].fillna("fail") == "fail"
        why = "preprocessing failed: " + joined[QC_REASONS].astype(object).fillna("no status").astype(str)
        return cls(joined, unusable.mask(failed, why), Path(qc_tsv).parent, covariates, measured)

    @cached_property
    def usable(self) -> pd.DataFrame:
        """The rows of the scans that can be used."""
        return self.rows[self.unusable == ""]

    def of_split(self, split: str) -> pd.DataFrame:
        """The rows of the usable scans of one split."""
        return self.usable[self.usable["split"] == split]

    def leave_out(self, reasons: pd.Series) -> ScanTable:
        """The table in which further scans cannot be used; `reasons` by scan id, "" or missing where it can.

        A scan that could not be used before keeps its reason.
        """
        reasons = reasons.reindex(self.rows.index).fillna("")
        return replace(self, unusable=self.unusable.where(self.unusable != "", reasons))

    def require(self, scan: str) -> pd.Series:
        """The row of a scan.

        Raises:
            ScanError: it cannot be used; the error says why.
        """
        if self.unusable[scan]:
            raise ScanError(self.unusable[scan])
        return self._row(scan)

    def path(self, scan: str, role: str) -> Path:
        """A file that preprocessing wrote for a scan: `role` is a column of qc.tsv, such as `preproc_t1w`.

        Raises:
            ScanError: preprocessing left none.
        """
        name = self._row(scan).get(role)
        if not isinstance(name, str):
            raise ScanError(f"{scan}: preprocessing left no {role}; see the reasons in qc.tsv.")
        return self.preproc_dir / name

    def _row(self, scan: str) -> pd.Series:
        row = self.rows.loc[scan]
        assert isinstance(row, pd.Series)  # ids are unique
        return row

    @cached_property
    def grid(self) -> Grid:
        """The grid of the first usable scan that can be read; the others lie on it.

        Raises:
            BrainSCMError: there is none.
        """
        for scan in self.usable["scan"]:
            try:
                return Grid.of(self.path(scan, "preproc_t1w"))
            except ScanError:
                continue  # told when it is that scan's turn
        raise BrainSCMError(
            f"{self.preproc_dir / 'qc.tsv'}: no preprocessed scan can be used; its column `reasons` says why."
        )

    def volume(self, scan: str) -> Volume:
        """A preprocessed scan, (x, y, z).

        Raises:
            ScanError: it cannot be read, lies on another grid, or holds NaN or infinity.
        """
        return read_volume(self.path(scan, "preproc_t1w"), self.grid)

    def mask(self, scan: str) -> Mask:
        """A scan's brain mask in template space, (x, y, z)."""
        return read_mask(self.path(scan, "template_mask"))

    def levels(self, scan: str) -> TissueLevels:
        """How bright a scan's tissues are, as preprocessing found it.

        Raises:
            ScanError: it was preprocessed by an earlier version, which did not tell.
        """
        found = [self._row(scan).get(column, float("nan")) for column in LEVEL_COLUMNS]
        if any(pd.isna(level) for level in found):
            raise ScanError(f"{scan}: qc.tsv does not tell how bright its tissues are; preprocess it again.")
        return TissueLevels(*(float(level) for level in found))

    def displacement(self, scan: str) -> Displacement:
        """Where a scan's anatomy lies, as its alignment found it: u takes a template voxel y to y + u(y) in the scan.

        Raises:
            ScanError: it was not aligned, or what was written cannot be read or lies on another grid.
        """
        return read_displacement(self.path(scan, "deformation"), self.grid)

    def geometry(self, scan: str) -> Geometry:
        """Where a scan's brain lies, for measuring its regions.

        Raises:
            ScanError: its mask, or the deformation of a scan that was aligned, cannot be read.
        """
        row = self._row(scan)
        back = None
        if isinstance(row.get("deformation_inverse"), str):
            back = read_displacement(self.path(scan, "deformation_inverse"), self.grid)
        return Geometry(self.mask(scan), float(row["head_size"]), back)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _read(path: Path | str, column: str, known: Sequence[str]) -> pd.DataFrame:
    table = read_table(path)
    if missing := {"scan", column} - set(table):
        raise BrainSCMError(f"{path}: has no column '{min(missing)}'; run the rule that writes it again.")
    if table["scan"].duplicated().any():
        twice = table.loc[table["scan"].duplicated(), "scan"].iloc[0]
        raise BrainSCMError(f"{path}: {twice} is listed twice; run the rule that writes it again.")
    odd = table[~table[column].isin(known)]
    if len(odd):
        raise BrainSCMError(
            f"{path}: the {column} of {odd['scan'].iloc[0]} is '{odd[column].iloc[0]}', none of {', '.join(known)}; "
            "run the rule that writes it again."
        )
    return table
