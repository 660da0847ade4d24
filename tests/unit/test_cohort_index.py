"""What is found in a BIDS folder, what is left out, and what the user is told about it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from brainscm.cohort.bids import find_t1w
from brainscm.cohort.content import bids_fingerprint, dicom_fingerprint
from brainscm.cohort.index import Cohort, index_cohort
from brainscm.cohort.split_record import SplitRecord
from brainscm.cohort.values import is_age
from brainscm.config import CohortOptions, ScmOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.scm.covariates import Covariates
from brainscm.tables import run_paths, write_table


def make_bids(root: Path, participants: str, files: list[str]) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    if participants:
        (root / "participants.tsv").write_text(participants.replace(" ", "\t"))
    return root


def participants_tsv(n: int, extra: str = "") -> str:
    rows = "\n".join(f"sub-{i:02d} {20 + i} {'F' if i % 2 else 'M'}" for i in range(n))
    return f"participant_id age sex\n{rows}\n{extra}"


def heads(n: int) -> list[str]:
    return [f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz" for i in range(n)]


def index(bids: Path, covariates: tuple[str, ...] = ("age", "sex")) -> tuple[pd.DataFrame, pd.DataFrame]:
    cohort = index_cohort(bids, CohortOptions(), covariates, seed=1)
    return cohort.scans, cohort.excluded


def test_sessions_runs_and_uncompressed_files_become_one_row_a_session(tmp_path: Path) -> None:
    files = [
        *heads(10),
        "sub-20/ses-a/anat/sub-20_ses-a_run-10_T1w.nii.gz",
        "sub-20/ses-a/anat/sub-20_ses-a_run-2_T1w.nii.gz",
        "sub-20/ses-a/anat/sub-20_ses-a_run-1_T1w.nii.gz",
        "sub-20/ses-a/anat/sub-20_ses-a_rec-norm_run-1_T1w.nii.gz",
        "sub-20/ses-b/anat/sub-20_ses-b_T1w.nii",
        "sub-20/ses-b/anat/sub-20_ses-b_T2w.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    ]
    bids = make_bids(tmp_path, participants_tsv(10, "sub-20 50 F\n"), files)
    (bids / "sub-20" / "sub-20_sessions.tsv").write_text("session_id\tage\nses-b\t55\n")
    scans, excluded = index(bids)
    ours = scans[scans["participant"] == "sub-20"].set_index("session")
    assert list(ours["scan"]) == ["sub-20_ses-a", "sub-20_ses-b"]
    runs = run_paths(ours.loc["ses-a", "path"], ours.loc["ses-a", "further_runs"])
    assert [Path(path).name for path in runs] == [f"sub-20_ses-a_run-{k}_T1w.nii.gz" for k in (1, 2, 10)]
    assert all(Path(path).is_file() for path in runs)
    assert pd.isna(ours.loc["ses-b", "further_runs"])
    assert ours.loc["ses-a", "age"] == 50
    assert ours.loc["ses-b", "age"] == 55
    assert ours["split"].nunique() == 1
    assert len(scans) == 12
    (left_out,) = excluded.to_dict("records")
    assert left_out["path"].endswith("rec-norm_run-1_T1w.nii.gz")
    assert "sub-20_ses-a_run-1" in left_out["reason"]


def test_a_dangling_run_is_told_and_the_next_is_the_first(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(10), [*heads(10), "sub-20/anat/sub-20_run-2_T1w.nii.gz"])
    (bids / "sub-20" / "anat" / "sub-20_run-1_T1w.nii.gz").symlink_to(bids / "nowhere")
    scans, excluded = index(bids)
    row = scans.set_index("scan").loc["sub-20"]
    assert row["path"].endswith("run-2_T1w.nii.gz")
    assert pd.isna(row["further_runs"])
    assert "dangling" in excluded.iloc[0]["reason"]


def test_same_scan_with_and_without_compression_is_no_second_run(tmp_path: Path) -> None:
    twice = ["sub-20/anat/sub-20_run-1_T1w.nii.gz", "sub-20/anat/sub-20_run-1_T1w.nii"]
    scans, excluded = index(make_bids(tmp_path, participants_tsv(10), heads(10) + twice))
    assert scans["further_runs"].isna().all()
    assert len(excluded[excluded["scan"] == "sub-20"]) >= 1


def test_each_kind_of_bad_row_is_left_out_with_its_reason_and_the_others_stay(tmp_path: Path) -> None:
    extra = "sub-20 n/a F\nsub-21 30 F\nsub-21 40 F\nsub-22 33 M\nsub-22 33 M\nsub-23 44 M\nsub-24 45y M\n"
    more = [f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in (20, 21, 22, 24, 25)]
    bids = make_bids(tmp_path, participants_tsv(10, extra), heads(10) + more)
    link = bids / "sub-26" / "anat" / "sub-26_T1w.nii.gz"
    link.parent.mkdir(parents=True)
    link.symlink_to(bids / "nowhere")
    scans, excluded = index(bids)
    told = excluded.set_index("scan")
    assert "no age" in told.loc["sub-20", "reason"]
    assert told.loc["sub-20", "excluded_from"] == "scm"
    assert "age 30 and 40" in told.loc["sub-21", "reason"]
    assert "no T1w" in told.loc["sub-23", "reason"]
    assert "'45y' is not a number" in told.loc["sub-24", "reason"]
    assert told.loc["sub-25", "reason"] == "no age; no sex"
    assert "dangling" in told.loc["sub-26", "reason"]
    assert "sub-22" not in told.index
    kept = set(scans["scan"])
    assert {"sub-20", "sub-22", "sub-24", "sub-25"} <= kept
    assert kept.isdisjoint({"sub-21", "sub-23", "sub-26"})
    assert pd.api.types.is_numeric_dtype(scans["age"])


def test_ids_without_their_prefix_are_understood(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(10).replace("sub-", ""), heads(10))
    scans, excluded = index(bids)
    assert scans["age"].notna().all()
    assert excluded.empty


def test_unknown_covariate_names_the_nearest_column(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(10), heads(10))
    for name in ("agee", "AGE"):
        with pytest.raises(ConfigError, match=rf"scm\.nodes\.{name}: no column '{name}'.*did you mean 'age'"):
            index(bids, (name,))


def test_a_measured_volume_needs_no_column(tmp_path: Path) -> None:
    scans, excluded = index(make_bids(tmp_path, participants_tsv(10), heads(10)), ("age", "ventricles", "gm_ml"))
    assert len(scans) == 10
    assert excluded.empty


def test_split_is_by_participant_balanced_and_independent_of_row_order(tmp_path: Path) -> None:
    n = 60
    bids = make_bids(tmp_path, participants_tsv(n), heads(n))
    scans, _ = index(bids)
    counts = scans["split"].value_counts()
    assert counts["train"] == 42
    assert counts["validation"] == 6
    assert counts["test"] == 12
    assert abs(scans.groupby("split")["age"].mean().loc["test"] - scans["age"].mean()) < 4
    lines = (bids / "participants.tsv").read_text().splitlines()
    (bids / "participants.tsv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    again, _ = index(bids)
    pd.testing.assert_frame_equal(scans, again)


def test_unreadable_inputs_end_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BrainSCMError, match="is not a folder"):
        find_t1w(tmp_path / "missing")
    with pytest.raises(BrainSCMError, match=r"no sub-\*"):
        find_t1w(tmp_path)
    bids = make_bids(tmp_path, participants_tsv(10), heads(10))
    (bids / "participants.tsv").write_text("participant_id,age\nsub-01,3\n")
    with pytest.raises(BrainSCMError, match="separated by tabs"):
        index(bids)
    few = make_bids(tmp_path / "few", participants_tsv(2), heads(2))
    with pytest.raises(BrainSCMError, match="2 participants cannot give each"):
        index(few)


def test_folders_that_give_no_scan_are_told(tmp_path: Path) -> None:
    odd = ["sub-a_b/anat/sub-a_b_T1w.nii.gz", "sub-30/anat/sub-30_T2w.nii.gz", "sub-33/baseline/anat/sub-33_T1w.nii.gz"]
    odd += ["SUB-31/anat/SUB-31_T1w.nii.gz", "sub_32/anat/sub_32_T1w.nii.gz", "subsets/anat/x_T1w.nii.gz", "sub-34.zip"]
    bids = make_bids(tmp_path, participants_tsv(10), heads(10) + odd)
    (bids / "sub-35").symlink_to("sub-35")  # whatever looks at it, fails
    _, excluded = index(bids)
    reasons = excluded.set_index("scan")["reason"]
    assert "letters and digits" in reasons["sub-a_b"]
    assert "no sub-30[_ses-Y]_T1w.nii[.gz] in" in reasons["sub-30"]
    assert "(there: baseline/anat/sub-33_T1w.nii.gz)" in reasons["sub-33"]
    assert "a file, not a folder" in reasons["sub-34.zip"]
    assert "a link that leads nowhere" in reasons["sub-35"]
    for name in ("SUB-31", "sub_32"):
        assert "does not begin with sub-" in reasons[name]
    assert len(reasons) == 7


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sub-03_t1w.nii.gz", "no name of a T1w in BIDS"),
        ("sub-03_T1w.NII.GZ", "no name of a T1w in BIDS"),
        ("sub-03_T1w.mgz", "no name of a T1w in BIDS"),
        ("sub-03_T1w (1).nii.gz", "no name of a T1w in BIDS"),
        ("sub-03_T1w\udcff.nii.gz", "no name of a T1w in BIDS"),  # no text in any encoding that we know
        ("sub-03_chunk-2_T1w.nii.gz", "a piece of an image"),
        ("sub-03_T1w_defacemask.nii.gz", ""),
        ("sub-03_T1map.nii.gz", ""),
    ],
    ids=ascii,
)
def test_a_file_that_is_almost_a_t1w_is_told(name: str, told: str, tmp_path: Path) -> None:
    bids = make_bids(tmp_path / "bids", participants_tsv(10), heads(10))
    (bids / "sub-03" / "anat" / name).write_bytes(b"x")
    found = cohort(bids)
    assert len(found.scans) == 10
    assert list(found.excluded["scan"]) == (["sub-03"] if told else [])
    assert told in found.excluded["reason"].sum() if told else True
    write_table(found.excluded, tmp_path / "excluded.tsv")


def test_one_run_under_two_numbers_is_taken_once_and_several_kinds_of_t1w_are_told(tmp_path: Path) -> None:
    more = [f"sub-20/anat/sub-20_{name}_T1w.nii.gz" for name in ("run-1", "run-01", "run-2")]
    more += [f"sub-21/anat/sub-21_{name}_T1w.nii.gz" for name in ("acq-low", "acq-high")]
    extra = "sub-20 30 F\nsub-21 31 M\n"
    found = cohort(make_bids(tmp_path, participants_tsv(10, extra), heads(10) + more))
    rows = found.scans.set_index("scan")
    assert len(run_paths(rows.loc["sub-20", "path"], rows.loc["sub-20", "further_runs"])) == 2
    assert "acq-high (1)" in told(found, "files")


def test_files_that_all_lie_in_the_wrong_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(BrainSCMError, match="its name says sub-01"):
        cohort(make_bids(tmp_path, participants_tsv(10), ["sub-02/anat/sub-01_T1w.nii.gz"]))


def test_tables_that_cannot_serve_the_graph_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BrainSCMError, match=r"none of its participants \(sub-X00, ...\) has a folder \(sub-00, ...\)"):
        index(make_bids(tmp_path / "ids", participants_tsv(10).replace("sub-", "sub-X"), heads(10)))
    with pytest.raises(ConfigError, match="no column 'age' in"):
        index(make_bids(tmp_path / "none", "", heads(10)))


def test_a_covariate_that_cannot_balance_the_split_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bids = make_bids(tmp_path, participants_tsv(10), heads(10))
    with caplog.at_level("WARNING", logger="brainscm"):
        index_cohort(bids, CohortOptions(stratify=["agee"]), ("age",), seed=1)
    assert "no column 'agee'" in caplog.text


def cohort(bids: Path, covariates: tuple[str, ...] = ("age", "sex"), **options: Any) -> Cohort:
    return index_cohort(bids, CohortOptions.model_validate(options), covariates, seed=1)


def told(found: Cohort, about: str) -> str:
    return "; ".join(found.notes.loc[found.notes["about"] == about, "note"])


def reason(found: Cohort, scan: str) -> str:
    return str(found.excluded.set_index("scan").loc[scan, "reason"])


def test_a_file_in_another_participants_or_sessions_folder_is_left_out_by_name(tmp_path: Path) -> None:
    strays = [
        "sub-03/anat/sub-40_T1w.nii.gz",
        "sub-41/ses-2/anat/sub-41_ses-1_T1w.nii.gz",
        "sub-42/ses-1/anat/sub-42_T1w.nii.gz",
        "sub-43/anat/sub-43_ses-1_T1w.nii.gz",
    ]
    found = cohort(make_bids(tmp_path, participants_tsv(10), heads(10) + strays))
    assert set(found.scans["scan"]) == {f"sub-{i:02d}" for i in range(10)}
    reasons = found.excluded.set_index("path")["reason"]
    assert len(reasons) == len(strays)
    for stray in strays:
        assert "its name says" in reasons[str(tmp_path / stray)]


def test_a_clone_without_content_says_so(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, "", [])
    for i in range(3):
        link = bids / f"sub-{i}" / "anat" / f"sub-{i}_T1w.nii.gz"
        link.parent.mkdir(parents=True)
        link.symlink_to(bids / ".git" / "annex" / "objects" / str(i))
    (bids / "participants.tsv").symlink_to(bids / ".git" / "annex" / "objects" / "table")
    with pytest.raises(BrainSCMError, match=r"none of the T1w files.*datalad get.*3 of 3"):
        cohort(bids)
    make_bids(tmp_path, "", heads(10))
    with pytest.raises(ConfigError, match=r"participants\.tsv is not fetched \(for DataLad: `datalad get"):
        cohort(bids)


def test_without_participants_tsv_the_table_beside_it_is_named(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, "", heads(10))
    with pytest.raises(ConfigError, match=r"there is no participants\.tsv"):
        cohort(bids)
    (bids / "participants.csv").write_text("participant_id,age\n")
    with pytest.raises(ConfigError, match=r"participants\.csv is not read: save it as participants\.tsv"):
        cohort(bids)


def test_one_participants_fault_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [f"sub-{i}/ses-1/anat/sub-{i}_ses-1_T1w.nii.gz" for i in (20, 21, 22)]
    bids = make_bids(tmp_path, participants_tsv(10, "sub-20 50 F\nsub-21 51 NA\nsub-22 52 F\n"), heads(10) + sessions)
    (bids / "sub-20" / "sub-20_sessions.tsv").write_text("")
    (bids / "sub-22" / "sub-22_sessions.tsv").write_text("session_id\tage\nses-1\t50\nses-1\t51\n")
    scandir = os.scandir

    def locked(path: Any) -> Any:
        if "sub-09" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    found = cohort(bids)
    assert set(found.scans["scan"]) == {*(f"sub-{i:02d}" for i in range(9)), "sub-21_ses-1"}
    assert "sub-20_sessions.tsv: is empty" in reason(found, "sub-20_ses-1")
    assert reason(found, "sub-21_ses-1") == "no sex"
    assert "age 50 and 51" in reason(found, "sub-22_ses-1")
    assert "cannot be read (Permission denied" in reason(found, "sub-09")


def test_a_participants_table_with_a_row_a_session_is_one_of_sessions(tmp_path: Path) -> None:
    files = [f"sub-{i:02d}/ses-{k}/anat/sub-{i:02d}_ses-{k}_T1w.nii.gz" for i in range(10) for k in (1, 2)]
    rows = [f"sub-{i:02d} {k} {20 + i + 3 * k} {'FM'[i % 2]}" for i in range(10) for k in (1, 2)]
    found = cohort(make_bids(tmp_path, "participant_id session_id age sex\n" + "\n".join(rows) + "\n", files))
    assert found.excluded.empty
    ages = found.scans.set_index("scan")["age"]
    assert ages["sub-04_ses-1"] == 27
    assert ages["sub-04_ses-2"] == 30


def test_ids_that_name_a_session_are_read_as_such(tmp_path: Path) -> None:
    files = [f"sub-{i:02d}/ses-{k}/anat/sub-{i:02d}_ses-{k}_T1w.nii.gz" for i in range(10) for k in (1, 2)]
    rows = [f"sub-{i:02d}_ses-{k} {20 + i + 3 * k} {'FM'[i % 2]}" for i in range(10) for k in (1, 2)]
    found = cohort(make_bids(tmp_path, "participant_id age sex\n" + "\n".join(rows) + "\n", files))
    assert found.excluded.empty
    assert list(found.scans.set_index("scan").loc[["sub-04_ses-1", "sub-04_ses-2"], "age"]) == [27, 30]
    assert "its ids name sessions (sub-00_ses-1)" in told(found, "participants.tsv")


def test_repeated_rows_without_a_session_name_the_cause(tmp_path: Path) -> None:
    rows = [f"sub-{i:02d} {20 + i + 3 * k} F" for i in range(10) for k in (1, 2)]
    bids = make_bids(tmp_path, "participant_id age sex\n" + "\n".join(rows) + "\n", heads(10))
    with pytest.raises(BrainSCMError, match=r"every scan .* is left out: listed more than once.*session_id"):
        cohort(bids)


def test_sessions_that_match_nothing_and_one_age_for_two_visits_are_told(tmp_path: Path) -> None:
    files = [f"sub-20/ses-0{k}/anat/sub-20_ses-0{k}_T1w.nii.gz" for k in (1, 2)]
    bids = make_bids(tmp_path, participants_tsv(10, "sub-20 50 F\n"), heads(10) + files)
    (bids / "sub-20" / "sub-20_sessions.tsv").write_text("session_id\tage\nses-1\t50\nses-2\t55\nses-3\t59\n")
    found = cohort(bids)
    assert list(found.scans.set_index("scan").loc[["sub-20_ses-01", "sub-20_ses-02"], "age"]) == [50, 50]
    sentence = told(found, "the sessions tables")
    assert "2 ids nearly match" in sentence
    assert "'sub-20_ses-1' for sub-20_ses-01" in sentence
    assert "1 rows are of sessions without a T1w (sub-20_ses-3)" in sentence
    assert "1 participants have one age for several sessions (sub-20)" in told(found, "age")


def test_nobody_keeps_the_baselines_age_or_becomes_younger_untold(tmp_path: Path) -> None:
    files = [f"sub-{i}/ses-{k}/anat/sub-{i}_ses-{k}_T1w.nii.gz" for i in (20, 21) for k in (2, 10)]
    files += [f"sub-22/ses-{name}/anat/sub-22_ses-{name}_T1w.nii.gz" for name in ("pre", "post")]
    bids = make_bids(tmp_path, participants_tsv(10, "sub-20 50 F\nsub-21 60 M\nsub-22 70 F\n"), heads(10) + files)
    (bids / "sub-20" / "sub-20_sessions.tsv").write_text("session_id\tage\nses-2\t50.5\nses-10\tn/a\n")
    (bids / "sub-21" / "sub-21_sessions.tsv").write_text("session_id\tage\nses-2\t62\nses-10\t60\n")
    (bids / "sub-22" / "sub-22_sessions.tsv").write_text("session_id\tage\nses-pre\t70\nses-post\t71\n")
    found = cohort(bids)
    assert found.scans.set_index("scan").loc["sub-20_ses-2", "age"] == 50.5
    assert reason(found, "sub-20_ses-10") == "no age"
    assert "1 participants are younger at a later session (sub-21)" in told(found, "age")


def test_tables_of_sessions_that_are_not_fetched_are_told(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(10), heads(10))
    (bids / "sub-03" / "sub-03_sessions.tsv").symlink_to(bids / ".git" / "annex" / "nowhere")
    (bids / "sessions.tsv").write_text("/annex/objects/MD5E-s1--a.tsv\n")
    assert "2 are not fetched and not used (sessions.tsv, sub-03" in told(cohort(bids), "the sessions tables")
    (bids / "sub-04" / "sub-04_sessions.tsv").mkdir()  # cannot be read, whoever tries
    assert "sub-04_sessions.tsv: cannot be read" in reason(cohort(bids), "sub-04")


def test_ages_in_months_become_years_and_are_told(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(10), heads(10))
    (bids / "participants.json").write_text(json.dumps({"age": {"Units": "months"}}))
    found = cohort(bids)
    assert found.scans.set_index("scan").loc["sub-04", "age"] == pytest.approx(24 / 12)
    assert "in months" in told(found, "age")
    assert "10 scans are of children" in told(found, "age")


def test_the_unit_of_one_table_is_not_that_of_another(tmp_path: Path) -> None:
    files = [f"sub-20/ses-{k}/anat/sub-20_ses-{k}_T1w.nii.gz" for k in (1, 2)]
    files += ["sub-21/ses-1/anat/sub-21_ses-1_T1w.nii.gz"]
    bids = make_bids(tmp_path, participants_tsv(10, "sub-20 50 F\nsub-21 51 F\n"), heads(10) + files)
    (bids / "sub-20" / "sub-20_sessions.tsv").write_text("session_id\tage\nses-1\t600\nses-2\t624\n")
    (bids / "sub-20" / "sub-20_sessions.json").write_text(json.dumps({"age": {"Units": "mo"}}))
    (bids / "sub-21" / "sub-21_sessions.tsv").write_text("participant_id\tsession_id\tage\nsub-20\t1\t51\n")
    found = cohort(bids)
    ages = found.scans.set_index("scan")["age"]
    assert list(ages[["sub-20_ses-1", "sub-20_ses-2", "sub-04"]]) == [50, 52, 24]
    assert "has rows of sub-20; find out whose they are" in reason(found, "sub-21_ses-1")


@pytest.mark.parametrize(
    ("column", "is_one"),
    [("age", True), ("AgeAtScan", True), ("Age (years)", True), ("age2", False), ("age_z", False), ("stage", False),
     ("age_months", False), ("age_group", False), ("ageSquared", False)],
)  # fmt: skip
def test_a_column_of_ages_is_known_by_its_words(column: str, is_one: bool) -> None:
    assert is_age(column) == is_one


def test_levels_that_look_alike_and_numbers_among_them_are_asked_about(tmp_path: Path) -> None:
    levels = ("A.D.", "ad", "right", "2")
    rows = "".join(f"sub-{i:02d} {20 + i} {levels[i % 4]}\n" for i in range(12))
    bids = make_bids(tmp_path, f"participant_id age dx\n{rows}", heads(12))
    found = cohort(bids, ("age", "dx"))
    assert set(found.scans["dx"]) == set(levels)  # none is folded
    assert "'A.D.' and 'ad' are two levels" in told(found, "dx")
    assert "'2' (3 cells) is a number among words" in told(found, "dx")


@pytest.mark.parametrize("spell", [lambda i: f"{i}", lambda i: f"SUB{i:02d}", "002_S_{:02d}".format, "{}.0".format])
def test_ids_that_nearly_match_are_told_with_their_mending(
    spell: Callable[[int], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = participants_tsv(5) + "".join(f"{spell(i)} {20 + i} F\n" for i in range(5, 10))
    folders = heads(10)
    if spell(1) == "002_S_01":
        folders = [name.replace("sub-0", "sub-ADNI002S0") if int(name[4:6]) > 4 else name for name in folders]
    with caplog.at_level("WARNING", logger="brainscm"):
        found = cohort(make_bids(tmp_path, table, folders))
    assert len(found.scans) == 10
    assert len(found.excluded) == 5  # each mismatch once, not as a scan without a row and a row without a scan
    assert found.excluded["reason"].str.contains(f"the row of 'sub-{spell(7)}' is probably meant for it").sum() == 1
    assert "5 ids nearly match those of the folders" in caplog.text


def test_values_are_read_as_what_they_mean_and_told(tmp_path: Path) -> None:
    extra = "sub-20 -9 f\nsub-21 999 m\nsub-22 1957 F\nsub-23 89+ N/A\nsub-24 3 unknown\nsub-25 71 male\nsub-26 72 w\n"
    extra += "sub-27 >85 #VALUE!\n"
    more = [f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in range(20, 28)]
    found = cohort(make_bids(tmp_path, participants_tsv(10, extra), heads(10) + more))
    assert set(found.scans["sex"].dropna()) == {"F", "M"}
    for scan, age in (("sub-20", "-9"), ("sub-21", "999"), ("sub-22", "1957")):
        assert f"age {age} is no age in years (0-120)" in reason(found, scan)
    assert found.scans.set_index("scan").loc["sub-23", "age"] == 89
    assert found.scans.set_index("scan").loc["sub-27", "age"] == 85
    assert reason(found, "sub-23") == reason(found, "sub-27") == "no sex"
    assert "'f' and 'w' (2 cells) are read as 'F'" in told(found, "sex")
    assert "'m' and 'male' (2 cells) are read as 'M'" in told(found, "sex")
    assert "'unknown' (1 cells) is read as missing" in told(found, "sex")
    assert "89+" in told(found, "age")
    assert "children" in told(found, "age")


def test_codes_are_named_by_participants_json_and_codes_of_missing_are_asked_about(tmp_path: Path) -> None:
    rows = [f"sub-{i:02d} {1 + i % 4} {-9 if i == 3 else 20 + i}" for i in range(12)]
    bids = make_bids(tmp_path, "participant_id site score\n" + "\n".join(rows) + "\n", heads(12))
    levels = {str(k): name for k, name in enumerate("ABCD", 1)}
    (bids / "participants.json").write_text(json.dumps({"site": {"Levels": levels}}))
    found = cohort(bids, ("site", "score"), stratify=[])
    assert list(found.scans["site"][:5]) == ["A", "B", "C", "D", "A"]
    assert "1 is 'A'" in told(found, "site")
    assert "-9 (1 cells) lies far from the others (20 to 31)" in told(found, "score")


def test_levels_take_the_spelling_that_the_graph_gives_them(tmp_path: Path) -> None:
    rows = "".join(f"sub-{i:02d} {20 + i} {('ad', 'A_D', 'unknown')[i % 3]}\n" for i in range(12))
    bids = make_bids(tmp_path, f"participant_id age dx\n{rows}", heads(12))
    table = bids / "participants.tsv"
    table.write_text(table.read_text().replace("A_D", "A D "))
    found = index_cohort(bids, CohortOptions(), ("age", "dx"), seed=1, levels={"dx": ["unknown", "AD"]})
    assert set(found.scans["dx"]) == {"AD", "unknown"}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"participants": ["sub-01", "02", "sub-03"]}, ["sub-01", "sub-02", "sub-03"]),
        ({"sessions": ["2"]}, ["sub-20_ses-2", "sub-21_ses-2", "sub-22_ses-2"]),
        ({"filter": {"acquisition": "mprage", "run": 1}}, ["sub-20_ses-1", "sub-21_ses-1", "sub-22_ses-1"]),
        ({"filter": {"suffix": "UNIT1"}}, ["sub-30", "sub-31", "sub-32"]),
        ({"exclude": {"acquisition": "mprage", "sex": ["F", "M"]}}, ["sub-21_ses-2", "sub-22_ses-2"]),
    ],
)
def test_a_study_chooses_in_bids_words(options: dict[str, Any], kept: list[str], tmp_path: Path) -> None:
    files = [
        *(f"sub-{i}/ses-1/anat/sub-{i}_ses-1_acq-mprage_run-01_T1w.nii.gz" for i in (20, 21, 22)),
        *(f"sub-{i}/ses-2/anat/sub-{i}_ses-2_acq-fast_T1w.nii.gz" for i in (20, 21, 22)),
        *(f"sub-{i}/anat/sub-{i}_UNIT1.nii.gz" for i in (30, 31, 32)),
    ]
    bids = make_bids(
        tmp_path, participants_tsv(4, "sub-20 50 F\nsub-21 51 X\nsub-22 52 X\nsub-30 5 F\n"), heads(4) + files
    )
    shares = {"split": {"train": 0.4, "validation": 0.3, "test": 0.3}}
    found = cohort(bids, ("age",), **shares, **options)
    assert list(found.scans["scan"]) == kept


def test_an_earlier_split_is_kept_when_an_age_is_mended_or_a_participant_added(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(40), heads(40))

    def splits(drawn_before: dict[str, str]) -> dict[str, str]:
        found = index_cohort(bids, CohortOptions(), ("age", "sex"), seed=1, drawn_before=drawn_before)
        return dict(zip(found.scans["participant"], found.scans["split"], strict=True))

    before = splits({})
    make_bids(bids, participants_tsv(40).replace("sub-39 59", "sub-39 21"), [])
    assert splits({}) != before
    assert splits(before) == before
    make_bids(bids, participants_tsv(60), heads(60))
    more = splits(before)
    assert {who: more[who] for who in before} == before
    assert pd.Series(more).value_counts().to_dict() == {"train": 42, "validation": 6, "test": 12}
    # If nobody is left in a part, all are dealt out again.
    assert splits(dict.fromkeys(more, "train")) == splits({})


def test_a_split_is_recorded_by_the_options_that_it_was_drawn_by(tmp_path: Path) -> None:
    path, ours, other = tmp_path / "split.json", CohortOptions(), CohortOptions(stratify=["age"])
    SplitRecord(path, ours, 1).write({"sub-1": "train", "sub-2": "test"})
    SplitRecord(path, other, 1).write({"sub-1": "test"})
    SplitRecord(path, ours, 1).write({"sub-3": "train"})
    assert SplitRecord(path, ours, 1).read() == {"sub-1": "train", "sub-2": "test", "sub-3": "train"}
    assert SplitRecord(path, other, 1).read() == {"sub-1": "test"}
    assert SplitRecord(path, ours, 2).read() == {}
    path.write_text(path.read_text().replace("train", "trian"))
    with pytest.raises(BrainSCMError, match=r"split\.json: is damaged .* remove it"):
        SplitRecord(path, ours, 1).read()


FOLDS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4


def with_folds(root: Path, folds: list[str], column: str = "fold") -> Path:
    """Twelve participants, the last one in two sessions, with a part of the split each."""
    rows = "".join(f"sub-{i:02d} {20 + i} F {fold}\n" for i, fold in enumerate(folds))
    files = [*heads(11), *(f"sub-11/ses-{k}/anat/sub-11_ses-{k}_T1w.nii.gz" for k in (1, 2))]
    return make_bids(root, f"participant_id age sex {column}\n{rows}", files)


@pytest.mark.parametrize("column", ["fold", "split"])
def test_a_column_divides_the_participants(column: str, tmp_path: Path) -> None:
    bids = with_folds(tmp_path, FOLDS, column)
    scans = cohort(bids, split={"column": column}).scans
    assert list(scans["split"]) == [*FOLDS, "test"]
    without = ["n/a" if i == 3 else fold for i, fold in enumerate(FOLDS)]
    mended = cohort(with_folds(tmp_path, without, column), split={"column": column}, exclude=["sub-03"]).scans
    assert "sub-03" not in set(mended["scan"])


def test_a_column_called_split_is_told_where_it_is_not_asked_for(tmp_path: Path) -> None:
    found = cohort(with_folds(tmp_path, FOLDS, "split"))
    assert "cohort.split: {column: split}" in dict(found.notes.itertuples(index=False))["split"]


@pytest.mark.parametrize(
    ("changed", "column", "sentence"),
    [
        ({3: "n/a"}, "fold", "'fold' says nothing of sub-03; write train, validation or test for each participant"),
        ({3: "Valid"}, "fold", "'fold' says 'Valid' of sub-03; did you mean 'validation'"),
        ({3: "7"}, "fold", "'fold' says '7' of sub-03; write train, validation or test"),
        ({6: "train", 7: "train"}, "fold", "leaves 'validation' without a scan"),
        ({}, "folds", "'folds' is no column of .*; did you mean 'fold'"),
    ],
)
def test_a_column_that_cannot_divide_the_participants_is_refused(
    changed: dict[int, str], column: str, sentence: str, tmp_path: Path
) -> None:
    bids = with_folds(tmp_path, [changed.get(i, fold) for i, fold in enumerate(FOLDS)])
    with pytest.raises(ConfigError, match=sentence):
        cohort(bids, split={"column": column})


def test_a_participant_in_two_parts_is_refused(tmp_path: Path) -> None:
    bids = with_folds(tmp_path, FOLDS)
    (bids / "sub-11" / "sub-11_sessions.tsv").write_text("session_id\tfold\nses-1\ttest\nses-2\ttrain\n")
    with pytest.raises(ConfigError, match=r"puts sub-11 into two parts \(train and test\)"):
        cohort(bids, split={"column": "fold"})
    (bids / "sub-11" / "sub-11_sessions.tsv").unlink()
    with (bids / "participants.tsv").open("a") as table:
        table.write("sub-03\t23\tF\ttest\n")
    with pytest.raises(ConfigError, match="puts sub-03 into two parts, in two rows"):
        cohort(bids, split={"column": "fold"})


def test_excluding_a_scan_leaves_the_split_of_the_others(tmp_path: Path) -> None:
    rows = "".join(f"sub-{i:02d} {20 + i} F {'yes' if i == 4 else 'no'}\n" for i in range(20))
    table = f"participant_id age sex bad\n{rows}"
    bids = make_bids(tmp_path, table, heads(20))
    everyone = cohort(bids).scans.set_index("scan")["split"]
    for exclude in (["sub-04"], ["04"], "bad", {"bad": "yes"}, {"age": 24}):
        found = cohort(bids, exclude=exclude)
        pd.testing.assert_series_equal(found.scans.set_index("scan")["split"], everyone.drop("sub-04"))
        assert "cohort.exclude" in reason(found, "sub-04")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"participants": ["sub-1"]}, "cohort.participants: no T1w of 'sub-1'; did you mean 'sub-01'"),
        ({"exclude": ["sub-99"]}, "cohort.exclude: 'sub-99' is no scan or participant"),
        ({"exclude": "sexx"}, "no column 'sexx' in the tables; did you mean 'sex'"),
        ({"exclude": "sex"}, r"column 'sex' says 'f', neither yes nor no.*\{sex: \[f\]\}"),
        ({"filter": {"acq": "x"}}, "cohort.filter: 'acq' is none of acquisition"),
        ({"filter": {"acquisition": "x"}}, "no T1w whose acquisition is x; no name has one"),
    ],
)
def test_what_a_study_asks_for_in_vain_is_named(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        cohort(make_bids(tmp_path, participants_tsv(10), heads(10)), **options)


def test_images_of_mp2rage_and_contrast_agents_are_told(tmp_path: Path) -> None:
    more = [
        "sub-20/anat/sub-20_UNIT1.nii.gz",
        "sub-20/anat/sub-20_inv-2_MP2RAGE.nii.gz",
        "sub-21/anat/sub-21_ce-gad_T1w.nii.gz",
        "sub-22/anat/sub-22_ce-gad_T1w.nii.gz",
        "sub-22/anat/sub-22_rec-norm_T1w.nii.gz",
        "sub-23/anat/sub-23_part-phase_T1w.nii.gz",
    ]
    found = cohort(make_bids(tmp_path, participants_tsv(10), heads(10) + more))
    assert "cohort.filter: {suffix: UNIT1}" in reason(found, "sub-20")
    assert "1 scans have a contrast agent (ce-: sub-21)" in told(found, "contrast agent")
    assert found.scans.set_index("scan").loc["sub-22", "path"].endswith("rec-norm_T1w.nii.gz")
    assert "phase part of a complex image" in reason(found, "sub-23")


def test_what_is_derived_is_taken_last_and_never_from_a_templates_space(tmp_path: Path) -> None:
    more = [
        "sub-20/anat/sub-20_desc-defaced_T1w.nii.gz",
        "sub-20/anat/sub-20_rec-norm_T1w.nii.gz",
        "sub-21/anat/sub-21_desc-defaced_T1w.nii.gz",
        "sub-22/anat/sub-22_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz",
        "sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz",
    ]
    found = cohort(make_bids(tmp_path, participants_tsv(10), heads(10) + more))
    assert found.scans.set_index("scan").loc["sub-20", "path"].endswith("rec-norm_T1w.nii.gz")
    assert "1 scans are not raw (desc-: sub-21)" in told(found, "derivatives")
    assert "in the space of MNI152NLin2009cAsym" in reason(found, "sub-22")
    assert "both with and without a session (sub-03)" in told(found, "sessions")


def test_a_folder_too_high_or_of_unfetched_participants_is_told_with_the_mending(tmp_path: Path) -> None:
    make_bids(tmp_path / "study" / "rawdata", participants_tsv(3), heads(3))
    with pytest.raises(BrainSCMError, match=r"did you mean .*study/rawdata\?"):
        find_t1w(tmp_path / "study")
    (tmp_path / "clone" / "sub-01").mkdir(parents=True)
    with pytest.raises(BrainSCMError, match=r"sub-01: its folder is empty.*datalad get -n sub-01"):
        find_t1w(tmp_path / "clone")


def test_whatever_the_index_reads_changes_its_fingerprint(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(3), heads(3))
    seen = [bids_fingerprint(bids)]
    assert bids_fingerprint(bids) == seen[0]
    (bids / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tage\nses-1\t50\n")
    seen.append(bids_fingerprint(bids))
    (bids / "participants.tsv").write_text(participants_tsv(3, "sub-03 40 F\n").replace(" ", "\t"))
    seen.append(bids_fingerprint(bids))
    for name in ("sessions.json", "sub-01/sub-01_sessions.json", "Sub-02"):
        (bids / name).write_text("{}")
        seen.append(bids_fingerprint(bids))
    make_bids(tmp_path, "", ["sub-03/anat/sub-03_T1w.nii.gz"])
    seen.append(bids_fingerprint(bids))
    make_bids(tmp_path, "", ["sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"])
    seen.append(bids_fingerprint(bids))
    (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"longer")  # so small, it may be a pointer
    seen.append(bids_fingerprint(bids))
    for size in (2000, 3000):  # an image in the place of another is the matter of its own preprocessing
        (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(bytes(size))
        seen.append(bids_fingerprint(bids))
    assert seen.pop() == seen[-1]
    assert len(set(seen)) == len(seen)


def test_results_inside_the_bids_folder_are_no_scans_and_the_folder_is_only_read(tmp_path: Path) -> None:
    bids = make_bids(tmp_path, participants_tsv(10), heads(10))
    before, seen = index(bids), bids_fingerprint(bids)
    for results in ("derivatives/brainscm", "results", "."):
        image = bids / results / "preproc" / "sub-01" / "anat" / "sub-01_desc-preproc_T1w.nii.gz"
        image.parent.mkdir(parents=True)
        image.touch()
    files = sorted(bids.rglob("*"))
    after = index(bids)
    for one, other in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert bids_fingerprint(bids) == seen
    assert sorted(bids.rglob("*")) == files


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path: Path) -> None:
    """On a disk that is mounted for reading alone, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)]).returncode != 0:
        pytest.skip("only root mounts a disk")
    try:
        bids = make_bids(disk, participants_tsv(10), heads(10))
        before, seen = index(bids), bids_fingerprint(bids)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for one, other in zip(before, index(bids), strict=True):
            pd.testing.assert_frame_equal(one, other)
        assert bids_fingerprint(bids) == seen
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_another_dicom_folder_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "01" / "ses-1").mkdir(parents=True)
    seen = [dicom_fingerprint(tmp_path)]
    (tmp_path / "01" / "ses-2").mkdir()
    seen.append(dicom_fingerprint(tmp_path))
    (tmp_path / "02").mkdir()
    seen.append(dicom_fingerprint(tmp_path))
    (tmp_path / "participants.tsv").write_text(participants_tsv(1))
    seen.append(dicom_fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)


RATINGS = (
    "scan\trating\texcluded_from\tartefacts\tnote\trater\trated_at\n"
    "sub-03\texclude\teverything\tmotion, ringing\tblurred in front\tA. Rater\t2026-01-01T10:00:00\n"
    "sub-05\texclude\tscm\t\t\tA. Rater\t2026-01-01T10:01:00\n"
    "sub-06\tdoubtful\t\t\t\tA. Rater\t2026-01-01T10:02:00\n"
)


def test_ratings_that_the_report_saved_exclude_from_everything_or_from_the_causal_model(tmp_path: Path) -> None:
    bids = make_bids(tmp_path / "bids", participants_tsv(12), heads(12))
    table = tmp_path / "ratings.tsv"
    table.write_text(RATINGS)
    before = index_cohort(bids, CohortOptions(), ("age", "sex"), seed=1)
    cohort = index_cohort(bids, CohortOptions(exclude=str(table)), ("age", "sex"), seed=1)

    assert set(before.scans["scan"]) - set(cohort.scans["scan"]) == {"sub-03"}
    told = cohort.excluded.set_index("scan")
    assert told.loc["sub-03", ["excluded_from", "reason"]].tolist() == [
        "everything", "rated exclude by A. Rater: motion, ringing; blurred in front",
    ]  # fmt: skip
    assert told.loc["sub-05", ["excluded_from", "reason"]].tolist() == ["scm", "rated exclude by A. Rater"]
    assert "sub-06" not in told.index
    # The others keep their split; the causal model does not use the one that was left out of it.
    splits = before.scans.set_index("scan")["split"]
    assert (cohort.scans.set_index("scan")["split"] == splits.drop("sub-03")).all()
    options = ScmOptions.model_validate({"nodes": {"age": {}}, "image": {"formula": "age"}})
    problems = Covariates.learn(cohort.scans, options).problems(cohort.scans)
    assert cohort.scans.loc[problems != "", "scan"].tolist() == ["sub-05"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("scan\tnote\nsub-01\tx\n", "no column 'rating'"),
        ("scan\trating\nsub-01\tbad\n", "the rating 'bad' is none of pass, doubtful, exclude"),
        ("scan\trating\texcluded_from\nsub-01\texclude\tmodel\n", "'model' is none of everything, scm"),
    ],
)
def test_ratings_that_cannot_be_read_are_refused(tmp_path: Path, written: str, told: str) -> None:
    bids = make_bids(tmp_path / "bids", participants_tsv(12), heads(12))
    (tmp_path / "ratings.tsv").write_text(written)
    with pytest.raises(ConfigError, match=told):
        index_cohort(bids, CohortOptions(exclude=str(tmp_path / "ratings.tsv")), ("age", "sex"), seed=1)
