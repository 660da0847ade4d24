"""A file of the workflow that was damaged after it was written is named, with what to do, and not used."""

from pathlib import Path

import numpy as np
import pytest
import torch

from brainscm.encoding.model import load_encoder
from brainscm.errors import BrainSCMError
from brainscm.files import read_arrays
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
