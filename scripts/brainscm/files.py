"""Every file appears whole or not at all, under its BIDS name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

import brainscm
from brainscm.errors import NO_ROOM, BrainSCMError, one_line

BIDS_VERSION = "1.10.0"
LEAST_ROOM = 2**20  # bytes free on a disk that is not full


@contextmanager
def whole(path: Path, shared: bool = False) -> Iterator[Path]:
    """Give a name to write to, file or folder, and move what was written there to `path` at the end.

    A killed job leaves the old file or the new one, never half of it; a failed block leaves the old one. The name ends
    as that of `path` does, since some libraries choose the format by it.

    Args:
        shared: several jobs may write `path` at the same time; the last one's stays. Otherwise what an earlier, killed
            job has left unfinished is removed.

    Raises:
        OSError: the disk is full or a quota used up, whatever the block made of that: libraries call it otherwise, or
            leave an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.partial")
    if shared:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    partial = folder / path.name
    try:
        try:
            yield partial
        except Exception as error:
            _check_room(partial, error)
            raise
        if partial.is_file() and partial.stat().st_size == 0:
            _check_room(partial)
        if partial.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_room(path: Path, cause: Exception | None = None) -> None:
    """Raise the error of a full disk, or of a quota that is used up, where nothing more can be written."""
    folder = path.parent.parent
    if shutil.disk_usage(path.parent).free < LEAST_ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from cause
    try:  # of a quota the disk itself knows nothing
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(LEAST_ROOM))
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OSError(error.errno, os.strerror(error.errno), str(folder)) from cause


def share(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk knows but one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def damaged(path: Path | str, error: Exception) -> BrainSCMError:
    """The error of a file that the workflow has written and that cannot be read any more."""
    return BrainSCMError(
        f"{path}: is damaged ({type(error).__name__}: {one_line(error)}); remove it and run the same command again."
    )


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` archive, by name; their checksums are compared.

    Raises:
        BrainSCMError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (BadZipFile, ValueError, EOFError, zlib.error) as error:
        raise damaged(path, error) from error


def write_text(path: Path, text: str) -> None:
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON as people read it; NaN and infinity, which JSON does not know, are an error."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan_folder(scan: str) -> Path:
    """Where a BIDS dataset keeps the anatomical images of a scan (`sub-X` or `sub-X_ses-Y`): `sub-X/[ses-Y/]anat`."""
    return Path(scan.replace("_", "/"), "anat")


def derivative_name(scan: str, entities: Mapping[str, str], suffix: str) -> str:
    """The name, without an ending, of a file derived from a scan: `sub-X_[ses-Y_]<key>-<value>_…_<suffix>`."""
    return "_".join([scan, *(f"{key}-{value}" for key, value in entities.items()), suffix])


def reconstruction_name(scan: str) -> str:
    """The file of what an autoencoder makes of a scan."""
    return f"{derivative_name(scan, {'desc': 'reconstruction'}, 'T1w')}.nii.gz"


def sidecar(path: Path) -> Path:
    """The JSON file that tells of an image: the same name with its own ending."""
    return path.with_name(path.name.removesuffix(".gz").rsplit(".", 1)[0] + ".json")


def space_fields(template: str, voxel_mm: float) -> dict[str, str]:
    """What BIDS asks of the side-car of an image on a template's grid, whose name has `space-` and `res-`."""
    return {"SpatialReference": template, "Resolution": f"{voxel_mm:g} mm isotropic"}


def bids_uri(path: Path, dataset: str) -> str:
    """A file of a dataset as a BIDS URI, `bids:<dataset>:sub-X/…`; DatasetLinks says where the dataset lies."""
    parts = path.parts
    first = next((k for k, part in enumerate(parts) if part.startswith("sub-")), len(parts) - 1)
    return f"bids:{dataset}:" + "/".join(parts[first:])


def write_dataset_description(
    folder: Path,
    name: str,
    dataset_type: Literal["raw", "derivative"] = "derivative",
    generated_by: Mapping[str, str] | None = None,
    sources: Mapping[str, Path] | None = None,
    further: Mapping[str, Any] | None = None,
    readme: str = "",
    ignored: Sequence[str] = (),
) -> None:
    """Write the files that make a folder a BIDS dataset: `dataset_description.json`, last, README and `.bidsignore`.

    Args:
        generated_by: name and version of the program; BrainSCM if None.
        sources: the datasets that this one is made from, by the name that BIDS URIs give them, and where they lie (an
            absolute path, or relative to `folder`). Their licence, if they name one, holds for what is made of them.
        further: fields that BIDS does not know.
        ignored: patterns of files that BIDS has no name for. Folders without a slash: the validator does not take
            "status/" for the folder itself.
    """
    if readme:
        write_text(folder / "README", readme)
    if ignored:
        write_text(folder / ".bidsignore", "\n".join(ignored) + "\n")
    program = generated_by or {"Name": "BrainSCM", "Version": brainscm.__version__}
    described: dict[str, Any] = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": dataset_type,
        "GeneratedBy": [dict(program)],
    }
    if sources:
        urls = {name: path.as_uri() if path.is_absolute() else path.as_posix() for name, path in sources.items()}
        told = {name: describe_dataset(folder / path) for name, path in sources.items()}
        dois = {name: {"DOI": str(doi)} if (doi := told[name].get("DatasetDOI")) else {} for name in sources}
        described["DatasetLinks"] = urls
        described["SourceDatasets"] = [{"URL": url} | dois[name] for name, url in urls.items()]
        licences = dict.fromkeys(str(licence) for each in told.values() if (licence := each.get("License")))
        if licences:
            described["License"] = "; ".join(licences)
    write_json(folder / "dataset_description.json", {**described, **(further or {})})


def describe_dataset(dataset: Path) -> dict[str, Any]:
    """What a dataset says of itself; nothing where that cannot be read."""
    return read_description(dataset / "dataset_description.json")


def read_description(path: Path) -> dict[str, Any]:
    """What a JSON file of any origin says, such as a side-car; nothing where there is none that can be read."""
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return described if isinstance(described, dict) else {}
