"""A folder of results belongs to one study's scans, wherever these lie; another study's are refused."""

import shutil
from pathlib import Path

import pytest

from brainscm.config import Config
from brainscm.errors import ConfigError
from brainscm.workflow.study_record import FILE, StudyRecord


def make_scans(folder: Path, of: str, participants: int = 30) -> Path:
    """Scans whose places and sizes are those of any other study's."""
    for i in range(participants):
        anat = folder / f"sub-{i:02d}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-{i:02d}_T1w.json").write_text("{}")
        (anat / f"sub-{i:02d}_T1w.nii.gz").write_text(f"{of} {i:02d}" * 500)
    (folder / "code").mkdir()
    return folder


def study(scans: Path | None, kind: str = "bids_dir", **options: object) -> StudyRecord:
    graph = {"nodes": {"age": {}}, "image": {"formula": "age"}}
    return StudyRecord.of(Config.model_validate({kind: scans, "scm": graph, "counterfactuals": [], **options}))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    study(make_scans(tmp_path / "first", "first")).remember(tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize("kind", ["bids_dir", "dicom_dir"])
def test_another_studys_scans_are_refused_in_one_sentence(kind: str, results: Path, tmp_path: Path) -> None:
    other = make_scans(tmp_path / "other", "other")
    with pytest.raises(
        ConfigError, match=r"output_dir: .*results holds the results of the scans in .*first"
    ) as refusal:
        study(other, kind).check(results)
    assert f"remove {results / FILE}" in str(refusal.value)
    study(other, kind).check(tmp_path / "other results")
    (results / FILE).unlink()
    study(other, kind).check(results)


def test_simulated_scans_are_no_studys(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of the scans in"):
        study(None).check(results)
    study(None).remember(tmp_path / "demo")
    study(None, seed=2).check(tmp_path / "demo")
    with pytest.raises(ConfigError, match="of simulated scans"):
        study(tmp_path / "first").check(tmp_path / "demo")


def test_options_and_new_scans_make_no_other_study(results: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.rmtree(first / "sub-00")
    make_scans(first / "new", "new", 3)
    (tmp_path / "link").symlink_to(first)
    for scans in (first, tmp_path / "link", first / ".." / "first"):
        study(scans, seed=2, cohort={"filter": {"run": 1}}, preprocess={"voxel_mm": 2}).check(results)


@pytest.mark.parametrize("copied", [False, True])
def test_a_study_that_was_moved_or_copied_is_the_same(copied: bool, results: Path, tmp_path: Path) -> None:
    moved = tmp_path / "archive" / "first"
    (shutil.copytree if copied else shutil.move)(tmp_path / "first", moved)
    shutil.rmtree(moved / "sub-01")
    study(moved).check(results)
    study(moved).remember(results)
    shutil.rmtree(tmp_path / "first", ignore_errors=True)
    study(moved).check(results)


def test_scans_that_are_not_fetched_are_known_by_their_place_while_it_is_there(tmp_path: Path) -> None:
    clone = tmp_path / "clone" / "sub-01" / "anat"
    clone.mkdir(parents=True)
    (clone / "sub-01_T1w.nii.gz").symlink_to(tmp_path / "nowhere")
    study(tmp_path / "clone").remember(tmp_path / "results")
    with pytest.raises(ConfigError):
        study(make_scans(tmp_path / "other", "other")).check(tmp_path / "results")
    shutil.move(tmp_path / "clone", tmp_path / "moved")
    study(tmp_path / "moved").check(tmp_path / "results")
