"""Fingerprints of the folders that the cohort is read from, so that a correction is seen by the next run.

Files are looked at, not opened: 20,000 scans take about a second.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from brainscm.cohort.bids import list_folders, list_images
from brainscm.tsv import LARGEST_POINTER

TABLES = ("participants.tsv", "participants.json", "sessions.tsv", "sessions.json")


def bids_fingerprint(bids_dir: Path) -> str:
    """A hash of all that the index reads: the tables, and which images there are in `anat`.

    A table that is mended, a participant or a visit that is added, changes it. An image that is put in the place of
    another does not: that scan alone is preprocessed again.
    """
    seen = [_look_at(bids_dir / name) for name in TABLES]
    if not bids_dir.is_dir():
        return _hash(seen)
    seen += sorted(name for name in os.listdir(bids_dir) if name[:3].casefold() == "sub")
    for folder in list_folders(bids_dir, "sub-"):
        seen += [_look_at(Path(folder, f"{Path(folder).name}_sessions.{kind}")) for kind in ("tsv", "json")]
        try:
            seen += [f"{path} {_size_if_small(path)}" for _, path in list_images(folder)]
        except OSError:
            seen.append(f"{folder} cannot be read")
    return _hash(seen)


def dicom_fingerprint(dicom_dir: Path) -> str:
    """A hash of the tables and of the folders of participants and sessions, with their times.

    What lies deeper is not looked at, since there may be millions of files.
    """
    seen = [_look_at(dicom_dir / name) for name in TABLES]
    for folder in list_folders(dicom_dir, "") if dicom_dir.is_dir() else ():
        seen.append(_look_at(folder))
        seen += [_look_at(session) for session in list_folders(folder, "ses-")]
    return _hash(seen)


def _look_at(path: str | Path) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return f"{path} is not there"
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _size_if_small(path: str) -> int | None:
    """The size in bytes of what may be a pointer to a file that was not fetched, 0 of a dangling link; else None."""
    try:
        size = os.stat(path).st_size
    except OSError:
        return 0
    return size if size <= LARGEST_POINTER else None


def _hash(seen: list[str]) -> str:
    return hashlib.sha256("\n".join(seen).encode("utf-8", "surrogateescape")).hexdigest()[:16]
