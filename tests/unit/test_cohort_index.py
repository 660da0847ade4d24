"""What is found in a BIDS folder, what is left out, and what the user is told about it."""

from pathlib import Path

import pandas as pd
import pytest

from brainscm.cohort.bids import find_t1w
from brainscm.cohort.index import index_cohort
from brainscm.config import CohortOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.tables import run_paths


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
    return index_cohort(bids, CohortOptions(), covariates, seed=1)


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
    with pytest.raises(ConfigError, match=r"scm\.nodes\.agee: no column 'agee'.*did you mean 'age'"):
        index(bids, ("agee",))


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
    odd = ["sub-a_b/anat/sub-a_b_T1w.nii.gz", "sub-30/anat/sub-30_t1w.nii.gz"]
    _, excluded = index(make_bids(tmp_path, participants_tsv(10), heads(10) + odd))
    reasons = excluded.set_index("scan")["reason"]
    assert "letters and digits" in reasons["sub-a_b"]
    assert "no sub-30[_ses-Y]_T1w.nii[.gz] in" in reasons["sub-30"]


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
