"""A file of the workflow that was damaged after it was written is named, with what to do, and not used."""

import contextlib
import errno
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainscm.encoding.model import load_encoder
from brainscm.errors import BrainSCMError
from brainscm.files import read_arrays, whole
from brainscm.tables import read_table


@pytest.mark.parametrize("content", [b"", b"scan\tage\nsub-1\t20\nsub-2\t30\t40\n", b"scan\n\xff\xfe\n"])
def test_an_empty_or_broken_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scans.tsv"
    path.write_bytes(content)
    with pytest.raises(BrainSCMError, match=r"scans\.tsv: is damaged .*; remove it and run the same command again"):
        read_table(path)


@pytest.mark.parametrize("damage", ["cut short", "empty", "a flipped bit"])
def test_arrays_of_a_fitted_model(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "image_model.npz"
    np.savez(path, coefficients=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    half = bytes(content[: len(content) // 2])
    path.write_bytes({"cut short": half, "empty": b"", "a flipped bit": bytes(content)}[damage])
    with pytest.raises(BrainSCMError, match=r"image_model\.npz: is damaged .*; remove it and run"):
        read_arrays(path)


def test_a_model_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"kind": "vqvae", "weights": torch.arange(1000.0)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BrainSCMError, match=r"model\.pt .*train it again"):
        load_encoder(path)


@pytest.mark.parametrize("free", [0, 2**30])
def test_a_full_disk_is_called_so_whatever_a_library_made_of_it(
    free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))

    def write(content: bytes, error: Exception | None = None) -> None:
        with whole(tmp_path / "made") as partial:
            partial.write_bytes(content)
            if error:
                raise error

    with pytest.raises((OSError, RuntimeError), match="unexpected pos" if free else "No space left on device"):
        write(b"PK", RuntimeError("unexpected pos 64 vs 0"))  # torch
    with contextlib.nullcontext() if free else pytest.raises(OSError, match="No space left on device"):
        write(b"")  # ITK
    assert [path.name for path in tmp_path.iterdir()] == (["made"] if free else [])


def test_a_quota_that_is_used_up_is_called_so_though_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Disk quota exceeded") as raised, whole(tmp_path / "made"):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert (raised.value.errno, raised.value.filename) == (errno.EDQUOT, str(tmp_path))
    assert not list(tmp_path.iterdir())
