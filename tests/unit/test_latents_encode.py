"""The store of latents: the right rows, the same alone as in company, never half written."""

import numpy as np
import pytest
import torch
import zarr
from test_encoding_model import OPTIONS, trained_vqvae
from test_training_volume_store import GRID, write_scans

from brainscm.encoding.layout import Mirror
from brainscm.errors import ScanError
from brainscm.images import read_volume
from brainscm.latents.encode import encode_scans, stored_mirror

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return trained_vqvae(OPTIONS, GRID.shape)


def test_rows_follow_the_scans(tmp_path, model):
    scans = write_scans(tmp_path, 3).iloc[[2, 0, 1]]
    encode_scans(scans, model, GRID, tmp_path / "latents.zarr", "hash", CPU)
    group = zarr.open_group(tmp_path / "latents.zarr", mode="r")
    assert group.attrs["scans"] == ["sub-2", "sub-0", "sub-1"]
    assert group.attrs["model_sha256"] == "hash"
    assert group.attrs["mirror"] is None
    latents = group["latents"]
    assert latents.shape == (3, *model.latent_shape)
    assert latents.chunks == (1, *model.latent_shape)
    assert latents.dtype == np.float32
    volume = torch.from_numpy(read_volume(scans["image"].iloc[0], GRID))[None, None]
    assert np.array_equal(latents[0], model.encode(volume)[0].numpy())


def test_the_store_says_what_a_mirrored_latent_is(tmp_path, model):
    model.mirror = Mirror([1, 0], [-1, 1])
    encode_scans(write_scans(tmp_path, 1), model, GRID, tmp_path / "latents.zarr", "hash", CPU)
    assert stored_mirror(zarr.open_group(tmp_path / "latents.zarr", mode="r")) == model.mirror


def test_a_scan_alone_has_the_same_latent_as_in_company(tmp_path, model):
    scans = write_scans(tmp_path, 3)
    encode_scans(scans, model, GRID, tmp_path / "all.zarr", "hash", CPU)
    encode_scans(scans[1:2], model, GRID, tmp_path / "one.zarr", "hash", CPU)
    alone, company = (zarr.open_group(tmp_path / name, mode="r")["latents"] for name in ("one.zarr", "all.zarr"))
    assert np.array_equal(alone[0], company[1])


def test_a_failure_leaves_no_store_behind_and_the_next_run_mends_it(tmp_path, model):
    scans = write_scans(tmp_path, 2)
    path, image = tmp_path / "latents.zarr", tmp_path / "sub-1_T1w.nii.gz"
    content = image.read_bytes()
    image.write_bytes(content[:100])
    with pytest.raises(ScanError, match="sub-1_T1w"):
        encode_scans(scans, model, GRID, path, "hash", CPU)
    assert not path.exists()
    image.write_bytes(content)
    encode_scans(scans, model, GRID, path, "hash", CPU)
    encode_scans(scans, model, GRID, path, "again", CPU)
    assert zarr.open_group(path, mode="r").attrs["model_sha256"] == "again"
