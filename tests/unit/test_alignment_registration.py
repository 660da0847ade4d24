"""Deformable alignment: registration, displacements, and the autoencoder that works on aligned scans."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from brainscm.alignment.displacement import inverse, resample, upsample, voxels
from brainscm.alignment.registration import Alignment
from brainscm.config import QueryOptions, ScmOptions
from brainscm.counterfactuals.decoding import Factual, residual
from brainscm.counterfactuals.prediction import predict
from brainscm.counterfactuals.queries import plan_query
from brainscm.encoding.aligned import Aligned, align, split_scales
from brainscm.encoding.model import load_encoder, save_encoder
from brainscm.encoding.pca import PCA
from brainscm.identity import Identity
from brainscm.scm.model import Scm

IDENTITY = Identity(template="T", voxel_mm=3, transform="affine")
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


def alignment_to(target: Tensor) -> Alignment:
    return Alignment(target, (target > 0.2).float(), voxel_mm=3.0)


@pytest.fixture
def alignment() -> Alignment:
    return alignment_to(texture())


@pytest.fixture(scope="module")
def aligned() -> Aligned:
    alignment = alignment_to(texture())
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
    there = voxels(SHAPE, torch.device("cpu")) + upsample(displacement, SHAPE)
    done = upsample(smooth_displacement(1, 1.2), SHAPE)
    back = there + torch.stack([resample(axis, there) for axis in done])
    error = (back - voxels(SHAPE, torch.device("cpu"))).norm(dim=0)[inside]
    assert error.median() < 0.5


def test_a_scan_of_the_target_stays_where_it_is(alignment: Alignment) -> None:
    displacement = upsample(alignment.displacement(texture()), SHAPE)
    assert displacement[:, alignment.weight.bool()].abs().max() < 0.25


def test_inverse_finds_where_each_voxel_came_from() -> None:
    displacement = upsample(smooth_displacement(2, 1.0), SHAPE)
    points = inverse(displacement)
    arrived = points + torch.stack([resample(axis, points) for axis in displacement])
    inside = (slice(None), slice(6, -6), slice(6, -6), slice(6, -6))
    assert (arrived - voxels(SHAPE, torch.device("cpu")))[inside].abs().max() < 0.05


def test_fine_and_coarse_part_add_up_and_differ_in_scale() -> None:
    displacement = smooth_displacement(3, 1.0, width=4) + smooth_displacement(4, 1.0, width=0.5)
    fine, coarse = split_scales(displacement, 1.5)
    torch.testing.assert_close(fine + coarse, displacement)
    roughness = [part.diff(dim=1).square().mean() / part.square().mean() for part in (fine, coarse)]
    assert roughness[1] < 0.1 * roughness[0]


def test_the_latent_gives_the_scan_back_in_its_own_place(aligned: Aligned) -> None:
    scan = align(texture(), smooth_displacement(20, 0.7))[None, None]
    latent = aligned.encode(scan)
    assert latent.shape == (1, *aligned.latent_shape)
    assert sum(aligned.layout.parts) == aligned.latent_shape[0]
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


def stretched(aligned: Aligned, factor: float) -> Tensor:
    """Latent (1, …) of a person who is the template stretched about the middle of its grid."""
    nodes = 2 * voxels(aligned.alignment.shape, torch.device("cpu")) + 0.5
    middle = torch.tensor([15.5, 15.5, 11.5])[:, None, None, None]
    fine, coarse = split_scales((factor - 1) * (nodes - middle), aligned.alignment.voxel_mm)
    latent = torch.zeros(1, *aligned.latent_shape)
    latent[0, : sum(aligned.layout.parts[:2])] = torch.cat([aligned._pack(part) for part in (fine, coarse)])
    return latent


def test_an_effect_is_carried_to_the_anatomy_of_each_person(aligned: Aligned) -> None:
    mean, wide = stretched(aligned, 1.1)[0], stretched(aligned, 1.65)
    shift = torch.zeros_like(wide)
    displacement = sum(aligned.layout.parts[:2])
    shift[0, :displacement] = torch.randn(shift[0, :displacement].shape, generator=torch.Generator().manual_seed(0))
    shift[0, displacement:] = 3.0

    def nodes(shift: Tensor) -> Tensor:
        return aligned._nodes(shift[0, :displacement])

    transported = aligned.transport(shift, wide, mean)
    torch.testing.assert_close(nodes(transported), 1.5 * nodes(shift), rtol=1e-4, atol=1e-4)
    assert torch.equal(transported[:, displacement:], shift[:, displacement:])
    torch.testing.assert_close(nodes(aligned.transport(shift, mean[None], mean)), nodes(shift), rtol=1e-4, atol=1e-4)
    null = torch.zeros_like(shift)
    assert torch.equal(aligned.transport(null, wide, mean), null)


def test_counterfactuals_move_each_participant_by_the_transported_effect(aligned: Aligned) -> None:
    mean, wide = stretched(aligned, 1.0), stretched(aligned, 1.4)
    effect = torch.zeros_like(wide)
    effect[0, : aligned.layout.parts[0]] = 0.3
    ids, age = [f"sub-{i:02d}" for i in range(40)], np.linspace(20, 80, 40)
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age})
    decades = np.column_stack([np.ones(40), (age - 50) / 10])
    latents = np.tensordot(decades, np.concatenate([mean.numpy(), effect.numpy()]), axes=1)
    declared = {"nodes": {"age": {}}, "image": {"formula": "age", "shrinkage": "none"}}
    scm = Scm.fit(table, latents, ScmOptions.model_validate(declared), seed=0)

    scan, person = texture(3)[None, None], table.iloc[[10]]
    expected, _ = residual(Factual(aligned, scan, wide), 1.4 * 2 * effect)
    assert (expected - scan).abs().max() > 0.1
    query = QueryOptions(name="older", do={"age": "+20"})
    step = plan_query(scm, person, query).step
    predicted = predict(Factual(aligned, scan, wide), scm.image, step, "residual")
    np.testing.assert_allclose(predicted.volume, expected, atol=1e-4)


def test_the_mirror_image_of_a_latent_is_that_of_a_mirrored_scan(aligned: Aligned) -> None:
    """Mirrored scan, latent and shift give the mirrored counterfactual."""
    assert aligned.layout.mirror is None  # the target's left and right differ
    aligned = Aligned(aligned.inner, alignment_to((texture() + texture().flip(0)) / 2))
    mirror = aligned.layout.mirror
    assert mirror is not None

    def packed(seed: int) -> Tensor:
        latent = torch.zeros(1, *aligned.latent_shape)
        parts = split_scales(smooth_displacement(seed, 1.0), aligned.alignment.voxel_mm)
        latent[0, : sum(aligned.layout.parts[:2])] = torch.cat([aligned._pack(part) for part in parts])
        return latent

    def mirrored(latent: Tensor) -> Tensor:
        image = torch.from_numpy(mirror.image(latent.numpy()))
        return torch.cat([image, latent[:, image.shape[1] :]], dim=1)

    latent, shift, scan = packed(5), packed(6), texture(7)[None, None]
    appearance = aligned.appearance(latent)
    moved = aligned.apply_shift(scan, latent, shift, appearance)
    assert (moved - scan).abs().max() > 0.1
    other = aligned.apply_shift(scan.flip(2), mirrored(latent), mirrored(shift), appearance)
    torch.testing.assert_close(other.flip(2), moved, rtol=0, atol=1e-4)
    torch.testing.assert_close(mirrored(mirrored(latent)), latent)


def test_a_shift_of_the_appearance_changes_intensities_where_the_tissue_lies(aligned: Aligned) -> None:
    scan = align(texture(), smooth_displacement(41, 0.5))[None, None]
    factual = Factual(aligned, scan, aligned.encode(scan))
    shift = torch.zeros_like(factual.latents)
    shift[0, -5] = 1.0
    moved = aligned.apply_shift(scan, factual.latents, shift, factual.appearance)
    inner = factual.latents[:, -5:]
    change = (aligned.inner.decode(inner + shift[:, -5:]) - aligned.inner.decode(inner))[0, 0]
    displacement = aligned._displacement(factual.latents[0, : sum(aligned.layout.parts[:2])])
    expected = scan[0, 0] + resample(change, inverse(displacement))
    torch.testing.assert_close(moved[0, 0], expected, rtol=0, atol=0.03)


def test_a_model_of_aligned_scans_is_the_same_from_its_file(aligned: Aligned, tmp_path: Path) -> None:
    save_encoder(aligned, IDENTITY, tmp_path / "model.pt")
    loaded = load_encoder(tmp_path / "model.pt")
    scan = align(texture(), smooth_displacement(50, 0.7))[None, None]
    torch.testing.assert_close(loaded.encode(scan), aligned.encode(scan), rtol=0, atol=0)
