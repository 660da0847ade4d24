"""The archive of codes: what comes back of a scan, how small it is, and for which model it is."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from test_encoding_aligned import LEVELS, SHAPE, alignment_to, smooth_displacement, texture
from test_encoding_model import OPTIONS, trained_vqvae

from brainscm.encoding.aligned import Aligned
from brainscm.encoding.model import load_encoder, save_encoder
from brainscm.encoding.pca import PCA
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity
from brainscm.images import Grid
from brainscm.latents.archive import Archive, archive_codes, main
from brainscm.latents.store import LatentStore

IDENTITY = Identity(template="T", voxel_mm=3, transform="affine")
SCANS = ("sub-1", "sub-2")
GRID = Grid(SHAPE, np.diag([3.0, 3.0, 3.0, 1.0]), "template")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The model and the latents of two scans, aligned, in a results folder."""
    encoder = Aligned(trained_vqvae(OPTIONS, SHAPE), alignment_to(texture()))
    identity = save_encoder(encoder, IDENTITY, tmp_path / "autoencoder" / "model.pt")
    volumes = torch.stack([texture(seed) for seed in (1, 2)])[:, None]
    latents = encoder.encode(volumes, torch.stack([smooth_displacement(seed, 0.7) for seed in (3, 4)]), [LEVELS] * 2)
    path = tmp_path / "latents" / "latents.zarr"
    with LatentStore.create(path, SCANS, encoder.latent_shape, encoder.layout, identity) as store:
        store[:] = latents.numpy()
    return tmp_path


def archived(results: Path) -> Path:
    path = results / "latents" / "codes.zarr"
    store, encoder = (
        LatentStore.open(path.with_name("latents.zarr")),
        load_encoder(results / "autoencoder" / "model.pt"),
    )
    archive_codes(store, encoder, GRID, path)
    return path


def test_a_scan_comes_back_as_its_codes_say(results: Path) -> None:
    archive = Archive.open(archived(results))
    encoder = load_encoder(results / "autoencoder" / "model.pt")
    store = LatentStore.open(results / "latents" / "latents.zarr")
    for scan in SCANS:
        latents = torch.from_numpy(store.of(scan))[None]
        expected = encoder.to_codes(latents)
        found = archive.of(scan)
        assert found.keys() == expected.keys() == {"displacement", "density", "appearance"}
        assert all(torch.equal(found[name], numbers) for name, numbers in expected.items())
    assert (archive.scans, archive.identity, archive.grid.space) == (SCANS, store.identity, "template")


def test_one_command_writes_the_volumes_where_they_lie(results: Path) -> None:
    path = archived(results)
    main([str(path), str(results / "out"), "--scans", "sub-2"])
    (written,) = (results / "out").iterdir()
    assert written.name == "sub-2_desc-decoded_T1w.nii.gz"
    encoder = load_encoder(results / "autoencoder" / "model.pt")
    expected = encoder.decode(encoder.of_codes(Archive.open(path).of("sub-2")))[0, 0]
    np.testing.assert_allclose(nib.load(written).get_fdata(), expected.numpy(), atol=1e-6)
    np.testing.assert_array_equal(nib.load(written).affine, GRID.affine)


def test_all_scans_are_written_unless_some_are_named(results: Path) -> None:
    main([str(archived(results)), str(results / "out")])
    assert {path.name.split("_")[0] for path in (results / "out").iterdir()} == set(SCANS)


def test_the_codes_of_another_model_are_not_decoded(results: Path) -> None:
    path = archived(results)
    other = results / "other.pt"
    save_encoder(Aligned(trained_vqvae(OPTIONS, SHAPE), alignment_to(texture(5))), IDENTITY, other)
    with pytest.raises(SystemExit, match="of two different models"):
        main([str(path), str(results / "out"), "--model", str(other)])


@pytest.mark.parametrize("given", [["--scans", "sub-9"], []], ids=["another scan", "no archive"])
def test_what_is_not_there_is_told_in_one_sentence(results: Path, given: list[str]) -> None:
    path = archived(results) if given else results / "nothing.zarr"
    with pytest.raises(SystemExit, match="does not hold it" if given else "not an archive of codes"):
        main([str(path), str(results / "out"), *given])


def test_a_number_that_would_not_fit_is_refused(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Aligned, "to_codes", lambda *_: {"displacement": torch.full((1, 3), 1 << 16)})
    with pytest.raises(BrainSCMError, match="sub-1: a number of its displacement does not fit"):
        archived(results)


def test_common_codes_take_fewer_bits_than_rare_ones(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as their entropy, or nearly: `bits_per_voxel` counts on that."""
    numbers = np.random.default_rng(0).normal(5, 1, (1, 4, 40, 40, 40)).round().clip(0).astype(int)
    monkeypatch.setattr(Aligned, "to_codes", lambda *_: {"appearance": torch.from_numpy(numbers)})
    folder = archived(results) / "appearance" / "c"
    one_scan = next(file for file in folder.rglob("*") if file.is_file())
    entropy = 2.1  # bits, of a standard normal number that is rounded
    assert 8 * one_scan.stat().st_size / numbers.size < 1.1 * entropy


def test_an_encoder_without_codes_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    encoder = PCA.fit(np.random.default_rng(0).random((4, 1, *SHAPE), np.float32), 2)
    with LatentStore.create(tmp_path / "l.zarr", SCANS, encoder.latent_shape, encoder.layout, IDENTITY) as store:
        store[:] = 0
    with pytest.raises(BrainSCMError, match="has no codes"):
        archive_codes(LatentStore.open(tmp_path / "l.zarr"), encoder, GRID, tmp_path / "codes.zarr")
    assert not (tmp_path / "codes.zarr").exists()
