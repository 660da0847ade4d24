"""The counterfactuals that the study has written to files: the very volumes that its users look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.config import QueryOptions
from brainscm.errors import BrainSCMError, ScanError
from brainscm.evaluation.scan import Counterfactual
from brainscm.identity import Identity
from brainscm.images import Grid, read_volume
from brainscm.scans import records
from brainscm.tables import read_table


@dataclass(frozen=True)
class WrittenCounterfactuals:
    """The counterfactuals of a study.

    Attributes:
        manifest: one row a scan and query that were asked, `path` and `difference_path` missing where none was made.
        folder: what these paths are relative to.
        grid: that the volumes lie on.
        regions: one row a counterfactual and region (see `counterfactuals.intervals.COLUMNS`).
    """

    manifest: pd.DataFrame
    folder: Path
    grid: Grid
    regions: pd.DataFrame

    @classmethod
    def open(cls, manifest: Path, grid: Grid, latents: Identity) -> WrittenCounterfactuals:
        """Read what `collect_counterfactuals` has written beside the manifest.

        Args:
            latents: the identity of the study's latents.

        Raises:
            BrainSCMError: they were made from other latents.
        """
        description = manifest.parent / "dataset_description.json"
        mend = "run synthesize_counterfactuals again"
        try:
            identity = Identity.model_validate(json.loads(description.read_text())["Identity"])
        except (OSError, KeyError, ValueError) as error:
            raise BrainSCMError(f"{description}: does not tell from which latents these were made; {mend}.") from error
        identity.check(latents, "the counterfactuals", "the latents", mend)
        return cls(read_table(manifest), manifest.parent, grid, read_table(manifest.parent / "regions.tsv"))

    @cached_property
    def made(self) -> pd.DataFrame:
        """The manifest's rows whose volumes were written."""
        return self.manifest[self.manifest["path"].notna()]

    @cached_property
    def _row_of(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["scan"], row["query"]): row for row in records(self.made)}

    def find(self, scan: str, query: QueryOptions) -> Counterfactual | None:
        """The counterfactual of a scan, decoded as the query says; None where none was written.

        Raises:
            ScanError: it cannot be read.
        """
        row = self._row_of.get((scan, query.name))
        return None if row is None else self.read(row)

    @cached_property
    def _bounds_of(self) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
        bounds: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
        for row in records(self.regions.dropna(subset="low_95_ml")):
            of_answer = bounds.setdefault((row["scan"], row["query"]), {})
            of_answer[row["region"]] = (row["low_95_ml"], row["high_95_ml"])
        return bounds

    def bounds_ml(self, scan: str, query: QueryOptions) -> dict[str, tuple[float, float]]:
        """By region, the interval of the change that was written for a scan; {} where none was."""
        return self._bounds_of.get((scan, query.name), {})

    def read(self, row: Mapping[str, Any]) -> Counterfactual:
        """The counterfactual of a row of `made`.

        Raises:
            ScanError: it cannot be read, or lies on another grid.
        """
        try:
            volume, difference = (read_volume(self.folder / row[key], self.grid) for key in ("path", "difference_path"))
        except ScanError as error:
            raise ScanError(
                f"{self.folder / row['path']}: this counterfactual or its difference cannot be read; "
                "run synthesize_counterfactuals again."
            ) from error
        return Counterfactual(volume, difference)
