"""DICOM folders become a BIDS folder, and what the converter warned of goes with each scan."""

import gzip
import json
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_standard import validator_errors
from brainscm.cohort.dicom import KEPT_FIELDS, convert_dicom
from brainscm.cohort.index import index_cohort
from brainscm.config import CohortOptions
from brainscm.errors import BrainSCMError
from brainscm.preprocess.described import notes_of_sidecars
from brainscm.tables import read_table

SLICES = 20


def element(group: int, number: int, kind: str, value: bytes) -> bytes:
    """One explicit little-endian data element."""
    value += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(value) % 2)
    long = kind in ("OB", "OW", "SQ")
    length = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind.encode() + length + value


@dataclass(frozen=True)
class Scanned:
    """What is the same in all slices of a series."""

    description: str
    number: int
    study: int = 1
    date: str = "20200101"
    image_type: str = "ORIGINAL\\PRIMARY\\M"
    slice_mm: int = 2
    patient: str = "Somebody^Known"
    has_id: bool = True
    tags: tuple[tuple[int, int, str, str], ...] = ()
    noise: bool = False  # so that it cannot be compressed


def write_slice(path: Path, scanned: Scanned, index: int) -> None:
    """A 32 × 32 axial MR image with the tags that a converter needs."""
    study = f"1.2.826.0.1.3680043.2.1143.{scanned.study}"
    uid = f"{study}.{scanned.number}"
    pixels = np.full((32, 32), 100 + index, np.int16)
    if scanned.noise:
        pixels = np.random.default_rng(index).integers(0, 4000, (32, 32)).astype(np.int16)
    body = [
        element(0x0008, 0x0008, "CS", scanned.image_type.encode()),
        element(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.4"),
        element(0x0008, 0x0018, "UI", f"{uid}.{index}".encode()),
        element(0x0008, 0x0060, "CS", b"MR"),
        element(0x0008, 0x0020, "DA", scanned.date.encode()),
        element(0x0008, 0x0022, "DA", scanned.date.encode()),
        element(0x0008, 0x0032, "TM", b"101500"),
        element(0x0008, 0x103E, "LO", scanned.description.encode()),
        element(0x0010, 0x0010, "PN", scanned.patient.encode()),
        element(0x0010, 0x0020, "LO", scanned.patient.encode() if scanned.has_id else b""),
        element(0x0018, 0x0050, "DS", str(scanned.slice_mm).encode()),
        element(0x0020, 0x000D, "UI", study.encode()),
        element(0x0020, 0x000E, "UI", uid.encode()),
        element(0x0020, 0x0011, "IS", str(scanned.number).encode()),
        element(0x0020, 0x0013, "IS", str(index + 1).encode()),
        element(0x0020, 0x0032, "DS", f"-32\\-32\\{scanned.slice_mm * index}".encode()),
        element(0x0020, 0x0037, "DS", b"1\\0\\0\\0\\1\\0"),
        element(0x0028, 0x0002, "US", struct.pack("<H", 1)),
        element(0x0028, 0x0004, "CS", b"MONOCHROME2"),
        element(0x0028, 0x0010, "US", struct.pack("<H", 32)),
        element(0x0028, 0x0011, "US", struct.pack("<H", 32)),
        element(0x0028, 0x0030, "DS", b"2\\2"),
        element(0x0028, 0x0100, "US", struct.pack("<H", 16)),
        element(0x0028, 0x0101, "US", struct.pack("<H", 16)),
        element(0x0028, 0x0102, "US", struct.pack("<H", 15)),
        element(0x0028, 0x0103, "US", struct.pack("<H", 1)),
        element(0x7FE0, 0x0010, "OW", pixels.tobytes()),
    ]
    body += [element(group, number, kind, value.encode()) for group, number, kind, value in scanned.tags]
    write_file(path, body)


def sequence(group: int, number: int, *items: list[bytes]) -> bytes:
    """A data element that holds data elements, which is how an enhanced image describes its frames."""
    packed = [struct.pack("<HHI", 0xFFFE, 0xE000, len(b"".join(item))) + b"".join(item) for item in items]
    return element(group, number, "SQ", b"".join(packed))


def write_enhanced(path: Path, description: str) -> None:
    """A whole series in one file: an enhanced MR image of 20 frames of 32 × 32."""
    uid = "1.2.826.0.1.3680043.2.1143.9"
    shared = [
        sequence(0x0020, 0x9116, [element(0x0020, 0x0037, "DS", b"1\\0\\0\\0\\1\\0")]),
        sequence(0x0028, 0x9110, [element(0x0018, 0x0050, "DS", b"2"), element(0x0028, 0x0030, "DS", b"2\\2")]),
    ]
    frames = [
        [
            sequence(0x0020, 0x9111, [element(0x0020, 0x9157, "UL", struct.pack("<I", index + 1))]),
            sequence(0x0020, 0x9113, [element(0x0020, 0x0032, "DS", f"-32\\-32\\{2 * index}".encode())]),
        ]
        for index in range(SLICES)
    ]
    pixels = np.repeat(np.arange(100, 100 + SLICES, dtype=np.int16), 32 * 32)
    numbers = {0x0002: 1, 0x0010: 32, 0x0011: 32, 0x0100: 16, 0x0101: 16, 0x0102: 15, 0x0103: 1}
    body = [
        element(0x0008, 0x0008, "CS", b"ORIGINAL\\PRIMARY\\M\\NONE"),
        element(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.4.1"),
        element(0x0008, 0x0018, "UI", f"{uid}.1.1".encode()),
        element(0x0008, 0x0060, "CS", b"MR"),
        element(0x0008, 0x103E, "LO", description.encode()),
        element(0x0010, 0x0020, "LO", b"somebody"),
        element(0x0020, 0x000D, "UI", uid.encode()),
        element(0x0020, 0x000E, "UI", f"{uid}.1".encode()),
        element(0x0020, 0x0011, "IS", b"1"),
        element(0x0020, 0x0013, "IS", b"1"),
        element(0x0028, 0x0004, "CS", b"MONOCHROME2"),
        element(0x0028, 0x0008, "IS", str(SLICES).encode()),
        *(element(0x0028, number, "US", struct.pack("<H", value)) for number, value in numbers.items()),
        sequence(0x5200, 0x9229, shared),
        sequence(0x5200, 0x9230, *frames),
        element(0x7FE0, 0x0010, "OW", pixels.tobytes()),
    ]
    write_file(path, body)


def write_file(path: Path, body: list[bytes]) -> None:
    """A DICOM file of these data elements, in explicit little-endian order."""
    header = element(0x0002, 0x0010, "UI", b"1.2.840.10008.1.2.1")
    length = element(0x0002, 0x0000, "UL", struct.pack("<I", len(header)))
    path.parent.mkdir(parents=True, exist_ok=True)
    body.sort(key=lambda tag: struct.unpack("<HH", tag[:4]))
    path.write_bytes(bytes(128) + b"DICM" + length + header + b"".join(body))


def write_series(folder: Path, description: str, number: int, missing: int | None = None, **others: Any) -> None:
    for index in range(SLICES):
        if index != missing:
            path = folder / f"{others.get('study', 1)}-{number}-{index:03d}"
            write_slice(path, Scanned(description, number, **others), index)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole, two sessions, runs beside another contrast, a missing slice, and a folder without any DICOM."""
    root = tmp_path_factory.mktemp("dicom")
    source = root / "source"
    write_series(source / "P-01" / "a" / "b", "MPRAGE", 3)
    write_series(source / "sub-02" / "ses-1", "whatever", 1)
    write_series(source / "sub-02" / "ses-2", "whatever", 1)
    for number, description in ((1, "T2 space"), (2, "t1 mprage"), (3, "t1 mprage")):
        write_series(source / "03", description, number)
    write_series(source / "04", "MPRAGE", 1, missing=9)
    (source / "05").mkdir()
    (source / "05" / "notes.txt").write_text("scan postponed")
    (source / "participants.tsv").write_text(
        "participant_id\tage\n" + "".join(f"sub-0{k}\t{40 + k}\n" for k in (2, 3, 4))
    )
    convert_dicom(source, root / "bids")
    return root / "bids"


def test_each_t1w_lands_under_its_bids_name(converted: Path) -> None:
    images = sorted(path.relative_to(converted).as_posix() for path in converted.rglob("*.nii.gz"))
    assert images == [
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz",
        "sub-03/anat/sub-03_run-1_T1w.nii.gz",
        "sub-03/anat/sub-03_run-2_T1w.nii.gz",
        "sub-04/anat/sub-04_T1w.nii.gz",
        "sub-P01/anat/sub-P01_T1w.nii.gz",
    ]
    whole = nib.load(converted / images[-1])
    assert whole.shape == (32, 32, SLICES)
    assert json.loads((converted / "dataset_description.json").read_text())["GeneratedBy"][0]["Name"] == "dcm2niix"


def test_side_car_tells_the_missing_slice_and_no_name(converted: Path) -> None:
    told = notes_of_sidecars(converted / "sub-04/anat/sub-04_T1w.nii.gz")
    assert any("Interslice distance varies" in sentence for sentence in told)
    assert any("evenly spaced" in sentence for sentence in told)
    assert not notes_of_sidecars(converted / "sub-P01/anat/sub-P01_T1w.nii.gz")
    for sidecar in converted.rglob("*_T1w.json"):
        assert "Somebody" not in sidecar.read_text()


def test_folder_without_a_t1w_is_told(converted: Path) -> None:
    table = read_table(converted / "sourcedata" / "conversion.tsv").set_index("participant")
    assert "Unable to find any DICOM" in table.loc["sub-05", "told"]
    assert table.loc["sub-P01", "series"] == "MPRAGE"


def test_converted_folder_is_indexed_like_any_other(converted: Path) -> None:
    options = CohortOptions.model_validate({"split": {"train": 0.5, "validation": 0.25, "test": 0.25}})
    cohort = index_cohort(converted, options, ["age"], seed=1)
    scans, excluded = cohort.scans, cohort.excluded
    assert scans.set_index("scan").loc["sub-03", "further_runs"] == "sub-03_run-2_T1w.nii.gz"
    assert scans.set_index("scan").loc["sub-02_ses-2", "age"] == 42
    assert list(excluded["reason"]) == ["no age"]


def test_the_validator_of_bids_finds_no_error_in_what_was_converted(converted: Path, tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    shutil.copytree(converted, bids)
    rows = ["participant_id", *sorted(folder.name for folder in bids.glob("sub-*"))]  # the study's own lacks one
    (bids / "participants.tsv").write_text("\n".join(rows) + "\n")
    (bids / "sessions.tsv").write_text("participant_id\tsession_id\tage\nsub-02\tses-1\t42\n")
    assert validator_errors(bids) == []


def test_ids_that_would_clash_and_a_folder_without_scans_are_refused(tmp_path: Path) -> None:
    for name in ("A-1", "A_1"):
        (tmp_path / "clash" / name).mkdir(parents=True)
    with pytest.raises(BrainSCMError, match="would both be sub-A1"):
        convert_dicom(tmp_path / "clash", tmp_path / "bids")
    (tmp_path / "empty" / "sub-1").mkdir(parents=True)
    with pytest.raises(BrainSCMError, match="no T1w series was found"):
        convert_dicom(tmp_path / "empty", tmp_path / "bids")


NAMED = (  # text that a scanner's staff may have put a name into: group, number, kind
    (0x0008, 0x0080, "LO"),  # institution
    (0x0008, 0x0081, "ST"),  # its address
    (0x0008, 0x0090, "PN"),  # referring physician
    (0x0008, 0x1010, "SH"),  # station
    (0x0008, 0x1030, "LO"),  # study description
    (0x0008, 0x1040, "LO"),  # department
    (0x0008, 0x1050, "PN"),  # performing physician
    (0x0008, 0x1070, "PN"),  # operator
    (0x0010, 0x1000, "LO"),  # other ids
    (0x0010, 0x21B0, "LT"),  # history
    (0x0010, 0x4000, "LT"),  # patient comments
    (0x0018, 0x1000, "LO"),  # serial number
    (0x0018, 0x1030, "LO"),  # protocol
    (0x0018, 0x1400, "LO"),  # processing
    (0x0020, 0x0010, "SH"),  # study id
    (0x0020, 0x4000, "LT"),  # image comments
    (0x0032, 0x1032, "PN"),  # requesting physician
    (0x0032, 0x1060, "LO"),  # requested procedure
    (0x0040, 0x0254, "LO"),  # procedure step
    (0x0040, 0x0275, "LO"),  # request attributes
)


@pytest.mark.parametrize("full", ["temporary", "bids"])
def test_a_full_disk_stops_the_conversion_and_blames_no_participant(
    full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of 8 kB, where the machine lets us have one."""
    write_series(tmp_path / "source" / "01", "MPRAGE", 1, noise=True)
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root mounts a small disk")
    try:
        if full == "temporary":
            monkeypatch.setattr("tempfile.tempdir", str(small))
        bids = (tmp_path if full == "temporary" else small) / "bids"
        with pytest.raises(BrainSCMError, match=r"cannot be written \(.*; make room in .*TMPDIR"):
            convert_dicom(tmp_path / "source", bids)
        assert not (bids / "dataset_description.json").exists()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_name_in_twenty_tags_reaches_no_file(tmp_path: Path) -> None:
    name = "Quxley"
    tags = tuple((group, number, kind, f"{name}^Ann") for group, number, kind in NAMED)
    write_series(tmp_path / "dicom" / "01", "MPRAGE", 1, patient=f"{name}^Ann", tags=tags)
    convert_dicom(tmp_path / "dicom", tmp_path / "bids")
    written = [path for path in (tmp_path / "bids").rglob("*") if path.is_file()]
    assert any(path.name == "sub-01_T1w.nii.gz" for path in written)
    for path in written:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert name.encode() not in content, path
        assert b"2020" not in content[:352], path
    sidecar = json.loads((tmp_path / "bids/sub-01/anat/sub-01_T1w.json").read_text())
    assert set(sidecar) <= {*KEPT_FIELDS, "ConversionWarnings"}
    assert sidecar["SliceThickness"] == 2


def test_an_enhanced_image_of_many_frames_is_converted(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "source" / "01" / "IM0", "MPRAGE")
    convert_dicom(tmp_path / "source", tmp_path / "bids")
    image = nib.load(tmp_path / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    assert image.shape == (32, 32, SLICES)
    np.testing.assert_allclose(image.header.get_zooms(), 2, rtol=1e-5)
    assert sorted(set(np.asarray(image.dataobj).ravel())) == list(range(100, 100 + SLICES))


def test_a_scan_with_contrast_agent_is_called_so_and_told(tmp_path: Path) -> None:
    for k in range(3):
        write_series(tmp_path / "source" / f"0{k}", "MPRAGE", 1)
    write_series(tmp_path / "source" / "03", "T1 MPRAGE +C", 1)
    convert_dicom(tmp_path / "source", tmp_path / "bids")
    assert (tmp_path / "bids" / "sub-03" / "anat" / "sub-03_ce-agent_T1w.nii.gz").is_file()
    options = CohortOptions.model_validate({"split": {"train": 0.5, "validation": 0.25, "test": 0.25}, "stratify": []})
    notes = index_cohort(tmp_path / "bids", options, [], seed=1).notes
    assert "1 scans have a contrast agent (ce-: sub-03)" in notes.set_index("about").loc["contrast agent", "note"]


def test_each_study_of_a_folder_is_a_session(tmp_path: Path) -> None:
    folder = tmp_path / "dicom" / "01"
    write_series(folder, "MPRAGE", 3, study=2, date="20220101")
    write_series(folder, "MPRAGE", 3, study=1, date="20200101")
    write_series(folder, "T2 tse", 4, study=3, date="20210101")
    write_series(tmp_path / "dicom" / "02" / "ses-a", "MPRAGE", 3, study=1, date="20200101")
    write_series(tmp_path / "dicom" / "02" / "ses-a", "MPRAGE", 3, study=2, date="20220101")
    write_series(tmp_path / "dicom" / "03", "MPRAGE", 3, patient="One")
    write_series(tmp_path / "dicom" / "03", "MPRAGE", 4, patient="Two")
    table = convert_dicom(tmp_path / "dicom", tmp_path / "bids")
    images = sorted(path.name for path in (tmp_path / "bids").rglob("*.nii.gz"))
    assert images == ["sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz"]
    told = table.set_index("participant")["told"]
    assert "studies of 2 dates" in told["sub-02"]
    assert "several patients" in told["sub-03"]


def test_what_lies_beside_sessions_is_told_and_what_a_system_keeps_is_nobodys(tmp_path: Path) -> None:
    for name in ("01/ses-1", "01/later", ".Trash", "__MACOSX"):
        write_series(tmp_path / "dicom" / name, "MPRAGE", 3)
    (tmp_path / "dicom" / "01" / ".DS_Store").touch()
    for number, name in enumerate(("One", "Two"), 3):
        write_series(tmp_path / "dicom" / "02" / name, "MPRAGE", number, patient=name, has_id=False)
    told = convert_dicom(tmp_path / "dicom", tmp_path / "bids").groupby("participant")["told"].agg("; ".join)
    assert set(told.index) == {"sub-01", "sub-02"}
    assert "01: later beside the sessions is not converted" in told["sub-01"]
    assert "DS_Store" not in told["sub-01"]
    assert [path.name for path in (tmp_path / "bids").rglob("*.nii.gz")] == ["sub-01_ses-1_T1w.nii.gz"]


def test_every_candidate_is_in_the_table_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "dicom" / "01"
    write_series(folder, "BOLD_rest1_SBRef", 1)
    write_series(folder, "t1 thick", 2, slice_mm=5)
    write_series(folder, "t1_mprage", 3)
    write_series(tmp_path / "dicom" / "02", "t2_flair", 1)
    table = convert_dicom(tmp_path / "dicom", tmp_path / "bids")
    rows = table[table["participant"] == "sub-01"].set_index("series")
    assert rows.loc["t1_mprage", "file"] == "sub-01_T1w.nii.gz"
    assert rows["file"].notna().sum() == 1
    assert "thicker slices" in rows.loc["t1 thick", "told"]
    assert "names another contrast" in rows.loc["BOLD_rest1_SBRef", "told"]
    assert "no T1w among its series (t2_flair)" in "; ".join(table.loc[table["participant"] == "sub-02", "told"])
