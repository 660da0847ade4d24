"""The store that holds the scans that are trained on: what is in it, when it is built again, and how it is read."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from brainscm.alignment.displacement import align
from brainscm.errors import ScanError
from brainscm.images import read_displacement, read_volume, write_displacement
from brainscm.training import volume_store
from brainscm.training.volume_store import ReadAhead, VolumeStore, content_fingerprint
from made_up_scans import GRID, write_image, write_scans

THREE = ["sub-0", "sub-1", "sub-2"]


def test_the_store_holds_the_chosen_scans_and_reads_them_once(tmp_path, monkeypatch):
    scans = write_scans(tmp_path, ["train"] * 4)
    store = VolumeStore.open_or_build(scans, ["sub-3", "sub-1"], tmp_path / "work")
    assert store.volumes.shape == store.masks.shape == (2, 1, *GRID.shape)
    for row, scan in enumerate(["sub-3", "sub-1"]):
        np.testing.assert_allclose(store.volumes[row, 0], scans.volume(scan), atol=5e-4)
        assert np.array_equal(store.masks[row, 0], scans.mask(scan))

    monkeypatch.setattr(volume_store, "_build", lambda *_: pytest.fail("decoded again"))
    assert len(VolumeStore.open_or_build(scans, ["sub-3", "sub-1"], tmp_path / "work")) == 2


def test_aligned_scans_are_stored_as_they_appear_at_the_template(tmp_path):
    scans = write_scans(tmp_path, ["train"] * 3, is_aligned=True)
    store = VolumeStore.open_or_build(scans, THREE, tmp_path / "work", is_aligned=True)
    for row, scan in enumerate(THREE):
        displacement = torch.from_numpy(read_displacement(scans.preproc_dir / f"{scan}_xfm.nii.gz", GRID))
        volume, mask = (torch.from_numpy(part.astype(np.float32)) for part in (scans.volume(scan), scans.mask(scan)))
        np.testing.assert_allclose(store.volumes[row, 0], align(volume, displacement), atol=1e-3)
        assert np.array_equal(store.masks[row, 0], align(mask, displacement) > 0.5)
    assert np.abs(store.volumes[0, 0] - scans.volume("sub-0")).max() > 0.1
    plain = VolumeStore.open_or_build(scans, THREE, tmp_path / "work")
    np.testing.assert_allclose(plain.volumes[0, 0], scans.volume("sub-0"), atol=5e-4)


@pytest.mark.parametrize("file", ["T1w", "mask", "xfm"])
def test_changed_contents_make_another_store(tmp_path, file):
    scans = write_scans(tmp_path, ["train"] * 3, is_aligned=True)
    before = [content_fingerprint(scans, THREE, is_aligned) for is_aligned in (False, True)]
    assert content_fingerprint(scans, THREE[:2], False) != before[0] != before[1]
    path = scans.preproc_dir / f"sub-1_{file}.nii.gz"
    if file == "xfm":
        write_displacement(path, np.ones((3, *(size // 2 for size in GRID.shape))), GRID)
    else:
        write_image(path, np.ones(GRID.shape, np.float32))
    changed = [content_fingerprint(scans, THREE, is_aligned) != old for is_aligned, old in enumerate(before)]
    assert changed == [file != "xfm", True]


def test_a_store_that_was_interrupted_is_built_again(tmp_path):
    scans = write_scans(tmp_path, ["train"] * 3)
    path = scans.preproc_dir / "sub-2_mask.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[:60])
    with pytest.raises(ScanError, match="sub-2_mask"):
        VolumeStore.open_or_build(scans, THREE, tmp_path / "work")
    path.write_bytes(content)
    assert VolumeStore.open_or_build(scans, THREE, tmp_path / "work").masks[2].any()


def test_bad_scans_are_told_by_name(tmp_path):
    other = write_image(tmp_path / "other_T1w.nii.gz", np.zeros((8, 8, 8), np.float32))
    moved = write_image(tmp_path / "moved_T1w.nii.gz", np.zeros(GRID.shape, np.float32), np.diag([3.0, 3.0, 4.0, 1.0]))
    nan = write_image(tmp_path / "nan_T1w.nii.gz", np.full(GRID.shape, np.nan, np.float32))
    flat = write_image(tmp_path / "4d_T1w.nii.gz", np.zeros((*GRID.shape, 2), np.float32))
    cut = write_image(tmp_path / "cut_T1w.nii.gz", np.random.default_rng(0).random(GRID.shape, np.float32))
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


def test_reading_ahead_gives_each_step_its_own_scans_wherever_it_goes_on(tmp_path: Path):
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
