"""Deformable alignment: registration, displacements, and the autoencoder that works on aligned scans."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from brainscm.autoencoder.aligned import Aligned, align, split
from brainscm.autoencoder.alignment import Alignment, inverse, resample, spread, voxels
from brainscm.autoencoder.model import load_autoencoder, save_autoencoder
from brainscm.autoencoder.pca import PCA
from brainscm.config import AutoencoderOptions
from brainscm.counterfactuals.decoding import Factual, residual

SHAPE = (32, 32, 24)


def texture(seed: int = 0) -> Tensor:
    """A brain-like ball of tissue with structures a few voxels wide."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.8)
    distance = (voxels(SHAPE, torch.device("cpu")) - torch.tensor([16.0, 16, 12])[:, None, None, None]).norm(dim=0)
    ball = torch.sigmoid(1.5 * (9 - distance))
    return (ball * (0.7 + torch.from_numpy(noise / noise.std()) * 0.15)).float()


def smooth_displacement(seed: int, voxels_rms: float, width: float = 3.0) -> Tensor:
    """(3, x/2, y/2, z/2)."""
    half = [size // 2 for size in SHAPE]
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(3, *half)), (0, width, width, width))
    return torch.from_numpy(field / field.std() * voxels_rms).float()


@pytest.fixture
def alignment() -> Alignment:
    target = texture()
    return Alignment(target, (target > 0.2).float(), voxel_mm=3.0)


@pytest.fixture
def aligned(alignment: Alignment) -> Aligned:
    scans = torch.stack([align(texture(), smooth_displacement(seed, 0.7)) for seed in range(6)])
    brought = torch.stack([align(scan, alignment.displacement(scan)) for scan in scans])
    return Aligned(PCA.fit(brought[:, None].numpy(), 5), alignment)


def test_registration_brings_a_deformed_scan_back(alignment: Alignment) -> None:
    scan = 0.8 * align(texture(), smooth_displacement(1, 1.2)) + 0.05  # another gain and offset
    displacement = alignment.displacement(scan)
    inside = alignment.weight.bool()
    before, after = (
        np.corrcoef(volume[inside], alignment.target[inside])[0, 1] for volume in (scan, align(scan, displacement))
    )
    assert before < 0.8
    assert after > 0.95
    # What the registration found undoes what was done: there and back leaves every voxel within half a voxel.
    there = voxels(SHAPE, torch.device("cpu")) + spread(displacement, SHAPE)
    done = spread(smooth_displacement(1, 1.2), SHAPE)
    back = there + torch.stack([resample(axis, there) for axis in done])
    error = (back - voxels(SHAPE, torch.device("cpu"))).norm(dim=0)[inside]
    assert error.median() < 0.5


def test_a_scan_of_the_target_stays_where_it_is(alignment: Alignment) -> None:
    displacement = spread(alignment.displacement(texture()), SHAPE)
    assert displacement[:, alignment.weight.bool()].abs().max() < 0.25


def test_inverse_finds_where_each_voxel_came_from() -> None:
    displacement = spread(smooth_displacement(2, 1.0), SHAPE)
    points = inverse(displacement)
    arrived = points + torch.stack([resample(axis, points) for axis in displacement])
    inside = (slice(None), slice(6, -6), slice(6, -6), slice(6, -6))
    assert (arrived - voxels(SHAPE, torch.device("cpu")))[inside].abs().max() < 0.05


def test_fine_and_coarse_part_add_up_and_differ_in_scale() -> None:
    displacement = smooth_displacement(3, 1.0, width=4) + smooth_displacement(4, 1.0, width=0.5)
    fine, coarse = split(displacement, 1.5)
    torch.testing.assert_close(fine + coarse, displacement)
    roughness = [part.diff(dim=1).square().mean() / part.square().mean() for part in (fine, coarse)]
    assert roughness[1] < 0.1 * roughness[0]


def test_displacements_are_kept_and_found_again(
    alignment: Alignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, other = align(texture(), smooth_displacement(1, 1.0)), align(texture(), smooth_displacement(2, 1.0))
    alignment.kept_in = tmp_path
    found = alignment.displacement(scan)

    def fail(*_: object) -> Tensor:
        raise AssertionError("registered again")

    monkeypatch.setattr(Alignment, "_register", fail)
    torch.testing.assert_close(alignment.displacement(scan), found, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="again"):
        alignment.displacement(other)
    alignment.target[16, 16, 12] += 0.01
    with pytest.raises(AssertionError, match="again"):
        alignment.displacement(scan)


def test_the_latent_gives_the_scan_back_in_its_own_place(aligned: Aligned) -> None:
    scan = align(texture(), smooth_displacement(20, 0.7))[None, None]
    latent = aligned.encode(scan)
    assert latent.shape == (1, *aligned.latent_shape)
    assert sum(aligned.parts) == aligned.latent_shape[0]
    decoded = aligned.decode(latent)
    inside = scan > 0.3
    assert (decoded - scan)[inside].square().mean().sqrt() < 0.5 * (scan - texture())[inside].square().mean().sqrt()
    torch.testing.assert_close(aligned.quantize(latent), latent)  # PCA has no codebook


def test_a_scan_alone_has_the_latent_that_it_has_in_company(aligned: Aligned) -> None:
    scans = torch.stack([align(texture(), smooth_displacement(seed, 0.7)) for seed in (30, 31)])[:, None]
    together = aligned.encode(scans)
    torch.testing.assert_close(aligned.encode(scans[1:]), together[1:], rtol=0, atol=0)
    torch.testing.assert_close(aligned.decode(together)[1:], aligned.decode(together[1:]), rtol=0, atol=1e-6)


def test_a_shift_of_the_displacement_moves_tissue_and_a_null_shift_nothing(aligned: Aligned) -> None:
    scan = align(texture(), smooth_displacement(40, 0.5))[None, None]
    factual = Factual(aligned, scan, aligned.encode(scan))
    null = torch.zeros_like(factual.latents)
    volume, difference = residual(factual, null)
    torch.testing.assert_close(volume, scan.clamp(min=scan.clamp(max=0)), rtol=0, atol=0)
    assert not difference.any()

    step = torch.zeros(3, *aligned.alignment.shape)
    step[0] = 2.0
    packed = aligned._pack(step)
    shift = null.clone()
    shift[0, : len(packed)] = packed
    moved, _ = residual(factual, shift)
    torch.testing.assert_close(moved[0, 0, 4:-4, 4:-4, 4:-4], scan[0, 0, 2:-6, 4:-4, 4:-4], rtol=0, atol=0.01)


def test_a_shift_of_the_looks_changes_intensities_where_the_tissue_lies(aligned: Aligned) -> None:
    scan = align(texture(), smooth_displacement(41, 0.5))[None, None]
    factual = Factual(aligned, scan, aligned.encode(scan))
    shift = torch.zeros_like(factual.latents)
    shift[0, -5] = 1.0
    moved = aligned.move(scan, factual.latents, shift, factual.looks)
    inner = factual.latents[:, -5:]
    change = (aligned.inner.decode(inner + shift[:, -5:]) - aligned.inner.decode(inner))[0, 0]
    displacement = aligned._displacement(factual.latents[0, : sum(aligned.parts[:2])])
    expected = scan[0, 0] + resample(change, inverse(displacement))
    torch.testing.assert_close(moved[0, 0], expected, rtol=0, atol=0.03)


def test_a_model_of_aligned_scans_is_the_same_from_its_file(aligned: Aligned, tmp_path: Path) -> None:
    options = AutoencoderOptions(kind="pca", components=5)
    save_autoencoder(aligned, options, tmp_path / "model.pt")
    loaded = load_autoencoder(tmp_path / "model.pt", displacements=tmp_path / "displacements")
    scan = align(texture(), smooth_displacement(50, 0.7))[None, None]
    torch.testing.assert_close(loaded.encode(scan), aligned.encode(scan), rtol=0, atol=0)
    assert len(list((tmp_path / "displacements").glob("*.npy"))) == 1
