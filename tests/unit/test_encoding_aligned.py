"""The encoder of aligned scans: what its latent holds, what it gives back, and what a shift of it does to a scan."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_alignment_registration import SHAPE, alignment_to, smooth_displacement, texture
from test_encoding_model import trained_vqvae
from torch import Tensor

from brainscm.alignment.displacement import align, interpolate, inverse, resample, upsample, voxels
from brainscm.alignment.registration import Alignment
from brainscm.config import AutoencoderOptions, QueryOptions, ScmOptions
from brainscm.counterfactuals.decoding import residual
from brainscm.counterfactuals.prediction import predict
from brainscm.counterfactuals.queries import plan_query
from brainscm.encoding.aligned import STEP_LOG_ODDS, STEP_VOXELS, Aligned, split_scales
from brainscm.encoding.density import log_odds_of_density, move_borders
from brainscm.encoding.encoder import Factual
from brainscm.encoding.model import load_encoder, save_encoder
from brainscm.encoding.pca import PCA
from brainscm.identity import Identity
from brainscm.scm.model import Scm
from brainscm.tissue_levels import TissueLevels

IDENTITY = Identity(template="T", voxel_mm=3, transform="affine")
COMPONENTS = 5
LEVELS = TissueLevels(csf=0.2, gm=0.5, wm=0.9)


@pytest.fixture(scope="module")
def aligned() -> Aligned:
    appearances = torch.stack([0.95 * texture() + 0.05 * texture(seed) for seed in range(1, 7)])
    return Aligned(PCA.fit(appearances[:, None].numpy(), COMPONENTS), alignment_to(texture()))


@pytest.fixture(scope="module")
def with_lattice() -> Aligned:
    """One whose inner latent has a grid of its own, (8, 8, 6), as that of a VQ-VAE has."""
    options = AutoencoderOptions(channels=[4, 4], latent_channels=3, codebook_size=8)
    return Aligned(trained_vqvae(options, SHAPE), alignment_to(texture()))


def parts_of(aligned: Aligned, latent: Tensor) -> tuple[Tensor, ...]:
    """Fine and coarse displacement (3, x/2, y/2, z/2), fine and coarse density (2, …), and inner latent of a latent."""
    *fields, inner = latent.split(aligned.layout.parts)
    return *(aligned._unpack(field) for field in fields), inner


def with_displacement(aligned: Aligned, displacement: Tensor) -> Tensor:
    """A latent (1, …) of zeros but for its displacement (3, x/2, y/2, z/2)."""
    latent = torch.zeros(1, *aligned.latent_shape)
    packed = [aligned._pack(part) for part in split_scales(displacement, aligned.alignment.voxel_mm)]
    latent[0, : len(packed[0]) + len(packed[1])] = torch.cat(packed)
    return latent


def test_fine_and_coarse_part_add_up_and_differ_in_scale() -> None:
    displacement = smooth_displacement(3, 1.0, width=4) + smooth_displacement(4, 1.0, width=0.5)
    fine, coarse = split_scales(displacement, 1.5)
    torch.testing.assert_close(fine + coarse, displacement)
    roughness = [part.diff(dim=1).square().mean() / part.square().mean() for part in (fine, coarse)]
    assert roughness[1] < 0.1 * roughness[0]


@pytest.mark.parametrize("encoder", ["aligned", "with_lattice"])
def test_a_latent_holds_the_scans_displacement_density_and_appearance_in_its_parts(encoder, request) -> None:
    encoder = request.getfixturevalue(encoder)
    scans = torch.stack([texture(seed) for seed in (10, 11)])[:, None]
    displacements = torch.stack([smooth_displacement(seed, 0.7) for seed in (12, 13)])
    latents = encoder.encode(scans, displacements, [LEVELS, LEVELS])
    assert latents.shape == (2, *encoder.latent_shape)
    assert sum(encoder.layout.parts) == encoder.latent_shape[0]
    for latent, scan, displacement in zip(latents, scans[:, 0], displacements, strict=True):
        *fields, inner = parts_of(encoder, latent)
        aligned_scan = align(scan, displacement)
        density = log_odds_of_density(aligned_scan, LEVELS, 3.0)
        expected = (*split_scales(displacement, 3.0), *split_scales(density, 3.0))
        assert all(torch.equal(*pair) for pair in zip(fields, expected, strict=True))
        assert torch.equal(inner, encoder.inner.encode(aligned_scan[None, None])[0])


def test_nodes_are_packed_where_they_lie(with_lattice: Aligned) -> None:
    displacement = torch.zeros(3, *with_lattice.alignment.shape)
    displacement[1, 6:8, 2:4, 10:12] = torch.arange(1.0, 9).reshape(2, 2, 2)
    packed = with_lattice._pack(displacement)
    assert packed.any(dim=0).nonzero().tolist() == [[3, 1, 5]]
    assert packed[:, 3, 1, 5].tolist() == [0.0] * 8 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] + [0.0] * 8
    assert torch.equal(with_lattice._unpack(packed), displacement)


def test_the_latent_gives_the_scan_back_in_its_own_place(aligned: Aligned) -> None:
    """Also that of a scan that has not been aligned before."""
    scan = align(texture(), smooth_displacement(20, 0.7))[None, None]
    latent = aligned.encode(scan, levels=[LEVELS])
    decoded = aligned.decode(latent)
    inside = scan > 0.3
    assert (decoded - scan)[inside].square().mean().sqrt() < 0.5 * (scan - texture())[inside].square().mean().sqrt()
    found = aligned.alignment.displacement(scan[0, 0])
    torch.testing.assert_close(aligned.encode(scan, found[None], [LEVELS]), latent, rtol=0, atol=0)


def test_what_is_decoded_lies_where_the_displacement_says(aligned: Aligned) -> None:
    displacement = smooth_displacement(21, 0.7)
    latent = with_displacement(aligned, displacement)
    expected = resample(aligned.inner.mean.reshape(SHAPE), inverse(upsample(displacement, SHAPE)))
    torch.testing.assert_close(aligned.decode(latent)[0, 0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(aligned.appearance(latent)[0, 0].flatten(), aligned.inner.mean)


def test_a_scan_alone_has_the_latent_that_it_has_in_company(aligned: Aligned) -> None:
    scans = torch.stack([texture(seed) for seed in (30, 31)])[:, None]
    displacements = torch.stack([smooth_displacement(seed, 0.7) for seed in (30, 31)])
    together = aligned.encode(scans, displacements, [LEVELS] * 2)
    torch.testing.assert_close(aligned.encode(scans[1:], displacements[1:], [LEVELS]), together[1:], rtol=0, atol=0)
    torch.testing.assert_close(aligned.decode(together)[1:], aligned.decode(together[1:]), rtol=0, atol=1e-6)


def test_only_the_appearance_is_quantised(with_lattice: Aligned) -> None:
    latents = with_lattice.encode(texture()[None, None], smooth_displacement(32, 0.7)[None], [LEVELS])
    quantized = with_lattice.quantize(latents)
    where = sum(with_lattice.layout.parts[:-1])
    assert torch.equal(quantized[:, :where], latents[:, :where])
    assert torch.equal(quantized[:, where:], with_lattice.inner.quantize(latents[:, where:]))
    assert not torch.equal(quantized[:, where:], latents[:, where:])


def test_a_latent_survives_its_codes_but_for_half_a_step(with_lattice: Aligned) -> None:
    latents = with_lattice.encode(texture()[None, None], smooth_displacement(32, 0.7)[None], [LEVELS])
    codes = with_lattice.to_codes(latents)
    assert all(numbers.dtype == torch.int64 and numbers.min() >= 0 for numbers in codes.values())
    again = with_lattice.of_codes(codes)
    own, decoded = (each[0].split(with_lattice.layout.parts) for each in (latents, again))
    assert torch.equal(decoded[4], with_lattice.quantize(latents)[0, -len(decoded[4]) :])
    for fine, step in ((0, STEP_VOXELS), (2, STEP_LOG_ODDS)):
        error = (own[fine] + own[fine + 1] - decoded[fine] - decoded[fine + 1]).abs().max()
        assert 0 < float(error) <= step / 2 + 1e-5
        field = with_lattice._unpack(decoded[fine] + decoded[fine + 1])
        expected = [with_lattice._pack(part) for part in split_scales(field, 3.0)]
        torch.testing.assert_close(list(decoded[fine : fine + 2]), expected, rtol=0, atol=1e-4)


def test_a_shift_of_the_displacement_moves_tissue_and_a_null_shift_nothing(aligned: Aligned) -> None:
    scan = texture(40)[None, None]
    factual = Factual(aligned, scan, aligned.encode(scan, smooth_displacement(40, 0.5)[None], [LEVELS]))
    null = torch.zeros_like(factual.latents)
    volume, difference = residual(factual, null)
    torch.testing.assert_close(volume, scan, rtol=0, atol=0)
    assert not difference.any()

    step = torch.zeros(3, *aligned.alignment.shape)
    step[0] = 2.0
    moved, _ = residual(factual, with_displacement(aligned, step))
    torch.testing.assert_close(moved[0, 0, 4:-4, 4:-4, 4:-4], scan[0, 0, 2:-6, 4:-4, 4:-4], rtol=0, atol=0.01)


def stretched(aligned: Aligned, factor: float) -> Tensor:
    """Latent (1, …) of a participant who is the template stretched about the middle of its grid."""
    nodes = 2 * voxels(aligned.alignment.shape, torch.device("cpu")) + 0.5
    middle = torch.tensor([15.5, 15.5, 11.5])[:, None, None, None]
    return with_displacement(aligned, (factor - 1) * (nodes - middle))


def test_an_effect_is_transported_to_the_anatomy_of_each_participant(aligned: Aligned) -> None:
    mean, wide = stretched(aligned, 1.1)[0], stretched(aligned, 1.65)
    shift = torch.randn(wide.shape, generator=torch.Generator().manual_seed(0))

    def nodes(shift: Tensor) -> Tensor:
        fine, coarse, *_ = parts_of(aligned, shift[0])
        return fine + coarse

    transported = aligned.transport(shift, wide, mean)
    torch.testing.assert_close(nodes(transported), 1.5 * nodes(shift), rtol=1e-4, atol=1e-4)
    displacement = sum(aligned.layout.parts[:2])
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

    scan, participant = texture(3)[None, None], table.iloc[[10]]
    expected, _ = residual(Factual(aligned, scan, wide), 1.4 * 2 * effect)
    assert (expected - scan).abs().max() > 0.1
    query = QueryOptions(name="older", do={"age": "+20"})
    step = plan_query(scm, participant, query).step
    predicted = predict(Factual(aligned, scan, wide), scm.image, step, "residual")
    np.testing.assert_allclose(predicted.volume, expected, atol=1e-4)


@pytest.mark.parametrize("inner", ["aligned", "with_lattice"])
def test_the_mirror_image_of_a_latent_is_that_of_a_mirrored_scan(inner, request) -> None:
    """Mirrored scan, latent and shift give the mirrored counterfactual."""
    asymmetric = request.getfixturevalue(inner)
    assert asymmetric.layout.mirror is None  # the target's left and right differ
    symmetric = Aligned(asymmetric.inner, alignment_to((texture() + texture().flip(0)) / 2))
    mirror = symmetric.layout.mirror
    assert mirror is not None

    def mirrored(latent: Tensor) -> Tensor:
        image = torch.from_numpy(mirror.image(latent.numpy()))
        return torch.cat([image, latent[:, image.shape[1] :]], dim=1)

    latent, shift = (with_displacement(symmetric, smooth_displacement(seed, 1.0)) for seed in (5, 6))
    displacement, density = (sum(symmetric.layout.parts[:parts]) for parts in (2, 4))
    generator = torch.Generator().manual_seed(0)
    shift[:, displacement:density] = torch.randn(shift[:, displacement:density].shape, generator=generator) / 2
    scan = texture(7)[None, None]
    moved = symmetric.apply_shift(Factual(symmetric, scan, latent, [LEVELS]), shift)
    assert (moved - scan).abs().max() > 0.1
    mirror_image = Factual(symmetric, scan.flip(2), mirrored(latent), [LEVELS])
    other = symmetric.apply_shift(mirror_image, mirrored(shift))
    torch.testing.assert_close(other.flip(2), moved, rtol=0, atol=1e-4)
    torch.testing.assert_close(mirrored(mirrored(latent)), latent)


def test_a_shift_of_the_appearance_changes_intensities_where_the_tissue_lies(aligned: Aligned) -> None:
    scan, displacement = texture(41)[None, None], smooth_displacement(41, 2.0)
    latent = aligned.encode(scan, displacement[None], [LEVELS])
    shift = torch.zeros_like(latent)
    shift[0, -COMPONENTS] = 10.0
    moved = aligned.apply_shift(Factual(aligned, scan, latent), shift)
    inner = latent[:, -COMPONENTS:]
    change = (aligned.inner.decode(inner + shift[:, -COMPONENTS:]) - aligned.inner.decode(inner))[0, 0]
    expected = resample(change, inverse(upsample(displacement, SHAPE)))
    assert (expected - change).abs().max() > 0.5 * change.abs().max()  # it makes a difference where it lies
    error = (moved - scan)[0, 0] - expected
    assert error.square().mean() < 0.05 * expected.square().mean()  # linear against cubic interpolation


def test_a_shift_of_the_density_moves_the_borders_that_the_scan_has(aligned: Aligned) -> None:
    """Of what was displaced, where its tissue lies, by what the appearance has not done of it yet."""
    scan, displacement = texture(42)[None, None], smooth_displacement(42, 1.5)
    latent = aligned.encode(scan, displacement[None], [LEVELS])
    fine, coarse, *_ = aligned.layout.parts
    density = slice(fine + coarse, -COMPONENTS)
    shift = torch.zeros_like(latent)
    field = torch.linspace(-0.8, 0, aligned.alignment.shape[0])[:, None, None].expand(2, *aligned.alignment.shape)
    shift[:, density] = aligned._pack_scales(field)
    factual = Factual(aligned, scan, latent, [LEVELS])
    asked = upsample(field, SHAPE)

    def expected(volume: Tensor, displaced: Tensor, where: Tensor) -> Tensor:
        here = torch.nn.functional.avg_pool3d(interpolate(asked, inverse(upsample(where, SHAPE))), 2)
        return move_borders(volume, displaced, LEVELS, here, 3.0)

    moved = aligned.apply_shift(factual, shift)[0, 0]
    torch.testing.assert_close(moved, expected(scan[0, 0], scan[0, 0], displacement), rtol=0, atol=0.01)
    assert (moved - scan).mean() < -0.002

    shift[:, :fine] = 0.4 * torch.randn(shift[:, :fine].shape, generator=torch.Generator().manual_seed(1))
    shift[:, -COMPONENTS] = 2.0
    together = aligned.apply_shift(factual, shift)[0, 0]
    shift[:, density] = 0
    looks = aligned.apply_shift(factual, shift)[0, 0]
    shift[:, -COMPONENTS] = 0
    displaced = aligned.apply_shift(factual, shift)[0, 0]
    where = displacement + aligned._nodes(aligned._where(shift)[0])
    assert (looks - displaced).abs().max() > 0.01
    torch.testing.assert_close(together, expected(looks, displaced, where), rtol=0, atol=1e-3)


def test_it_is_the_same_from_its_file(aligned: Aligned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    symmetric = Aligned(aligned.inner, alignment_to((texture() + texture().flip(0)) / 2))
    save_encoder(symmetric, IDENTITY, tmp_path / "model.pt")
    loaded = load_encoder(tmp_path / "model.pt")
    assert loaded.layout == symmetric.layout
    assert loaded.kind == "pca"
    scan, displacement = texture(50)[None, None], smooth_displacement(51, 0.7)[None]
    latents = symmetric.encode(scan, displacement, [LEVELS])
    assert torch.equal(loaded.encode(scan, displacement, [LEVELS]), latents)
    torch.testing.assert_close(loaded.decode(latents), symmetric.decode(latents), rtol=0, atol=0)
    for name, tensor in symmetric.alignment.state_dict().items():
        assert torch.equal(loaded.alignment.state_dict()[name], tensor)
    monkeypatch.setattr(Alignment, "displacement", lambda self, _: torch.full((3, *self.shape), self.voxel_mm))
    torch.testing.assert_close(
        loaded.encode(scan, levels=[LEVELS]), symmetric.encode(scan, levels=[LEVELS]), rtol=0, atol=0
    )


def test_motion_is_where_the_tissue_that_a_shift_moves_comes_from(aligned: Aligned) -> None:
    latents, shift = (with_displacement(aligned, smooth_displacement(seed, 0.6)) for seed in (31, 32))
    scan = texture(33)[None, None]
    twice = Factual(aligned, torch.cat([scan, scan]), torch.cat([latents, latents]), [LEVELS, LEVELS])
    motion = aligned.motion(twice, torch.cat([shift, torch.zeros_like(shift)]))
    moved = aligned.apply_shift(Factual(aligned, scan, latents, [LEVELS]), shift)
    assert torch.equal(moved[0, 0], resample(scan[0, 0], voxels(SHAPE, scan.device) + motion[0]))
    assert motion[0].abs().max() > 0.3
    assert not motion[1].any()
