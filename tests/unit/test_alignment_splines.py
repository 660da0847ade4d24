"""Cubic splines in torch are those of SciPy, and where a device has them no volume leaves it."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from test_encoding_aligned import LEVELS, SHAPE, alignment_to, smooth_displacement, texture
from test_encoding_model import OPTIONS, trained_vqvae
from torch import Tensor

from brainscm.alignment import displacement
from brainscm.alignment.splines import cubic_coefficients, sample_cubic
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.encoder import Factual


def test_they_are_those_of_scipy_at_voxels_between_them_at_the_border_and_outside():
    rng = np.random.default_rng(0)
    volume = rng.random((7, 9, 11)).astype(np.float32)
    points = rng.uniform(-1.5, 11.5, (3, 40, 5, 5)).astype(np.float32)
    points[:, :10] = points[:, :10].round()
    expected = map_coordinates(volume, points, order=3, mode="constant")
    found = sample_cubic(cubic_coefficients(torch.from_numpy(volume)), torch.from_numpy(points)).numpy()
    assert (expected == 0).any()
    assert (expected != 0).any()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_volume_goes_through_its_voxels():
    volume = torch.rand(6, 5, 4)
    points = displacement.voxels(volume.shape, volume.device)
    torch.testing.assert_close(sample_cubic(cubic_coefficients(volume), points), volume, rtol=0, atol=1e-6)


def test_between_store_and_volume_nothing_large_leaves_the_device(monkeypatch: pytest.MonkeyPatch):
    """The CPU stands in for a device of its own: nothing as large as a volume may be copied off it."""
    encoder = Aligned(trained_vqvae(OPTIONS, SHAPE), alignment_to(texture()))
    volumes, displacements = texture(1)[None, None], smooth_displacement(3, 0.7)[None]
    there = encoder.encode(volumes, displacements, [LEVELS])
    expected = encoder.decode(there)
    shift = 0.1 * torch.ones_like(there)
    factual = Factual(encoder, volumes, there, [LEVELS])
    moved_there = encoder.apply_shift(factual, encoder.transport(shift, there, there[0]))
    monkeypatch.setattr(displacement, "SCIPY_DEVICE", "none")

    def spied(name: str):
        leave = getattr(Tensor, name)

        def copy(tensor: Tensor, *given: object, **named: object) -> object:
            if tensor.numel() > 1000 and (name != "to" or "cpu" in map(str, given)):
                pytest.fail(f"a tensor {tuple(tensor.shape)} leaves the device by .{name}()")
            return leave(tensor, *given, **named)

        return copy

    for name in ("cpu", "numpy", "tolist", "to"):
        monkeypatch.setattr(Tensor, name, spied(name))
    latents = encoder.encode(volumes, displacements, [LEVELS])
    decoded = encoder.decode(encoder.quantize(latents))
    decoded = encoder.decode(encoder.of_codes(encoder.to_codes(latents)))
    decoded = encoder.decode(latents)
    factual = Factual(encoder, volumes, latents, [LEVELS])
    brought = encoder.transport(shift, latents, latents[0])
    moved = encoder.apply_shift(factual, brought)
    drawn = encoder.nearby(factual, brought, moved)(0.1 * shift, 0.01 * expected[0])
    monkeypatch.undo()
    torch.testing.assert_close(latents, there, rtol=0, atol=1e-4)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-4)
    # Where a border lies at the very edge of a voxel, rounding decides whether it moves.
    assert (moved - moved_there).abs().quantile(0.999) < 1e-3
    assert (moved - moved_there).abs().mean() < 1e-5
    assert torch.isfinite(drawn).all()
    assert (drawn - moved).abs().max() > 1e-3
