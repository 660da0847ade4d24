"""The store of latents: the right rows, the same alone as in company, never half written."""

import numpy as np
import pytest
import torch
from test_encoding_model import OPTIONS, trained_vqvae
from test_training_volume_store import GRID, write_scans

from brainscm.encoding.layout import Layout, Mirror
from brainscm.errors import ScanError
from brainscm.identity import Identity
from brainscm.images import read_volume
from brainscm.latents.encode import encode_scans
from brainscm.latents.store import LatentStore

IDENTITY = Identity(template="T", voxel_mm=4, transform="affine", encoder="hash")

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return trained_vqvae(OPTIONS, GRID.shape)


def test_rows_follow_the_scans(tmp_path, model):
    scans = write_scans(tmp_path, 3).iloc[[2, 0, 1]]
    encode_scans(scans, model, GRID, tmp_path / "latents.zarr", IDENTITY, CPU)
    store = LatentStore.open(tmp_path / "latents.zarr")
    assert store.scans == ("sub-2", "sub-0", "sub-1")
    assert store.identity == IDENTITY
    assert store.layout == model.layout
    latents = store.latents
    assert latents.shape == (3, *model.latent_shape)
    assert latents.chunks == (1, *model.latent_shape)
    assert latents.dtype == np.float32
    volume = torch.from_numpy(read_volume(scans["image"].iloc[0], GRID))[None, None]
    assert np.array_equal(latents[0], model.encode(volume)[0].numpy())


def test_the_store_says_what_a_mirrored_latent_is(tmp_path, model):
    model.layout = Layout(model.layout.parts, Mirror([1, 0], [-1, 1]))
    encode_scans(write_scans(tmp_path, 1), model, GRID, tmp_path / "latents.zarr", IDENTITY, CPU)
    assert LatentStore.open(tmp_path / "latents.zarr").layout == model.layout


def test_a_scan_alone_has_the_same_latent_as_in_company(tmp_path, model):
    scans = write_scans(tmp_path, 3)
    encode_scans(scans, model, GRID, tmp_path / "all.zarr", IDENTITY, CPU)
    encode_scans(scans[1:2], model, GRID, tmp_path / "one.zarr", IDENTITY, CPU)
    alone, company = (LatentStore.open(tmp_path / name).latents for name in ("one.zarr", "all.zarr"))
    assert np.array_equal(alone[0], company[1])


def test_a_failure_leaves_no_store_behind_and_the_next_run_mends_it(tmp_path, model):
    scans = write_scans(tmp_path, 2)
    path, image = tmp_path / "latents.zarr", tmp_path / "sub-1_T1w.nii.gz"
    content = image.read_bytes()
    image.write_bytes(content[:100])
    with pytest.raises(ScanError, match="sub-1_T1w"):
        encode_scans(scans, model, GRID, path, IDENTITY, CPU)
    assert not path.exists()
    image.write_bytes(content)
    encode_scans(scans, model, GRID, path, IDENTITY, CPU)
    encode_scans(scans, model, GRID, path, IDENTITY.encoded_by("again"), CPU)
    assert LatentStore.open(path).identity.encoder == "again"
