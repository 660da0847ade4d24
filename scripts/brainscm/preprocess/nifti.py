"""Read a NIfTI that a stranger made: to its end, by its content, and with an orientation that its header agrees on."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from brainscm.errors import ScanError, one_line
from brainscm.tsv import is_fetched

# What files begin with that are no NIfTI but carry its name, and what to do with them.
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "compressed by bzip2; compress it by gzip",
    b"\xfd7zXZ": "compressed by xz; compress it by gzip",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a rar archive; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; compress it by gzip",
    b"<?xml": "XML, perhaps a GIFTI surface; take the scan itself",
    b"<": "a web page, probably an error of a download; fetch it again",
    b"\x89PNG": "a picture; take the scan itself",
    b"\xff\xd8\xff": "a picture; take the scan itself",
    b"\x00\x00\x00\x01": "FreeSurfer's MGH or MGZ; convert it by mri_convert",
    b"\x89HDF": "MINC or another HDF5 file; convert it to NIfTI",
    b"CDF": "MINC; convert it to NIfTI",
    b"\x1f\x8b": "compressed twice; decompress it once",
    b"NRRD": "NRRD; convert it to NIfTI",
}
HEADERS = {348: nib.Nifti1Image, 540: nib.Nifti2Image}  # by the header's first number, its own size
QUATERNION = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
SCANNER_CODE, TEMPLATE_CODE = 1, 3  # a form with this code is the scanner's; from there on, it is a template's
TAR = slice(257, 262)  # where a tar archive says that it is one
MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # of metres and micrometres, by their code in a header
VOXEL_MM = (0.1, 10.0)  # edges beyond are none of a head's image
SLACK = 1024  # bytes behind the image that mean nothing
OFFSET = slice(108, 112)  # of a NIfTI-1 header: where in the file the image begins
SAME_SIZE = 0.02  # relative difference of voxel edges that rounding explains
SAME_WAY = 0.87  # cosine of 30 degrees: more than a scan is turned to lie straight


@dataclass(frozen=True)
class NiftiFile:
    """What one file holds.

    Attributes:
        data: float32 on its own grid; axes of length one beyond the third are gone.
        affine: voxel to world (4, 4), mm, RAS+.
        orientation: which part of the header the affine is from.
        sha256: of the file as it lies on the disk.
        notes: sentences about what is odd.
    """

    data: np.ndarray
    affine: np.ndarray
    orientation: str
    sha256: str
    notes: tuple[str, ...]


def read_nifti(path: Path) -> NiftiFile:
    """Read one NIfTI, compressed or not, whatever its name says of that.

    All of a compressed file is read, so that its checksum counts: a flipped bit is found.

    Raises:
        ScanError: one sentence with the path, what is wrong, and what to do.
    """
    if not path.is_file() and not path.is_symlink():
        raise ScanError(f"{path}: no such file; restore it, or remove the scan from the BIDS folder")
    if not is_fetched(path):
        raise ScanError(f"{path}: its content is not there; fetch it (for DataLad: `datalad get`)")
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror}); mend its permissions or the disk") from error
    if not stored:
        raise ScanError(f"{path}: the file is empty (0 bytes); copy or convert it again")
    content = _uncompressed(path, stored)
    if not content:
        raise ScanError(f"{path}: holds nothing; copy or convert it again")
    image, notes = _image(path, content)
    dtype = image.get_data_dtype()
    if dtype.kind == "c":
        raise ScanError(f"{path}: holds complex numbers; take the magnitude image")
    if dtype.names:
        raise ScanError(f"{path}: is a colour picture (a rendering or a map), not a T1w; take the scan itself")
    try:
        data = np.asanyarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # nibabel's own depend on where the content ends
        needed = image.dataobj.offset + int(np.prod(np.maximum(image.shape, 0), dtype=np.int64)) * dtype.itemsize
        told = "it is truncated, copy it again" if len(content) < needed else "convert it again"
        raise ScanError(f"{path}: cannot be read as NIfTI ({one_line(error)}); {told}") from error
    if data.ndim < 3:
        raise ScanError(f"{path}: has shape {data.shape}, a T1w is one 3D volume; convert it again from DICOM")
    beyond = len(content) - image.dataobj.offset - data.size * dtype.itemsize
    if beyond > SLACK:
        notes.append(f"{path.name}: holds {beyond} bytes more than its header says; look whether a part is missing")
    affine, orientation, told_of_orientation = _orientation(path, image.header)
    per_unit = MM_PER_UNIT.get(int(image.header["xyzt_units"]) & 7, 1.0)
    if per_unit != 1 and not VOXEL_MM[0] < voxel_sizes(affine).max() < VOXEL_MM[1]:
        affine = np.diag([per_unit] * 3 + [1.0]) @ affine
        told_of_orientation.append(f"{path.name}: its header is not in millimetres, and is read as it says")
    # Squeezed only beyond the third, since the affine speaks of the first three.
    data = data.reshape(data.shape[:3] + tuple(n for n in data.shape[3:] if n != 1))
    return NiftiFile(data, affine, orientation, hashlib.sha256(stored).hexdigest(), (*notes, *told_of_orientation))


def _uncompressed(path: Path, stored: bytes) -> bytes:
    if not stored.startswith(b"\x1f\x8b"):
        return stored
    try:
        return gzip.decompress(stored)
    except EOFError as error:
        raise ScanError(f"{path}: cannot be read to its end: it is truncated; copy it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ScanError(
            f"{path}: cannot be read to its end ({one_line(error)}): it is damaged; copy it again"
        ) from error


def _image(path: Path, content: bytes) -> tuple[Any, list[str]]:
    """The content as nibabel's image, and what to know of it; or what it is instead."""
    size = {int.from_bytes(content[:4], order): order for order in ("little", "big")}
    kind = next((HEADERS[number] for number in size if number in HEADERS), None)
    if kind is None:
        told = next((told for start, told in OTHER_FORMATS.items() if content.lstrip()[:8].startswith(start)), None)
        if content[128:132] == b"DICM":
            told = "DICOM; give its folder as dicom_dir"
        elif content[TAR] == b"ustar":
            told = "a tar archive; unpack it"
        elif not told and content[:64].isascii() and content[:64].decode().isprintable():
            told = f"text ('{content[:30].decode()}…'), probably an error of a download; fetch it again"
        raise ScanError(f"{path}: cannot be read as NIfTI: it is {told or 'of another kind; copy or convert it again'}")
    if kind is nib.Nifti1Image and content[344:347] != b"n+1":
        raise ScanError(f"{path}: is an ANALYZE header or half of a pair .hdr and .img; convert it to one .nii.gz")
    notes = []
    if kind is nib.Nifti1Image and not any(content[OFFSET]):
        # nibabel would take the header for the first voxels, and shift all others.
        order = size[kind.header_class.sizeof_hdr]
        begins = np.array(kind.header_class.single_vox_offset, "<f4" if order == "little" else ">f4")
        content = content[: OFFSET.start] + begins.tobytes() + content[OFFSET.stop :]
        notes.append(f"{path.name}: its header does not say where its voxels begin: they are read from behind it")
    try:
        return kind.from_bytes(content), notes
    except Exception as error:
        told = "its header is damaged, or of a kind that is not read; convert it again"
        if len(content) < kind.header_class.sizeof_hdr + 4:
            told = "it is truncated, copy it again"
        raise ScanError(f"{path}: cannot be read as NIfTI ({one_line(error)}); {told}") from error


def _orientation(path: Path, header: Any) -> tuple[np.ndarray, str, list[str]]:
    """The affine, which of the header's two forms it is, and what to know of it.

    The scanner's form wins: a form of another space may have been scaled to a template. Where both or neither are the
    scanner's, the sform is taken, unless its voxels have another size than the header says elsewhere.

    Raises:
        ScanError: the header says how the head lies, but not in a way that can be.
    """
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    forms = {name: form for name in codes if (form := _form(header, name)) is not None}
    zooms = np.asarray(header.get_zooms()[:3], float)
    coded = [name for name in forms if codes[name] > 0]
    if not coded:
        if any(codes.values()):
            raise ScanError(
                f"{path}: its header has no usable orientation (singular affine); convert it again from DICOM"
            )
        return _guess(path, header, forms, zooms)
    taken = min(
        coded, key=lambda name: (codes[name] != SCANNER_CODE, not _same_size(forms[name], zooms), name != "sform")
    )
    label = nib.nifti1.xform_codes.label[codes[taken]]
    notes = []
    if codes[taken] >= TEMPLATE_CODE:
        notes.append(
            f"{path.name}: its coordinates are a template's ({label}): if it was scaled to it, all volumes are, too"
        )
    for name in {"sform", "qform"} - {taken}:
        if codes[name] > 0 and name not in forms:
            notes.append(f"{path.name}: its {name} is singular; its {taken} is used")
        elif name in coded and not _agree(forms[name], forms[taken]):
            notes.append(
                f"{path.name}: sform and qform disagree on the size of the voxels, on left and right, or on where the "
                f"head is turned; its {taken} ({label}) is used"
            )
    if len(coded) == 1 and not notes and not _same_size(forms[taken], zooms):
        notes.append(f"{path.name}: its {taken} has voxels of another size than its pixdim; its {taken} is used")
    return forms[taken], f"{taken} ({label})", notes


def _guess(
    path: Path, header: Any, forms: dict[str, np.ndarray], zooms: np.ndarray
) -> tuple[np.ndarray, str, list[str]]:
    """An orientation for a header that names none: what stands there without a name, else as ANALYZE had it."""
    unlabelled = [name for name, form in forms.items() if _same_size(form, zooms)]
    taken = unlabelled[0] if unlabelled else "pixdim"
    affine = forms[taken] if unlabelled else header.get_base_affine()
    told = f"{path.name}: its header does not say how the head lies (both codes are 0): its {taken} is used"
    return affine, f"{taken} (unknown)", [f"{told}, left and right may be exchanged"]


def _form(header: Any, name: str) -> np.ndarray | None:
    """A form of the header, whatever its code; None if it is empty or singular."""
    if name == "qform" and int(header["qform_code"]) == 0 and not any(float(header[field]) for field in QUATERNION):
        return None
    try:
        form = np.asarray(header.get_sform() if name == "sform" else header.get_qform(), float)
    except (HeaderDataError, ValueError):
        return None
    edges = voxel_sizes(form)
    if not np.isfinite(form).all() or edges.min() <= 0 or abs(np.linalg.det(form[:3, :3] / edges)) < 0.1:
        return None
    return form


def _same_size(form: np.ndarray, zooms: np.ndarray) -> bool:
    return bool(np.allclose(voxel_sizes(form), zooms, rtol=SAME_SIZE))


def _agree(form: np.ndarray, other: np.ndarray) -> bool:
    axes, others = (matrix[:3, :3] / voxel_sizes(matrix) for matrix in (form, other))
    same_hand = np.linalg.det(axes) * np.linalg.det(others) > 0
    same_way = (axes * others).sum(0).min() > SAME_WAY
    return bool(same_hand and same_way) and _same_size(form, voxel_sizes(other))
