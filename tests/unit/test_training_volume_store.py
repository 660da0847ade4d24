"""Which scans are used, how they are read, and the store that holds them."""

import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from brainscm.errors import BrainSCMError, ScanError
from brainscm.images import Grid, read_volume
from brainscm.scans import usable_scans
from brainscm.tables import write_table
from brainscm.training import volume_store
from brainscm.training.volume_store import ReadAhead, VolumeStore, content_fingerprint

GRID = Grid((8, 8, 16), np.diag([3.0, 3.0, 3.0, 1.0]))


def write_image(path: Path, values: np.ndarray, affine: np.ndarray = GRID.affine) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return str(path)


def write_scans(folder: Path, count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        mask = rng.random(GRID.shape) < 0.5
        volume = (mask * rng.random(GRID.shape)).astype(np.float32)
        rows.append(
            {
                "scan": f"sub-{i}",
                "image": write_image(folder / f"sub-{i}_T1w.nii.gz", volume),
                "mask": write_image(folder / f"sub-{i}_mask.nii.gz", mask.astype(np.uint8)),
            }
        )
    return pd.DataFrame(rows)


def write_tables(folder: Path, statuses: dict[str, str]) -> tuple[Path, Path]:
    scans = pd.DataFrame({"scan": list(statuses), "split": "train", "age": 50.0})
    qc = pd.DataFrame({"scan": list(statuses), "status": list(statuses.values()), "head_size": 1.1})
    qc["preproc_t1w"] = [None if status == "fail" else f"{scan}/T1w.nii.gz" for scan, status in statuses.items()]
    qc["template_mask"] = "mask.nii.gz"
    write_table(scans, folder / "scans.tsv")
    write_table(qc, folder / "qc.tsv")
    return folder / "scans.tsv", folder / "qc.tsv"


def test_scans_that_failed_preprocessing_are_left_out(tmp_path):
    tables = write_tables(tmp_path, {"sub-1": "pass", "sub-2": "fail", "sub-3": "warn"})
    usable = usable_scans(*tables, Path("/preproc"))
    assert usable["scan"].tolist() == ["sub-1", "sub-3"]
    assert usable["image"].tolist() == ["/preproc/sub-1/T1w.nii.gz", "/preproc/sub-3/T1w.nii.gz"]
    assert set(usable) == {"scan", "split", "age", "image", "mask"}


def test_a_cohort_that_failed_as_a_whole_is_told(tmp_path):
    with pytest.raises(BrainSCMError, match="failed for every scan"):
        usable_scans(*write_tables(tmp_path, {"sub-1": "fail"}), Path("/preproc"))


def test_the_store_holds_the_scans_and_reads_them_once(tmp_path, monkeypatch):
    scans = write_scans(tmp_path, 3)
    store = VolumeStore.open_or_build(scans, GRID, tmp_path / "work")
    assert store.volumes.shape == store.masks.shape == (3, 1, *GRID.shape)
    expected = nib.load(scans["image"][2]).get_fdata()
    np.testing.assert_allclose(store.volumes[2, 0], expected, atol=5e-4)
    assert np.array_equal(store.masks[2, 0], expected > 0)

    monkeypatch.setattr(volume_store, "read_volume", lambda *_: pytest.fail("decoded again"))
    assert len(VolumeStore.open_or_build(scans, GRID, tmp_path / "work")) == 3


def test_changed_contents_make_another_store(tmp_path):
    scans = write_scans(tmp_path, 3)
    before = content_fingerprint(scans)
    write_image(Path(scans["image"][1]), np.ones(GRID.shape, np.float32))
    assert content_fingerprint(scans) != before
    assert content_fingerprint(scans[:2]) != content_fingerprint(scans)


def test_a_store_that_was_interrupted_is_built_again(tmp_path, monkeypatch):
    scans = write_scans(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(volume_store, "read_mask", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            VolumeStore.open_or_build(scans, GRID, tmp_path / "work")
    store = VolumeStore.open_or_build(scans, GRID, tmp_path / "work")
    assert store.masks[2].any()


def test_scans_prepared_on_a_gpu_come_one_at_a_time(tmp_path):
    scans, running = write_scans(tmp_path, 3), []

    def prepare(volume, mask):
        running.append(1)
        time.sleep(0.05)  # long enough for another to begin, were it allowed to
        assert len(running) == 1
        running.pop()
        return volume, mask

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    VolumeStore.open_or_build(scans, GRID, tmp_path / "work", prepare, "-prepared", torch.device("cuda"))
    torch.set_num_threads(before)


def test_bad_scans_are_told_by_name(tmp_path):
    other = write_image(tmp_path / "other_T1w.nii.gz", np.zeros((8, 8, 8), np.float32))
    moved = write_image(tmp_path / "moved_T1w.nii.gz", np.zeros(GRID.shape, np.float32), np.diag([3.0, 3.0, 4.0, 1.0]))
    nan = write_image(tmp_path / "nan_T1w.nii.gz", np.full(GRID.shape, np.nan, np.float32))
    flat = write_image(tmp_path / "4d_T1w.nii.gz", np.zeros((*GRID.shape, 2), np.float32))
    cut = Path(write_image(tmp_path / "cut_T1w.nii.gz", np.random.default_rng(0).random(GRID.shape, np.float32)))
    cut.write_bytes(cut.read_bytes()[:2000])
    for path, message in [
        (other, r"other_T1w.* 8×8×8 at 3×3×3 mm .*, not 8×8×16 at"),
        (moved, "moved_T1w.* at 3×3×4 mm"),
        (nan, "nan_T1w.* NaN"),
        (flat, "4d_T1w.* 4 dimensions"),
        (cut, "cut_T1w.* cut short"),
        (tmp_path / "absent_T1w.nii.gz", "absent_T1w.* cannot be read"),
    ]:
        with pytest.raises(ScanError, match=message):
            read_volume(path, GRID)


def test_reading_ahead_gives_each_step_its_own_scans_wherever_it_goes_on(tmp_path):
    np.save(tmp_path / "volumes.npy", np.arange(10, dtype=np.float16).reshape(10, 1, 1, 1, 1))
    np.save(tmp_path / "masks.npy", np.ones((10, 1, 1, 1, 1), bool))
    asked: list[int] = []
    two_asked = threading.Event()

    def rows_of(step: int) -> list[int]:
        asked.append(step)
        if len(asked) == 2:
            two_asked.set()
        return [step, 9 - step]

    batches = ReadAhead(VolumeStore(tmp_path), rows_of)
    read = batches.read(4)[0].ravel().tolist()
    assert two_asked.wait(timeout=60)  # nobody has asked for the fifth step yet
    assert asked == [4, 5]
    later = [batches.read(step)[0].ravel().tolist() for step in (5, 6, 2, 3)]
    assert [read, *later] == [[4, 5], [5, 4], [6, 3], [2, 7], [3, 6]]
