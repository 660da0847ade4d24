"""Sixty participants, twenty-four faults at once: each is named where a user reads it, and the others are right."""

import gzip
import html
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import made_up_study
from brainscm.cohort.index import Cohort, index_cohort
from brainscm.config import CohortOptions, Config
from brainscm.errors import ScanError
from brainscm.preprocess.head import read_scan
from brainscm.report.render import render_report
from brainscm.report.study import Study
from brainscm.tables import read_table, write_table

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
    put(bids, "sub-22_T1w", nib.Nifti1Image(np.stack([head().dataobj] * 2, axis=-1), AFFINE))
    ball = np.asarray(head().dataobj, np.float32)
    put(bids, "sub-23_T1w", nib.Nifti1Image(np.where(ball > 0, ball, np.nan), AFFINE))
    put(bids, "sub-24_T1w", nib.Nifti1Image(ball.astype(np.complex64), AFFINE))
    comments = {"sub-25": 'came late, "tired', "sub-26": 'said "no"'}
    lines = ["participant_id\tage\tsex\tsite\tcomment"]
    lines += ["\t".join([name, *cells, comments.get(name, "")]) for name, cells in row.items()]
    lines.append("sub-60\t35\tM\tA\t")
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
    expected = {
        "sub-14": "damaged",
        "sub-15": "truncated",
        "sub-16": "disagree on the size",
        "sub-17": "left and right",
        "sub-18": "zip archive",
        "sub-22": "must be one 3D volume",
        "sub-23": "taken for background",
        "sub-24": "complex numbers",
    }
    assert set(told) == set(expected)
    for name, part in expected.items():
        assert part in told[name]
    assert len(set(volume_ml.values())) == 1  # the scaled sform scales nothing


@pytest.mark.slow
def test_the_report_names_each_fault_and_rests_on_the_others(faults: tuple[Path, Cohort], tmp_path: Path) -> None:
    """The whole way from these files; brains are drawn instead of registered, for those that could be read."""
    bids, cohort = faults
    tables = {"scans": cohort.scans, "excluded": cohort.excluded, "notes": cohort.notes}
    for name, table in tables.items():
        write_table(table, tmp_path / "cohort" / f"{name}.tsv")
    rng = np.random.default_rng(0)
    rows, told = [], []
    for number, row in enumerate(cohort.scans.itertuples()):
        try:
            reasons = read_scan(Path(str(row.path))).notes
            status = "warn" if reasons else "pass"
        except ScanError as refusal:
            status, reasons = "fail", (str(refusal),)
        told += reasons
        age = 50.0 if np.isnan(row.age) else float(row.age)
        reason = "; ".join(reasons) or None
        rows.append(made_up_study.preprocess(tmp_path, str(row.scan), age, number, rng, status, reason))
    write_table(pd.DataFrame(rows), tmp_path / "preproc" / "qc.tsv")
    config = Config.model_validate({**made_up_study.CONFIG, "bids_dir": bids, "output_dir": tmp_path})
    made_up_study.analyse(tmp_path, config)
    made_up_study.write_evaluation(tmp_path, made_up_study.open_study(tmp_path, config))
    render_report(Study.read(tmp_path, config), None, tmp_path / "report")

    pages = [(tmp_path / "report" / name).read_text() for name in ("index.html", "cohort.html")]
    text = html.unescape(" ".join(pages)).replace('\\"', '"')
    assert len(told) == 8
    for sentence in (*told, *cohort.excluded["reason"], *cohort.notes["note"]):
        shown = sentence.replace(f"{bids}/", "")  # the report's paths begin at the data set
        assert shown in text, shown
    fitted = set(read_table(tmp_path / "scm" / "covariates.tsv")["scan"])
    ours = cohort.scans.set_index("scan")
    whole = {scan for scan in ours.index if scan not in ("sub-14", "sub-15", "sub-18", "sub-22", "sub-24")}
    known = {scan for scan in whole if ours.loc[scan, ["age", "sex"]].notna().all()}
    assert fitted == {scan for scan in known if ours.loc[scan, "split"] == "train"}


def test_everybody_else_has_their_own_values(faults: tuple[Path, Cohort]) -> None:
    scans = faults[1].scans.set_index("scan")
    assert scans.loc["sub-03", "sex"] == "F"
    assert scans.loc["sub-06", "age"] == 89
    assert scans.loc["sub-25", "comment"] == 'came late, "tired'  # it swallows nobody
    well = [f"sub-{i:02d}" for i in (10, 11, 14, *range(16, 20), *range(22, 60))]
    for scan in well:
        i = int(scan.removeprefix("sub-"))
        assert list(scans.loc[scan, ["age", "sex", "site"]]) == [30 + i % 50, SEX[i % 2], "AB"[i % 2]]
        assert os.path.exists(str(scans.loc[scan, "path"]))
