"""Scans, latents and encoder as later stages open them: whatever does not belong together is found there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_encoding_model import OPTIONS, trained_vqvae

from brainscm.alignment.registration import Alignment
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.model import save_encoder
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity
from brainscm.latents.encode import encode_scans
from brainscm.latents.encoded import EncodedScans
from brainscm.latents.store import LatentStore
from brainscm.tables import read_table, write_table
from brainscm.tissue_levels import TissueLevels
from made_up_scans import GRID, write_scans

IDENTITY = Identity(template="T", voxel_mm=3, transform="affine")


@pytest.fixture
def study(tmp_path: Path) -> Callable[[], EncodedScans]:
    """Three scans, of which one could not be used when they were encoded; opened again at each call."""
    scans = write_scans(tmp_path, ["train", "validation", "test"])
    encoder = trained_vqvae(OPTIONS, GRID.shape)
    identity = save_encoder(encoder, IDENTITY, tmp_path / "model.pt")
    spoilt = scans.leave_out(pd.Series({"sub-1": "spoilt"}))
    encode_scans(spoilt, encoder, identity, tmp_path / "latents.zarr")
    names = ("scans.tsv", "preproc/qc.tsv", "latents.zarr", "model.pt")
    return lambda: EncodedScans.open(*(f"{tmp_path}/{name}" for name in names))


def test_usable_are_the_scans_that_have_a_latent(study: Callable[[], EncodedScans]) -> None:
    encoded = study()
    assert encoded.scans.usable["scan"].tolist() == ["sub-0", "sub-2"]
    assert encoded.scans.unusable["sub-1"] == "it has no latent; run encode_scans again"
    latent = encoded.store.of("sub-2")
    assert encoded.encoder.latent_shape == latent.shape
    assert np.isfinite(latent).all()


def test_a_scan_that_failed_keeps_its_own_reason(study: Callable[[], EncodedScans], tmp_path: Path) -> None:
    path = tmp_path / "preproc" / "qc.tsv"
    failed = {"status": ["pass", "fail", "pass"], "reasons": [None, "no brain found", None]}
    write_table(read_table(path).assign(**failed), path)
    assert study().scans.unusable["sub-1"] == "preprocessing failed: no brain found"


def test_further_scans_are_left_out_with_their_reason(study: Callable[[], EncodedScans]) -> None:
    left = study().leave_out(pd.Series({"sub-0": "no age", "sub-1": "no age"}))
    assert left.scans.usable["scan"].tolist() == ["sub-2"]
    assert left.scans.unusable.tolist() == ["no age", "it has no latent; run encode_scans again", ""]


def test_latents_of_another_encoder_are_refused(study: Callable[[], EncodedScans], tmp_path: Path) -> None:
    save_encoder(trained_vqvae(OPTIONS, (8, 8, 8)), IDENTITY, tmp_path / "model.pt")
    with pytest.raises(BrainSCMError, match=r"latents.zarr and .*model.pt are of two different models; run encode_sca"):
        study()


def test_the_mean_brain_is_as_bright_as_its_scans_are_on_average(tmp_path: Path) -> None:
    scans = write_scans(tmp_path, ["train"] * 3, is_aligned=True)
    encoder = trained_vqvae(OPTIONS, GRID.shape)
    aligned = Aligned(encoder, Alignment(torch.rand(GRID.shape), torch.ones(GRID.shape), 3.0))
    store = LatentStore([], [], aligned.layout, IDENTITY)
    assert EncodedScans(scans, store, aligned).mean_levels(["sub-0", "sub-2"]) == [TissueLevels(0.25, 0.5, 0.81)]
    assert EncodedScans(scans, store, encoder).mean_levels(["sub-0", "sub-2"]) == []
