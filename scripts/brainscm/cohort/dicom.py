"""Convert folders of DICOM files into a BIDS folder of T1w scans by dcm2niix, and keep what it warned of."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd

from brainscm.errors import BrainSCMError
from brainscm.files import write_dataset_description, write_json
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")

T1W_WORDS = re.compile(r"t1|mp2?rage|spgr|bravo|tfl|tfe|mdeft", re.IGNORECASE)
NO_MAGNITUDE = re.compile(r"_(ph|real|imaginary)[a-z]?$|_ROI\d*$")
REPLACED = re.compile(r"_(Eq|Tilt)(_\d+)?$")  # dcm2niix's own repair of a series, beside the series as it came
MIN_SLICES = 16  # fewer is a localiser


@dataclass(frozen=True)
class Series:
    """One converted 3D image, its side-car, and what dcm2niix said about it."""

    image: Path
    sidecar: dict[str, Any]
    warnings: list[str]

    @property
    def description(self) -> str:
        return str(self.sidecar.get("SeriesDescription") or self.sidecar.get("ProtocolName") or "")

    @property
    def looks_like_t1w(self) -> bool:
        words = [self.description, *(str(self.sidecar.get(key, "")) for key in ("ProtocolName", "PulseSequenceType"))]
        return any(T1W_WORDS.search(word) for word in words)


@dataclass
class Converted:
    """What became of one participant's or session's folder: a row a series for `sourcedata/conversion.tsv`."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    scans: int = 0


def convert_dicom(dicom_dir: Path, bids_dir: Path, threads: int = 1) -> pd.DataFrame:
    """Fill `bids_dir` from `<dicom_dir>/<participant>/[ses-<session>/]…`, whatever lies below.

    Of each folder the T1w series are taken: those whose description or protocol says so, or the only 3D image there is.
    Series of one description become runs. `participants.tsv` and `sessions.tsv` are copied from `dicom_dir`, or a list
    of the ids is made. Side-cars are dcm2niix's, without what identifies a participant, and with `ConversionWarnings`.

    Returns:
        What is written to `sourcedata/conversion.tsv`: participant, session, series, file, told. A folder without a
        T1w has a row without a file.

    Raises:
        BrainSCMError: there is no folder, two folders would have one id, or no folder holds a T1w.
    """
    if not dicom_dir.is_dir():
        raise BrainSCMError(f"dicom_dir: {dicom_dir} is not a folder; set it to one that holds a folder a participant")
    folders = _folders(dicom_dir)
    for path in (*bids_dir.glob("sub-*"), bids_dir / "sourcedata"):  # of an earlier call
        shutil.rmtree(path, ignore_errors=True)
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda item: _convert_folder(item[0], item[1], item[2], bids_dir), folders))
    table = pd.DataFrame([row for converted in done for row in converted.rows])
    if not any(converted.scans for converted in done):
        told = table["told"].iloc[0] if len(table) else "it holds no folder"
        raise BrainSCMError(f"dicom_dir: no T1w series was found under {dicom_dir} ({told}); check the path")
    write_table(table, bids_dir / "sourcedata" / "conversion.tsv")
    _write_tables(dicom_dir, bids_dir, [participant for participant, _, _ in folders])
    for row in table[table["told"] != ""].itertuples():
        logger.warning("%s %s: %s", row.participant, row.session or "", row.told)
    # Written last: with it the folder is whole.
    write_dataset_description(bids_dir, dicom_dir.name, "raw", _generator())
    return table


def _folders(dicom_dir: Path) -> list[tuple[str, str, Path]]:
    """(participant, session or "", folder) of each folder to convert."""
    found: dict[tuple[str, str], Path] = {}
    for participant_dir in sorted(path for path in dicom_dir.iterdir() if path.is_dir()):
        participant = "sub-" + _label(participant_dir.name.removeprefix("sub-"))
        sessions = sorted(path for path in participant_dir.glob("ses-*") if path.is_dir())
        for folder in sessions or [participant_dir]:
            session = f"ses-{_label(folder.name.removeprefix('ses-'))}" if sessions else ""
            if (participant, session) in found:
                raise BrainSCMError(
                    f"dicom_dir: {found[participant, session]} and {folder} would both be {participant}"
                    f"{'_' + session if session else ''}; rename one (only letters and digits count)"
                )
            found[participant, session] = folder
    return [(participant, session, folder) for (participant, session), folder in found.items()]


def _label(name: str) -> str:
    label = re.sub(r"[^A-Za-z0-9]", "", name)
    if not label:
        raise BrainSCMError(f"dicom_dir: the folder '{name}' gives no id; use letters and digits")
    return label


def _convert_folder(participant: str, session: str, folder: Path, bids_dir: Path) -> Converted:
    scan = f"{participant}_{session}" if session else participant
    anat = bids_dir / scan.replace("_", "/") / "anat"
    converted = Converted()

    def tell(series: str | None, file: str | None, told: str) -> None:
        row = {"participant": participant, "session": session or None, "series": series, "file": file, "told": told}
        converted.rows.append(row)

    with tempfile.TemporaryDirectory() as temporary:
        try:
            series = _convert_series(folder, Path(temporary))
        except BrainSCMError as error:
            tell(None, None, str(error))
            return converted
        chosen = [item for item in series if item.looks_like_t1w] or (series if len(series) == 1 else [])
        if not chosen:
            names = ", ".join(item.description or "unnamed" for item in series) or "none of 3D"
            tell(None, None, f"{folder}: no T1w among its series ({names}); leave only the T1w series in it")
            return converted
        anat.mkdir(parents=True, exist_ok=True)
        for stem, item in zip(_stems(scan, chosen), chosen, strict=True):
            shutil.move(item.image, anat / f"{stem}.nii.gz")
            sidecar = item.sidecar | ({"ConversionWarnings": item.warnings} if item.warnings else {})
            write_json(anat / f"{stem}.json", sidecar)
            tell(item.description, f"{stem}.nii.gz", "; ".join(item.warnings))
        converted.scans = len(chosen)
    return converted


def _stems(scan: str, chosen: Sequence[Series]) -> list[str]:
    """BIDS names: series that differ in their description get an `acq-`, those that do not are runs."""
    labels = [re.sub(r"[^A-Za-z0-9]", "", item.description) or "unnamed" for item in chosen]
    stems = []
    for index, label in enumerate(labels):
        entities = f"_acq-{label}" if len(set(labels)) > 1 else ""
        entities += f"_run-{labels[:index].count(label) + 1}" if labels.count(label) > 1 else ""
        stems.append(f"{scan}{entities}_T1w")
    return stems


def _convert_series(folder: Path, temporary: Path) -> list[Series]:
    """Convert series by series, so that each warning belongs to one; keep the 3D images, in the scanner's order."""
    listed = _dcm2niix("-n", "-1", "-o", str(temporary), str(folder))
    found = []
    for number in dict.fromkeys(re.findall(r"^\s+(\d+)\s", listed, flags=re.MULTILINE)):
        out = temporary / number
        out.mkdir()
        said = _dcm2niix("-n", number, "-z", "y", "-b", "y", "-ba", "y", "-f", "%s", "-o", str(out), str(folder))
        warnings = re.findall(r"^Warning: (.+?)\s*$", said, flags=re.MULTILINE)
        images = sorted(path for path in out.glob("*.nii.gz") if not NO_MAGNITUDE.search(_stem(path)))
        mended = {REPLACED.sub("", _stem(path)) for path in images if REPLACED.search(_stem(path))}
        for image in images:
            shape = [n for n in nib.load(image).shape if n > 1]
            if _stem(image) in mended or len(shape) != 3 or min(shape) < MIN_SLICES:
                continue
            told = list(warnings)
            if REPLACED.search(_stem(image)):
                told.append("its slices were not evenly spaced and were resampled to be")
            sidecar = out / f"{REPLACED.sub('', _stem(image))}.json"
            found.append(Series(image, json.loads(sidecar.read_text()) if sidecar.is_file() else {}, told))
    return sorted(found, key=lambda item: item.sidecar.get("SeriesNumber", 0))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _dcm2niix(*arguments: str) -> str:
    """Run dcm2niix; returns what it printed.

    Raises:
        BrainSCMError: it found no DICOM file or could not convert.
    """
    done = _run(*arguments)
    if done.returncode != 0:
        said = re.findall(r"^Error: (.+?)\s*$", done.stdout + done.stderr, flags=re.MULTILINE)
        why = said[-1] if said else f"dcm2niix ended with code {done.returncode}"
        raise BrainSCMError(f"{arguments[-1]}: cannot be converted from DICOM ({why}); look at the folder")
    return done.stdout


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # PyPI's package and conda's both put it beside Python.
    program = shutil.which("dcm2niix", path=sysconfig.get_path("scripts")) or shutil.which("dcm2niix")
    if program is None:
        raise BrainSCMError("dicom_dir: dcm2niix is not installed; `pip install dcm2niix` brings it")
    return subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace")


def _generator() -> dict[str, str]:
    found = re.search(r"v(\d[\w.]*)", _run("-v").stdout)
    return {"Name": "dcm2niix", "Version": found[1] if found else "unknown"}


def _write_tables(dicom_dir: Path, bids_dir: Path, participants: Sequence[str]) -> None:
    for name in ("participants.tsv", "sessions.tsv"):
        (bids_dir / name).unlink(missing_ok=True)
        if (dicom_dir / name).is_file():
            shutil.copyfile(dicom_dir / name, bids_dir / name)
    if not (bids_dir / "participants.tsv").exists():
        ids = pd.DataFrame({"participant_id": list(dict.fromkeys(participants))})
        write_table(ids, bids_dir / "participants.tsv")
