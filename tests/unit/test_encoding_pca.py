"""PCA against scikit-learn's, and its limits."""

import numpy as np
import pytest
import torch
from sklearn import decomposition

from brainscm.config import AutoencoderOptions
from brainscm.encoding.model import load_encoder, save_encoder
from brainscm.encoding.pca import PCA
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity

IDENTITY = Identity(template="T", voxel_mm=3, transform="affine")
VOLUMES = np.random.default_rng(0).random((12, 1, 8, 6, 4)).astype(np.float32)


def test_reconstructions_equal_the_reference():
    new = np.random.default_rng(1).random((3, 1, 8, 6, 4)).astype(np.float32)
    reference = decomposition.PCA(5).fit(VOLUMES.reshape(12, -1))
    expected = reference.inverse_transform(reference.transform(new.reshape(3, -1))).reshape(new.shape)
    model = PCA.fit(VOLUMES, 5)
    latents = model.encode(torch.from_numpy(new))
    assert latents.shape == (3, *model.latent_shape) == (3, 5, 1, 1, 1)
    np.testing.assert_allclose(model.decode(latents).numpy(), expected, atol=1e-5)
    assert torch.equal(model.quantize(latents), latents)


def test_components_are_orthonormal_and_do_not_depend_on_the_order_of_scans():
    model, shuffled = PCA.fit(VOLUMES, 4), PCA.fit(VOLUMES[::-1].copy(), 4)
    torch.testing.assert_close(model.components @ model.components.T, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.components, shuffled.components, atol=1e-4, rtol=0)


def test_a_memory_map_gives_the_same_components(tmp_path):
    path = tmp_path / "volumes.npy"
    np.save(path, VOLUMES)
    assert torch.equal(PCA.fit(np.load(path, mmap_mode="r"), 4).components, PCA.fit(VOLUMES, 4).components)


def test_n_scans_give_at_most_n_minus_1_components_which_hold_them_all():
    model = PCA.fit(VOLUMES, 100)
    assert model.latent_shape == (11, 1, 1, 1)
    volumes = torch.from_numpy(VOLUMES)
    torch.testing.assert_close(model.decode(model.encode(volumes)), volumes, atol=1e-5, rtol=0)


def test_fewer_components_than_were_asked_for_are_told(caplog):
    assert PCA.solve(VOLUMES, AutoencoderOptions(kind="pca", components=11)).latent_shape[0] == 11
    assert not caplog.text
    assert PCA.solve(VOLUMES, AutoencoderOptions(kind="pca", components=20)).latent_shape[0] == 11
    assert "12 training scans give at most 11 components, not 20" in caplog.text


def test_one_scan_is_refused():
    with pytest.raises(BrainSCMError, match="at least 2 training scans"):
        PCA.fit(VOLUMES[:1], 4)


def test_it_survives_its_file(tmp_path):
    model = PCA.fit(VOLUMES, 4)
    save_encoder(model, IDENTITY, tmp_path / "model.pt")
    loaded = load_encoder(tmp_path / "model.pt")
    assert loaded.kind == "pca"
    assert torch.equal(loaded.encode(torch.from_numpy(VOLUMES)), model.encode(torch.from_numpy(VOLUMES)))
