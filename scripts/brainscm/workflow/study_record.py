"""Whose scans a folder of results is of: those of another study are refused, or the two would be mixed.

A study is known by where its scans lie, and, should they have moved, by how some of its files begin. Its options do not
count: what they change is done again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from brainscm.cohort.bids import list_folders
from brainscm.config import Config
from brainscm.errors import ConfigError
from brainscm.files import write_json
from brainscm.tsv import is_fetched

FILE = "study.json"
SAMPLED, BYTES = 20, 2**16
TEXTS = (".json", ".tsv", ".txt", ".md", ".bval", ".bvec")  # two studies may have the same ones


class StudyRecord(BaseModel):
    """Where the scans of a study lie, "" for simulated ones; and of some of its files, by place, how they begin."""

    scans: str
    beginnings: dict[str, str] = {}

    @classmethod
    def of(cls, config: Config) -> StudyRecord:
        source = config.bids_dir or config.dicom_dir
        return cls(scans=str(source.resolve()) if source else "")

    def remember(self, results: Path) -> None:
        """Write the record into the folder of results, unless it is there."""
        known = _read(results)
        if known is None or known.scans != self.scans or (self.scans and not known.beginnings):
            write_json(results / FILE, StudyRecord(scans=self.scans, beginnings=self._sample()).model_dump())

    def check(self, results: Path) -> None:
        """Compare with the record in a folder of results.

        Raises:
            ConfigError: it is that of other scans.
        """
        known = _read(results)
        if known is None or known.scans == self.scans or self._has_moved_from(known):
            return
        of = f"of the scans in {known.scans}" if known.scans else "of simulated scans"
        raise ConfigError(
            f"config: output_dir: {results.absolute()} holds the results {of}, and this study has others; name another "
            f"output_dir, or, if the scans are the same, remove {results.absolute() / FILE}."
        )

    def _has_moved_from(self, known: StudyRecord) -> bool:
        if not (known.scans and self.scans):
            return False
        if not known.beginnings:
            return not Path(known.scans).exists()
        found = [_beginning(Path(self.scans, place)) == begins for place, begins in known.beginnings.items()]
        return 2 * sum(found) >= len(found)

    def _sample(self) -> dict[str, str]:
        folders = list_folders(self.scans, "") if self.scans and Path(self.scans).is_dir() else []
        folders = [folder for folder in folders if "/sub-" in folder] or folders  # a BIDS folder holds others, too
        first = (next(_files(folder), None) for folder in folders[:: 1 + len(folders) // SAMPLED])
        return {str(path.relative_to(self.scans)): begins for path in first if path and (begins := _beginning(path))}


def _read(results: Path) -> StudyRecord | None:
    """The record in a folder of results; None where there is none that can be read."""
    try:
        return StudyRecord.model_validate_json((results / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _files(folder: str) -> Iterator[Path]:
    """The files of a folder whose content is there, in one order, as far as they are looked at."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            if path.suffix not in TEXTS and is_fetched(path):
                yield path


def _beginning(path: Path) -> str:
    """A hash of how a file begins; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(BYTES)).hexdigest()[:16]
    except OSError:
        return ""
