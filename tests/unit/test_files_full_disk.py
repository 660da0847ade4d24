"""On a real file system without room, or one that is read-only, nothing half written stays and the error says why."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from brainscm.encoding.layout import Layout
from brainscm.errors import ConfigError
from brainscm.files import whole, write_text
from brainscm.identity import Identity
from brainscm.images import Image, write_image
from brainscm.latents.store import LatentStore
from brainscm.tables import write_table
from brainscm.workflow.config_loading import load_config
from workflows import ROOT

NUMBERS = np.random.default_rng(0).standard_normal((40, 64, 64), dtype=np.float32)  # 640 KB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True).returncode != 0:
        pytest.skip("NO MOUNT: a small file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # a library may hold its unfinished file open


def write_latents(path: Path) -> None:
    identity = Identity(template="Made up", voxel_mm=2.0, transform="affine")
    with LatentStore.create(path, ["sub-1"], NUMBERS.shape, Layout((len(NUMBERS),)), identity) as latents:
        latents[0] = NUMBERS


def write_state(path: Path) -> None:
    with whole(path) as partial:
        torch.save({"weights": torch.from_numpy(NUMBERS)}, partial)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("sub-1_T1w.nii.gz", lambda path: write_image(path, Image(NUMBERS, np.eye(4)), "template")),
        ("state.pt", write_state),
        ("latents.zarr", write_latents),
        ("regions.tsv", lambda path: write_table(pd.DataFrame({"change": NUMBERS.ravel()}), path)),
        ("sub-1.html", lambda path: write_text(path, "x" * NUMBERS.nbytes)),
    ],
    ids=["image", "training", "latents", "table", "page"],
)
def test_a_full_disk_is_told_and_leaves_nothing(disk: Path, name: str, write: Callable[[Path], None]) -> None:
    with pytest.raises(OSError, match="No space left on device") as raised:
        write(disk / name)
    assert raised.value.errno == errno.ENOSPC
    assert list(disk.iterdir()) == []


def test_results_that_are_read_only_are_refused_before_any_work_and_named_within_it(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(ConfigError, match=f"config: output_dir: {disk} is not writable, so {disk}/results cannot"):
        load_config(ROOT, {"output_dir": str(disk / "results")})
    with pytest.raises(OSError, match="Read-only file system") as raised:
        write_text(disk / "qc.tsv", "")
    assert raised.value.errno == errno.EROFS
