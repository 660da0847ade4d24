"""Each way in which a file's content or header can mislead ends right, refused or told."""

import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscm.errors import ScanError
from brainscm.preprocess.nifti import read_nifti

SHAPE = (20, 24, 22)
SCANNER = np.diag([3.0, 3.0, 3.0, 1.0])
SCANNER[:3, 3] = (-30, -36, -33)
SCALED = np.diag([3.3, 3.3, 3.3, 1.0])  # a third more volume
FLIPPED = np.diag([-3.0, 3.0, 3.0, 1.0])
TURNED = np.diag([-3.0, -3.0, 3.0, 1.0])  # as where one form is written for axes that point the other way
NODDED = np.array([[3, 0, 0, -30], [0, 2.9, -0.78, -36], [0, 0.78, 2.9, -33], [0, 0, 0, 1]])  # by 15 degrees
SINGULAR = np.zeros((4, 4))


def noise() -> np.ndarray:
    return np.random.default_rng(1).integers(1, 1000, SHAPE).astype(np.int16)


def image(
    sform: tuple[np.ndarray, int] | None, qform: tuple[np.ndarray, int] | None, data: np.ndarray | None = None
) -> nib.Nifti1Image:
    """An image whose header holds these two forms with these codes."""
    made = nib.Nifti1Image(noise() if data is None else data, None)
    made.header.set_zooms((3.0,) * made.ndim)
    if qform is not None:
        made.header.set_qform(qform[0], 1)
        made.header["qform_code"] = qform[1]
    if sform is not None:
        made.header["srow_x"], made.header["srow_y"], made.header["srow_z"] = sform[0][:3]
        made.header["sform_code"] = sform[1]
    return made


def save(made: nib.Nifti1Image, folder: Path) -> Path:
    path = folder / "sub-01_T1w.nii.gz"
    path.write_bytes(gzip.compress(made.to_bytes(), mtime=0))
    return path


def test_no_flipped_bit_of_a_compressed_file_passes(tmp_path: Path) -> None:
    path = save(image((SCANNER, 1), (SCANNER, 1)), tmp_path)
    whole = path.read_bytes()
    for position in np.random.default_rng(2).integers(20, len(whole), 40):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(position) % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(ScanError, match="cannot be read"):
            read_nifti(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="truncated"):
        read_nifti(path)


def test_the_hash_is_that_of_the_file_on_the_disk(tmp_path: Path) -> None:
    path = save(image((SCANNER, 1), None), tmp_path)
    assert read_nifti(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_content_decides_whether_a_file_is_compressed(tmp_path: Path) -> None:
    made = image((SCANNER, 1), None)
    plain, packed = tmp_path / "sub-01_T1w.nii.gz", tmp_path / "sub-01_T1w.nii"
    plain.write_bytes(made.to_bytes())
    packed.write_bytes(gzip.compress(made.to_bytes()))
    for path in (plain, packed):
        np.testing.assert_array_equal(read_nifti(path).data, noise())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04 and more", "zip archive; unpack it"),
        (b"<!DOCTYPE html>", "a web page"),
        (gzip.compress(b"\x00\x00\x00\x01" + bytes(400), mtime=0), "mri_convert"),
        (bytes(128) + b"DICM" + bytes(400), "dicom_dir"),
        (b"/annex/objects/MD5E-s1--a.nii.gz", "datalad get"),
        (b"\x04\x22\x4d\x18 or else", "of another kind"),
        (b"404: Not Found", "text \\('404: Not Found"),
        (b"Rar!\x1a\x07", "rar archive"),
        (b"<?xml version='1.0'?><GIFTI>", "GIFTI"),
        (gzip.compress(b"sub-01_T1w.nii".ljust(257, b"\0") + b"ustar  ".ljust(400, b"\0"), mtime=0), "tar archive"),
        (gzip.compress(b"", mtime=0), "holds nothing"),
        (nib.Nifti1Image(np.zeros((20, 24), np.int16), None).to_bytes(), "one 3D volume"),
        (gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "compressed twice"),
        ((348).to_bytes(4, "little") + bytes(344), "ANALYZE"),
    ],
)
def test_what_is_no_nifti_is_called_by_its_name(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.write_bytes(content)
    with pytest.raises(ScanError, match=told) as refusal:
        read_nifti(path)
    assert "truncated" not in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), "colour picture"),
        (np.zeros(SHAPE, np.complex64), "complex numbers"),
    ],
)
def test_colours_and_complex_numbers_are_refused_as_such(data: np.ndarray, told: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=told):
        read_nifti(save(image((SCANNER, 1), None, data), tmp_path))


def test_where_the_voxels_begin_is_told_if_the_header_does_not_say_it(tmp_path: Path) -> None:
    content = bytearray(image((SCANNER, 1), None).to_bytes())
    content[108:112] = bytes(4)
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.write_bytes(gzip.compress(bytes(content)))
    file = read_nifti(path)
    np.testing.assert_array_equal(file.data, noise())
    assert "where its voxels begin" in file.notes[0]


@pytest.mark.parametrize(
    ("at", "value", "advice"),
    [(70, 1, "convert it again"), (70, 777, "convert it again"), (42, -40, "convert it again"), (42, 400, "truncated")],
)
def test_a_header_that_cannot_be_right_is_not_called_a_cut_file(
    at: int, value: int, advice: str, tmp_path: Path
) -> None:
    """A type of voxels that nobody reads, one that is none, a negative size; and a size that the file has not."""
    content = bytearray(image((SCANNER, 1), None).to_bytes())
    content[at : at + 2] = value.to_bytes(2, "little", signed=True)
    path = tmp_path / "sub-01_T1w.nii"
    path.write_bytes(bytes(content))
    with pytest.raises(ScanError, match=advice) as refusal:
        read_nifti(path)
    assert ("truncated" in str(refusal.value)) == (advice == "truncated")


@pytest.mark.parametrize(("unit", "times"), [("meter", 0.001), ("micron", 1000.0), ("meter", 1.0), ("mm", 1.0)])
def test_units_are_read_as_the_header_says_unless_that_cannot_be(unit: str, times: float, tmp_path: Path) -> None:
    made = image((np.diag([times] * 3 + [1]) @ SCANNER, 1), None)
    made.header.set_xyzt_units(unit)
    file = read_nifti(save(made, tmp_path))
    np.testing.assert_allclose(file.affine, SCANNER, rtol=1e-5)
    assert any("not in millimetres" in note for note in file.notes) == (times != 1)


def test_more_voxels_than_the_header_names_are_told(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_T1w.nii"
    path.write_bytes(image((SCANNER, 1), None).to_bytes() + noise().tobytes())
    assert "more than its header says" in read_nifti(path).notes[0]


def test_axes_of_length_one_are_squeezed(tmp_path: Path) -> None:
    made = image((SCANNER, 1), None, noise()[..., None, None])
    assert read_nifti(save(made, tmp_path)).data.shape == SHAPE


@pytest.mark.parametrize(
    ("sform", "qform", "taken", "told"),
    [
        ((SCANNER, 1), (SCANNER, 1), "sform (scanner)", None),
        ((SCANNER, 2), (SCANNER, 1), "qform (scanner)", None),
        ((SCALED, 4), (SCANNER, 1), "qform (scanner)", "disagree on the size"),
        ((SCALED, 2), (SCANNER, 2), "qform (aligned)", "disagree on the size"),
        ((FLIPPED, 1), (SCANNER, 1), "sform (scanner)", "left and right"),
        ((TURNED, 1), (SCANNER, 1), "sform (scanner)", "where the head is turned"),
        ((NODDED, 2), (SCANNER, 1), "qform (scanner)", None),
        ((SINGULAR, 1), (SCANNER, 1), "qform (scanner)", "sform is singular"),
        ((SCANNER, 4), (SCANNER, 4), "sform (mni)", "coordinates are a template's"),
        ((SCALED, 1), None, "sform (scanner)", "another size than its pixdim"),
        ((SCANNER, 0), None, "sform (unknown)", "left and right may be exchanged"),
        (None, (SCANNER, 0), "qform (unknown)", "left and right may be exchanged"),
        (None, None, "pixdim (unknown)", "left and right may be exchanged"),
    ],
)
def test_the_scanners_form_wins_and_what_disagrees_is_told(
    sform: tuple[np.ndarray, int] | None,
    qform: tuple[np.ndarray, int] | None,
    taken: str,
    told: str | None,
    tmp_path: Path,
) -> None:
    found = read_nifti(save(image(sform, qform), tmp_path))
    assert found.orientation == taken
    assert (told is None and not found.notes) or any(told is not None and told in note for note in found.notes)
    if not taken.startswith("pixdim"):
        form = sform if taken.startswith("sform") else qform
        assert form is not None
        np.testing.assert_allclose(found.affine, form[0], atol=1e-4)


def test_a_header_without_any_usable_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="no usable orientation"):
        read_nifti(save(image((SINGULAR, 1), None), tmp_path))
