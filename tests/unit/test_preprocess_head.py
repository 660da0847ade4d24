"""What can be wrong with a raw scan ends in one sentence; what is right lands upright on the working grid."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscm.errors import ScanError
from brainscm.foreground import foreground
from brainscm.preprocess.head import read_scan, working_head

SHAPE = (40, 48, 44)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])


def ball(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    grid = np.indices(shape) - (np.array(shape) / 2).reshape(3, 1, 1, 1)
    data = np.where((grid**2).sum(0) < 15**2, 100, 0).astype(np.float32)
    data[: shape[0] // 2] *= 1.5  # left and right differ
    return data


def save(data: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def broken_scan(kind: str, folder: Path) -> Path:
    path = folder / "sub-01_T1w.nii.gz"
    data = ball()
    if kind == "no such file":
        return path
    if kind == "is empty":
        path.touch()
    elif kind == "cannot be read":
        save(data, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "not gzip":
        path.write_text("a web page that says 404")
    elif kind == "one 3D volume":
        save(np.stack([data] * 3, axis=-1), path)
    elif kind == "every voxel is zero":
        save(data * 0, path)
    elif kind == "the same value":
        save(data * 0 + 7, path)
    elif kind == "NaN":
        data[:20] = np.nan
        save(data, path)
    elif kind == "voxel size":
        save(data, path, np.diag([0.004, 0.004, 0.004, 1.0]))
    elif kind == "slices along one axis":
        save(data[:, :, :3], path)
    elif kind == "field of view":
        save(data[:, :, :16], path, np.diag([4.0, 4.0, 1.0, 1.0]))
    elif kind == "nearly all of it is empty":
        data[:, :, 24:] = 0
        data[:, :, :23] = 0
        save(data, path)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "no such file",
        "is empty",
        "cannot be read",
        "one 3D volume",
        "every voxel is zero",
        "the same value",
        "NaN",
        "voxel size",
        "slices along one axis",
        "field of view",
        "nearly all of it is empty",
    ],
)
def test_unusable_scan_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = broken_scan(kind, tmp_path)
    with pytest.raises(ScanError, match=kind) as refusal:
        read_scan(path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert ";" in message  # what is wrong; what to do


def test_file_that_is_no_nifti_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="cannot be read as NIfTI"):
        read_scan(broken_scan("not gzip", tmp_path))


def test_single_volume_in_four_dimensions_is_taken(tmp_path: Path) -> None:
    path = save(ball()[..., None], tmp_path / "scan.nii.gz")
    assert read_scan(path).data.shape == SHAPE


def test_few_stray_nans_are_taken_for_zero(tmp_path: Path) -> None:
    data = ball()
    data[20, 20, 20] = np.nan
    scan = read_scan(save(data, tmp_path / "scan.nii.gz"))
    assert scan.data[20, 20, 20] == 0
    assert np.isfinite(scan.data).all()


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR", "AIL"])
def test_working_head_is_the_same_whatever_the_orientation_on_disk(axes: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(ball(), AFFINE)
    expected = working_head(read_scan(save(ball(), tmp_path / "ras.nii.gz")))
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(axes))
    nib.save(image.as_reoriented(turn), tmp_path / "turned.nii.gz")
    head = working_head(read_scan(tmp_path / "turned.nii.gz"))
    np.testing.assert_allclose(head.affine, expected.affine)
    np.testing.assert_allclose(head.data, expected.data, atol=1e-3)


def test_working_head_keeps_world_coordinates_of_an_oblique_scan(tmp_path: Path) -> None:
    angle = np.deg2rad(25)
    affine = AFFINE.copy()
    affine[:2, :2] = 4 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:3, 3] = (-30, 12, 55)
    scan = read_scan(save(ball(), tmp_path / "oblique.nii.gz", affine))
    head = working_head(scan)

    def centre(data: np.ndarray, to_world: np.ndarray) -> np.ndarray:
        return nib.affines.apply_affine(to_world, np.argwhere(data > 50).mean(0))

    np.testing.assert_allclose(centre(head.data, head.affine), centre(scan.data, affine), atol=0.7)


def test_foreground_is_the_head_without_holes_or_specks() -> None:
    data = ball()
    data[20, 24, 22] = 0  # a sinus
    data[1, 1, 1] = 100  # a speck in the air
    found = foreground(data)
    assert found[20, 24, 22]
    assert not found[1, 1, 1]
    assert found.sum() == pytest.approx((data > 0).sum(), rel=0.35)


def test_a_background_of_nans_is_background_and_told(tmp_path: Path) -> None:
    data = ball()
    outside = data == 0
    data[outside] = np.nan
    scan = read_scan(save(data, tmp_path / "scan.nii.gz"))
    assert not scan.data[outside].any()
    assert any("NaN or infinite and taken for background" in note for note in scan.notes)


def structured() -> np.ndarray:
    """A head with dark and bright tissue in air that is nearly dark."""
    air = np.random.default_rng(1).uniform(0, 4, SHAPE).astype(np.float32)
    return air + np.where(ball() > 0, 40 + 2 * np.arange(SHAPE[2]), 0)


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (lambda data: (data - data.mean()) / data.std(), "begin at -"),  # standardized
        (lambda data: data / data.max() - 0.5, "begin at -0.5"),  # the uniform image of MP2RAGE
        (lambda data: np.where(structured() > 20, (data - 80) / 30, 0), "begin at -"),  # within a stripped brain
        (lambda data: (data * 450).astype(np.uint16).view(np.int16), "stored as negative"),
        (lambda data: np.where(data > 20, data, -1024), ""),  # a background that says that there is none
        (lambda data: data - 3, ""),  # noise that was taken away
    ],
)
def test_no_tissue_is_lost_below_zero(stored: Callable[[np.ndarray], np.ndarray], told: str, tmp_path: Path) -> None:
    data = structured()
    scan = read_scan(save(stored(data), tmp_path / "scan.nii.gz"))
    head = structured() > 20
    assert np.corrcoef(scan.data[head], data[head])[0, 1] > 0.999
    assert scan.data[head].min() > -0.01 * scan.data.max()
    assert any(told in note for note in scan.notes) if told else not scan.notes
