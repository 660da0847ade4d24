"""DICOM folders become a BIDS folder, and what the converter warned of goes with each scan."""

import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscm.cohort.dicom import convert_dicom
from brainscm.cohort.index import index_cohort
from brainscm.config import CohortOptions
from brainscm.errors import BrainSCMError
from brainscm.preprocess.runs import conversion_warnings
from brainscm.tables import read_table

SLICES = 20


def element(group: int, number: int, kind: str, value: bytes) -> bytes:
    """One explicit little-endian data element."""
    value += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if kind in ("OB", "OW") else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind.encode() + length + value


def write_slice(path: Path, description: str, series: int, index: int) -> None:
    """A 32 × 32 axial MR image with the tags that a converter needs."""
    uid = f"1.2.826.0.1.3680043.2.1143.{series}"
    header = element(0x0002, 0x0010, "UI", b"1.2.840.10008.1.2.1")
    pixels = np.full((32, 32), 100 + index, np.int16)
    body = [
        element(0x0008, 0x0008, "CS", b"ORIGINAL\\PRIMARY\\M"),
        element(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.4"),
        element(0x0008, 0x0018, "UI", f"{uid}.{index}".encode()),
        element(0x0008, 0x0060, "CS", b"MR"),
        element(0x0008, 0x103E, "LO", description.encode()),
        element(0x0010, 0x0010, "PN", b"Somebody^Known"),
        element(0x0018, 0x0050, "DS", b"2"),
        element(0x0020, 0x000D, "UI", b"1.2.826.0.1.3680043.2.1143"),
        element(0x0020, 0x000E, "UI", uid.encode()),
        element(0x0020, 0x0011, "IS", str(series).encode()),
        element(0x0020, 0x0013, "IS", str(index + 1).encode()),
        element(0x0020, 0x0032, "DS", f"-32\\-32\\{2 * index}".encode()),
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
    length = element(0x0002, 0x0000, "UL", struct.pack("<I", len(header)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + length + header + b"".join(body))


def write_series(folder: Path, description: str, series: int, missing: int | None = None) -> None:
    for index in range(SLICES):
        if index != missing:
            write_slice(folder / f"{series}-{index:03d}", description, series, index)


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
    told = conversion_warnings(converted / "sub-04/anat/sub-04_T1w.nii.gz")
    assert any("Interslice distance varies" in sentence for sentence in told)
    assert any("evenly spaced" in sentence for sentence in told)
    assert not conversion_warnings(converted / "sub-P01/anat/sub-P01_T1w.nii.gz")
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


def test_ids_that_would_clash_and_a_folder_without_scans_are_refused(tmp_path: Path) -> None:
    for name in ("A-1", "A_1"):
        (tmp_path / "clash" / name).mkdir(parents=True)
    with pytest.raises(BrainSCMError, match="would both be sub-A1"):
        convert_dicom(tmp_path / "clash", tmp_path / "bids")
    (tmp_path / "empty" / "sub-1").mkdir(parents=True)
    with pytest.raises(BrainSCMError, match="no T1w series was found"):
        convert_dicom(tmp_path / "empty", tmp_path / "bids")
