"""Sixty participants, seventeen faults at once: each is named where a user reads it, and the others are right."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscm.cohort.index import Cohort, index_cohort
from brainscm.config import CohortOptions
from brainscm.errors import ScanError
from brainscm.preprocess.head import read_scan

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
SEX = "FM"


def head(code: int = 1, scaled: float = 1.0) -> nib.Nifti1Image:
    """A ball with a scanner's qform, and an sform of this code that may be scaled."""
    at = np.indices((40, 48, 44)) - np.array([20, 24, 22]).reshape(3, 1, 1, 1)
    image = nib.Nifti1Image(np.where((at**2).sum(0) < 15**2, 100, 0).astype(np.int16), AFFINE)
    image.set_qform(AFFINE, code=min(code, 1))
    image.set_sform(np.diag([4 * scaled] * 3 + [1]), code=code)
    return image


def put(bids: Path, name: str, image: nib.Nifti1Image | None = None, content: bytes | None = None) -> None:
    participant, *rest = name.split("_")
    folder = bids / participant / (rest[0] if rest[0].startswith("ses-") else "") / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress((image or head()).to_bytes(), 1) if content is None else content
    (folder / f"{name}.nii.gz").write_bytes(packed)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cohort]:
    bids = tmp_path_factory.mktemp("faults")
    row = {f"sub-{i:02d}": [f"{30 + i % 50}", SEX[i % 2], "AB"[i % 2]] for i in range(1, 61)}
    for name in row:
        if name not in ("sub-04", "sub-09", "sub-13"):
            put(bids, f"{name}_T1w")
    row["sub-01"][0] = "-9"
    row["sub-02"][0] = "1962"
    row["sub-03"][1] = "f"
    (bids / "sub-04" / "anat").mkdir(parents=True)
    (bids / "sub-04" / "anat" / "sub-04_T1w.nii.gz").symlink_to(bids / ".git" / "annex" / "nowhere")
    row["sub-05"][1] = "NA"
    row["sub-06"][0] = "89+"
    row["6O7"] = row.pop("sub-07")
    row["8"] = row.pop("sub-08")
    for session in ("ses-01", "ses-02"):
        put(bids, f"sub-09_{session}_T1w")
    (bids / "sub-09" / "sub-09_sessions.tsv").write_text("session_id\tage\nses-1\t39\nses-2\t41\n")
    (bids / "sub-10" / "anat" / "sub-11_run-2_T1w.nii.gz").write_bytes(b"somebody else's")
    (bids / "sub-12" / "sub-12_sessions.tsv").write_text("")
    put(bids, "sub-13_UNIT1")
    whole = gzip.compress(head().to_bytes(), 1)
    put(bids, "sub-14_T1w", content=whole[:-8] + bytes([whole[-8] ^ 4]) + whole[-7:])
    put(bids, "sub-15_T1w", content=whole[: len(whole) // 2])
    put(bids, "sub-16_T1w", head(code=4, scaled=1.1))
    put(bids, "sub-17_T1w", head(code=0))
    put(bids, "sub-18_T1w", content=b"PK\x03\x04")
    put(bids, "sub-19_T1w", content=head().to_bytes())
    put(bids, "sub-20_acq-low_T1w")
    row["sub-21"][0] = "forty"
    lines = ["participant_id\tage\tsex\tsite", *("\t".join([name, *cells]) for name, cells in row.items())]
    lines.append("sub-60\t35\tM\tA")
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")
    return bids, index_cohort(bids, CohortOptions(), ("age", "sex", "site"), seed=1)


@pytest.mark.parametrize(
    ("scan", "told"),
    [
        ("sub-01", "age -9 is no age in years"),
        ("sub-02", "age 1962 is no age in years"),
        ("sub-04", "datalad get"),
        ("sub-05", "no sex"),
        ("sub-07", "no age; no sex; no site"),
        ("sub-08", "the row of 'sub-8' is probably meant for it"),
        ("sub-10", "its name says sub-11"),
        ("sub-12", "sub-12_sessions.tsv: is empty"),
        ("sub-13", "suffix: UNIT1"),
        ("sub-20", "another T1w of this session is used"),
        ("sub-21", "age 'forty' is not a number"),
        ("sub-60", "age 40 and 35"),
    ],
)
def test_who_is_left_out_is_named_with_the_reason(faults: tuple[Path, Cohort], scan: str, told: str) -> None:
    excluded = faults[1].excluded
    assert told in "; ".join(excluded.loc[excluded["scan"] == scan, "reason"])


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ("sex", "'f' (1 cells) are read as 'F'"),
        ("age", "89+"),
        ("the sessions tables", "'sub-09_ses-1' for sub-09_ses-01"),
        ("age", "one age for several sessions (sub-09)"),
        ("participants.tsv", "'sub-8' for sub-08"),
    ],
)
def test_what_is_read_otherwise_or_looks_wrong_is_told(faults: tuple[Path, Cohort], about: str, told: str) -> None:
    notes = faults[1].notes
    assert told in "; ".join(notes.loc[notes["about"] == about, "note"])


def test_each_damaged_file_is_refused_or_told_and_every_other_is_read(faults: tuple[Path, Cohort]) -> None:
    told: dict[str, str] = {}
    volume_ml = {}
    for name, path in faults[1].scans.set_index("scan")["path"].items():
        try:
            scan = read_scan(Path(path))
        except ScanError as refusal:
            told[str(name)] = str(refusal)
            continue
        volume_ml[name] = round(float((scan.data > 50).sum()) * scan.volume.voxel_ml)
        if scan.notes:
            told[str(name)] = "; ".join(scan.notes)
    assert set(told) == {"sub-14", "sub-15", "sub-16", "sub-17", "sub-18"}
    expected = ("damaged", "truncated", "disagree on the size", "left and right", "zip archive")
    for name, part in zip(sorted(told), expected, strict=True):
        assert part in told[name]
    assert len(set(volume_ml.values())) == 1  # the scaled sform scales nothing


def test_everybody_else_has_their_own_values(faults: tuple[Path, Cohort]) -> None:
    scans = faults[1].scans.set_index("scan")
    assert scans.loc["sub-03", "sex"] == "F"
    assert scans.loc["sub-06", "age"] == 89
    well = [f"sub-{i:02d}" for i in (10, 11, 14, *range(16, 20), *range(22, 60))]
    for scan in well:
        i = int(scan.removeprefix("sub-"))
        assert list(scans.loc[scan, ["age", "sex", "site"]]) == [30 + i % 50, SEX[i % 2], "AB"[i % 2]]
        assert os.path.exists(str(scans.loc[scan, "path"]))
