"""Convert folders of DICOM files into a BIDS folder of T1w scans by dcm2niix, and keep what it warned of."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import re
import shutil
import subprocess
import sysconfig
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd

from brainscm.cohort.series import Choice, Series, choose_series, has_contrast_agent
from brainscm.errors import BrainSCMError
from brainscm.files import whole, write_dataset_description, write_json
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")

NO_MAGNITUDE = re.compile(r"_(ph|real|imaginary)[a-z]?$|_ROI\d*$")
REPLACED = re.compile(r"_(Eq|Tilt)(_\d+)?$")  # dcm2niix's own repair of a series, beside the series as it came
MIN_SLICES = 16  # fewer is a localiser
LEAST_ROOM = 2**26  # bytes: a head of 0.5 mm
# What of a side-car says how the image was made, and nothing of whom or where. Whatever else there is stays behind.
KEPT_FIELDS = (
    "Modality", "MagneticFieldStrength", "Manufacturer", "ManufacturersModelName", "MRAcquisitionType",
    "ScanningSequence", "SequenceVariant", "ScanOptions", "ImageType", "NonlinearGradientCorrection", "SliceThickness",
    "SpacingBetweenSlices", "NumberOfAverages", "EchoNumber", "EchoTime", "RepetitionTime", "InversionTime",
    "FlipAngle", "EchoTrainLength", "PartialFourier", "PixelBandwidth", "DwellTime", "BaseResolution",
    "PercentPhaseFOV", "PercentSampling", "PhaseEncodingSteps", "AcquisitionMatrixPE", "ReconMatrixPE",
    "ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane", "ImageOrientationPatientDICOM",
    "InPlanePhaseEncodingDirectionDICOM", "ConversionSoftware", "ConversionSoftwareVersion",
)  # fmt: skip
HEADER_TEXTS = ((4, 14), (14, 32), (148, 228), (228, 252), (328, 344))  # NIfTI-1: data_type, db_name, descrip, …


Folder = tuple[str, str, Path]  # participant, session or "", where its files lie


@dataclass
class Converted:
    """What became of one participant's or session's folder: a row a series for `sourcedata/conversion.tsv`."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    scans: int = 0


def convert_dicom(dicom_dir: Path, bids_dir: Path, threads: int = 1) -> pd.DataFrame:
    """Fill `bids_dir` from `<dicom_dir>/<participant>/[ses-<session>/]…`, whatever lies below.

    Of each visit the T1w is chosen, with its runs (`series.choose_series`). A folder that holds several visits (studies
    of the scanner) gives as many sessions, `ses-1`, `ses-2`, … by date. `participants.tsv` and `sessions.tsv` are
    copied from `dicom_dir`, or a list of the ids is made. Side-cars hold `KEPT_FIELDS` and `ConversionWarnings`; the
    texts of the images' headers are empty.

    Returns:
        What is written to `sourcedata/conversion.tsv`: participant, session, number, series, file, told. Each series
        has a row that says why it was taken or not; a folder that cannot be converted has one without a series.

    Raises:
        BrainSCMError: there is no folder, two folders would have one id, no folder holds a T1w, or a disk is full.
    """
    if not dicom_dir.is_dir():
        raise BrainSCMError(f"dicom_dir: {dicom_dir} is not a folder; set it to one that holds a folder a participant")
    folders = _folders(dicom_dir)
    try:
        return _convert(folders, dicom_dir, bids_dir, threads)
    except OSError as error:
        raise BrainSCMError(
            f"dicom_dir: the conversion stopped, since files cannot be written ({error.strerror}); make room in "
            f"{bids_dir} and, for temporary files, in {tempfile.gettempdir()} (TMPDIR), then run again"
        ) from error


def _convert(folders: Sequence[Folder], dicom_dir: Path, bids_dir: Path, threads: int) -> pd.DataFrame:
    for path in (*bids_dir.glob("sub-*"), bids_dir / "sourcedata"):  # of an earlier call
        shutil.rmtree(path, ignore_errors=True)
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda item: _convert_folder(item[0], item[1], item[2], bids_dir), folders))
    table = pd.DataFrame([row for converted in done for row in converted.rows])
    if not any(converted.scans for converted in done):
        told = table["told"].iloc[0] if len(table) else "it holds no folder"
        raise BrainSCMError(f"dicom_dir: no T1w series was found under {dicom_dir} ({told}); check the path")
    write_table(table.drop(columns="warned"), bids_dir / "sourcedata" / "conversion.tsv")
    _write_tables(dicom_dir, bids_dir, [participant for participant, _, _ in folders])
    for row in table[table["warned"]].itertuples():
        logger.warning("%s %s: %s", row.participant, row.session or "", row.told)
    # Written last: with it the folder is whole. BIDS knows sessions.tsv below each participant only.
    write_dataset_description(bids_dir, dicom_dir.name, "raw", _generator(), ignored=["sessions.tsv"])
    return table


def _folders(dicom_dir: Path) -> list[Folder]:
    """What is to be converted."""
    found: dict[tuple[str, str], Path] = {}
    for participant_dir in sorted(path for path in dicom_dir.iterdir() if path.is_dir() and _is_shown(path)):
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


def _is_shown(path: Path) -> bool:
    """Whether a file or folder is a person's, and not what a system keeps there for itself."""
    return not path.name.startswith((".", "__MACOSX"))


def _label(name: str) -> str:
    label = re.sub(r"[^A-Za-z0-9]", "", name)
    if not label:
        raise BrainSCMError(f"dicom_dir: the folder '{name}' gives no id; use letters and digits")
    return label


def _convert_folder(participant: str, session: str, folder: Path, bids_dir: Path) -> Converted:
    converted = Converted()

    def tell(session: str, series: Series | None, file: str | None, told: str, warned: bool) -> None:
        described = {"number": series.number, "series": series.description} if series else {}
        row = {"participant": participant, "session": session or None, "number": None, "series": None, "file": file}
        converted.rows.append({**row, **described, "told": told, "warned": warned})

    beside = sorted(
        path.name for path in folder.parent.iterdir() if not path.name.startswith("ses-") and _is_shown(path)
    )
    if session and beside:
        told = f"{folder.parent}: {', '.join(beside[:3])} beside the sessions is not converted; put it into one"
        tell(session, None, None, told, True)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            series = _convert_series(folder, Path(temporary))
            visits = _visits(session, folder, series)
        except BrainSCMError as error:
            tell(session, None, None, str(error), True)
            return converted
        for label, choices in visits.items():
            scan = f"{participant}_{label}" if label else participant
            chosen = [choice.series for choice in choices if choice.taken]
            agent = "_ce-agent" if any(map(has_contrast_agent, chosen)) else ""
            runs = [""] if len(chosen) == 1 else [f"_run-{k}" for k in range(1, len(chosen) + 1)]
            stems = [f"{scan}{agent}{run}_T1w" for run in runs]
            names = {id(item): stem for item, stem in zip(chosen, stems, strict=True)}
            for choice in choices:
                stem = names.get(id(choice.series))
                if stem:
                    _move(choice.series, bids_dir / scan.replace("_", "/") / "anat" / stem)
                said = "; ".join([choice.reason, *(choice.series.warnings if stem else [])])
                tell(label, choice.series, stem and f"{stem}.nii.gz", said, bool(stem and choice.series.warnings))
            if not chosen:
                listed = ", ".join(choice.series.description or "unnamed" for choice in choices) or "none of 3D"
                told = f"{folder}: no T1w among its series ({listed}); leave only the T1w series in it"
                tell(label, None, None, told, True)
            converted.scans += len(chosen)
    return converted


def _visits(session: str, folder: Path, series: list[Series]) -> dict[str, list[Choice]]:
    """The choices of each session, by its label: a folder `ses-…` is one; of another, each study that has a T1w.

    Raises:
        BrainSCMError: the folder holds series of several patients, or that of a session series of several dates.
    """
    if len({item.patient for item in series}) > 1:
        raise BrainSCMError(f"{folder}: holds series of several patients; make a folder for each")
    by_study: dict[str, list[Series]] = {}
    for item in series:
        by_study.setdefault(item.study, []).append(item)
    studies = sorted(by_study.values(), key=lambda study: min(item.date for item in study))
    if session or len(studies) < 2:
        dates = {min(item.date for item in study) for study in studies}
        if len(dates) > 1:
            raise BrainSCMError(f"{folder}: holds studies of {len(dates)} dates; make a folder ses-<session> for each")
        return {session: choose_series(series)}
    choices = [choose_series(study) for study in studies]
    with_t1w = [of_study for of_study in choices if any(choice.taken for choice in of_study)]
    without = [choice for of_study in choices if of_study not in with_t1w for choice in of_study]
    labels = [f"ses-{k}" for k in range(1, len(with_t1w) + 1)] if len(with_t1w) > 1 else [""]
    visits = dict(zip(labels, with_t1w or [[]], strict=True))
    visits[labels[0]] = visits[labels[0]] + without
    return visits


def _move(series: Series, stem: Path) -> None:
    """Put an image and its side-car to their place, without what says whose they are."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = bytearray(gzip.decompress(series.image.read_bytes()))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise OSError(errno.ENOSPC, "a converted image is cut short") from error
    for start, end in HEADER_TEXTS:
        content[start:end] = bytes(end - start)
    with whole(stem.with_name(f"{stem.name}.nii.gz")) as partial:
        partial.write_bytes(gzip.compress(bytes(content), mtime=0))
    sidecar = {key: series.sidecar[key] for key in KEPT_FIELDS if key in series.sidecar}
    if series.warnings:
        sidecar["ConversionWarnings"] = series.warnings
    write_json(stem.with_name(f"{stem.name}.json"), sidecar)


def _convert_series(folder: Path, temporary: Path) -> list[Series]:
    """Convert series by series, so that each warning belongs to one; keep the 3D images, in the scanner's order."""
    listed = _dcm2niix("-n", "-1", "-o", str(temporary), str(folder))
    found = []
    for number in dict.fromkeys(re.findall(r"^\s+(\d+)\s", listed, flags=re.MULTILINE)):
        out = temporary / number
        out.mkdir()
        said = _dcm2niix("-n", number, "-z", "y", "-b", "y", "-ba", "n", "-f", "%s", "-o", str(out), str(folder))
        # Without paths: a folder may have a participant's name.
        warnings = [re.sub(r"\S*/\S*", "…", told) for told in re.findall(r"^Warning: (.+?)\s*$", said, re.MULTILINE)]
        images = sorted(path for path in out.glob("*.nii.gz") if not NO_MAGNITUDE.search(_stem(path)))
        mended = {REPLACED.sub("", _stem(path)) for path in images if REPLACED.search(_stem(path))}
        for image in images:
            header = nib.load(image).header
            shape = [n for n in header.get_data_shape() if n > 1]
            if _stem(image) in mended or len(shape) != 3 or min(shape) < MIN_SLICES:
                continue
            told = list(warnings)
            if REPLACED.search(_stem(image)):
                told.append("its slices were not evenly spaced and were resampled to be")
            sidecar = out / f"{REPLACED.sub('', _stem(image))}.json"
            fields = json.loads(sidecar.read_text()) if sidecar.is_file() else {}
            found.append(Series(image, fields, tuple(map(float, header.get_zooms()[:3])), told))
    return sorted(found, key=lambda item: item.number)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _dcm2niix(*arguments: str) -> str:
    """Run dcm2niix; returns what it printed.

    Raises:
        BrainSCMError: it found no DICOM file or could not convert.
    """
    done = _run("-d", "9", "-g", "i", *arguments)  # as deep as it looks, whatever the user's own defaults
    if done.returncode != 0 and shutil.disk_usage(tempfile.gettempdir()).free < LEAST_ROOM:
        raise OSError(errno.ENOSPC, "temporary files fill their disk")  # dcm2niix does not say so
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
