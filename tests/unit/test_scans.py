"""The table of scans: which can be used, why the others cannot, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainscm.errors import BrainSCMError, ScanError
from brainscm.scans import ScanTable
from brainscm.tables import read_table, write_table
from brainscm.tissue_levels import TissueLevels
from made_up_scans import GRID, read_scans, write_scans


def change(folder: Path, table: str, **cells: object) -> ScanTable:
    """Change cells of sub-1 in a table and read both again."""
    path = folder / table
    rows = read_table(path).astype(object).set_index("scan", drop=False)
    for column, value in cells.items():
        rows.loc["sub-1", column] = value
    write_table(rows, path)
    return read_scans(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scans(tmp_path, ["train", "train", "test"], is_aligned=True)
    return tmp_path


def test_scans_that_failed_preprocessing_are_left_out_with_their_reason(folder):
    scans = change(folder, "preproc/qc.tsv", status="fail", reasons="the file is cut short")
    assert scans.usable.index.tolist() == scans.usable["scan"].tolist() == ["sub-0", "sub-2"]
    assert scans.of_split("train")["scan"].tolist() == ["sub-0"]
    assert scans.unusable["sub-1"] == "preprocessing failed: the file is cut short"
    with pytest.raises(ScanError, match="cut short"):
        scans.require("sub-1")
    assert scans.require("sub-2")["split"] == "test"


def test_a_warning_is_no_reason_to_leave_a_scan_out(folder):
    scans = change(folder, "preproc/qc.tsv", status="warn", reasons="low contrast")
    assert len(scans.usable) == 3
    assert scans.rows.loc["sub-1", ["qc_status", "qc_reasons"]].tolist() == ["warn", "low contrast"]


def test_a_scan_without_a_status_cannot_be_used(folder):
    write_table(read_table(folder / "preproc" / "qc.tsv").drop(index=1), folder / "preproc" / "qc.tsv")
    assert read_scans(folder).unusable.tolist() == ["", "preprocessing failed: no status", ""]


def test_the_brightness_of_its_tissues_is_a_scans_own_and_never_guessed(folder):
    scans = read_scans(folder)
    assert scans.levels("sub-1") == TissueLevels(csf=0.25, gm=0.5, wm=0.81)
    scans = change(folder, "preproc/qc.tsv", gm_level=None)
    assert scans.levels("sub-0").gm == 0.5
    with pytest.raises(ScanError, match=r"sub-1: .*how bright its tissues are; preprocess it again"):
        scans.levels("sub-1")


def test_later_stages_leave_out_further_scans_and_keep_the_first_reason(folder):
    scans = change(folder, "preproc/qc.tsv", status="fail", reasons="no brain")
    later = scans.leave_out(pd.Series({"sub-1": "no latent", "sub-2": "no age"}))
    assert later.unusable.tolist() == ["", "preprocessing failed: no brain", "no age"]
    assert scans.unusable["sub-2"] == ""


def test_a_cohort_that_failed_as_a_whole_is_told(folder):
    scans = read_scans(folder)
    nothing = scans.leave_out(pd.Series("spoilt", index=scans.rows.index))
    with pytest.raises(BrainSCMError, match="no preprocessed scan can be used"):
        _ = nothing.grid


def test_files_are_read_by_what_they_are(folder):
    scans = read_scans(folder)
    assert scans.grid.agrees_with(GRID)
    assert scans.volume("sub-2").shape == scans.mask("sub-2").shape == GRID.shape
    assert np.array_equal(scans.volume("sub-2") > 0, scans.mask("sub-2"))
    assert scans.displacement("sub-2").shape == (3, 4, 4, 8)
    scans = change(folder, "preproc/qc.tsv", deformation=None)
    with pytest.raises(ScanError, match="sub-1: preprocessing left no deformation"):
        scans.displacement("sub-1")


@pytest.mark.parametrize(
    ("table", "column", "value", "told"),
    [
        ("scans.tsv", "scan", "sub-0", "sub-0 is listed twice"),
        ("preproc/qc.tsv", "scan", "sub-0", "sub-0 is listed twice"),
        ("scans.tsv", "split", "held-out", "the split of sub-1 is 'held-out', none of train, validation, test"),
        ("preproc/qc.tsv", "status", "good", "the status of sub-1 is 'good', none of pass, warn, fail"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(folder, table, column, value, told):
    with pytest.raises(BrainSCMError, match=told):
        change(folder, table, **{column: value})
