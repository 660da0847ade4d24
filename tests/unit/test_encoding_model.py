"""The VQ-VAE's shapes and locality, and models in files."""

import pytest
import torch

from brainscm.config import AutoencoderOptions
from brainscm.encoding.model import encoder_identity, load_encoder, save_encoder
from brainscm.encoding.vqvae import VQVAE, DepthToSpace, ResidualBlock, SpaceToDepth
from brainscm.errors import BrainSCMError
from brainscm.files import sha256
from brainscm.identity import Identity

IDENTITY = Identity(template="T", voxel_mm=4, transform="affine")
OPTIONS = AutoencoderOptions(channels=[4, 8], latent_channels=3, codebook_size=8)


def trained_vqvae(options: AutoencoderOptions = OPTIONS, grid: tuple[int, int, int] = (16, 24, 32)) -> VQVAE:
    """A VQ-VAE with weights as after training: none zero, and the codebook started."""
    torch.manual_seed(0)
    model = VQVAE(grid, options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batch = torch.rand(2, 1, *grid), torch.ones(2, 1, *grid, dtype=torch.bool)
    model.start(lambda: [batch])
    model.quantizer.start(torch.randn(100, options.latent_channels), torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize(("channels", "factor"), [([4], 2), ([4, 8], 4), ([4, 8, 8], 8)])
def test_each_entry_of_channels_halves_the_grid(channels, factor):
    model = trained_vqvae(OPTIONS.model_copy(update={"channels": channels}))
    volumes = torch.rand(2, 1, 16, 24, 32)
    latents = model.encode(volumes)
    assert latents.shape == (2, *model.latent_shape) == (2, 3, 16 // factor, 24 // factor, 32 // factor)
    assert model.decode(latents).shape == volumes.shape


def test_a_grid_that_cannot_be_halved_is_refused():
    with pytest.raises(BrainSCMError, match="16×24×30 is not a multiple of 4"):
        VQVAE((16, 24, 30), OPTIONS)


def test_blocks_of_voxels_become_channels_and_back():
    volumes = torch.rand(2, 3, 4, 6, 8)
    blocks = SpaceToDepth(2)(volumes)
    assert torch.equal(blocks[1, 8:16, 0, 1, 2], volumes[1, 1, 0:2, 2:4, 4:6].flatten())
    assert torch.equal(DepthToSpace(2)(blocks), volumes)


def test_latents_are_decoded_as_they_are():
    model = trained_vqvae()
    latents = model.encode(torch.rand(1, 1, 16, 24, 32))
    assert not torch.allclose(latents, model.quantize(latents))
    assert not torch.allclose(model.decode(latents), model.decode(model.quantize(latents)))
    assert torch.equal(model.quantize(model.quantize(latents)), model.quantize(latents))
    assert torch.equal(model.of_codes(model.to_codes(latents)), model.quantize(latents))


def test_a_local_change_of_the_latent_leaves_the_far_brain_untouched():
    model = trained_vqvae(OPTIONS.model_copy(update={"residual_blocks": 1}), grid=(16, 16, 96))
    latents = model.encode(torch.rand(1, 1, 16, 16, 96))
    changed = latents.clone()
    changed[..., 0] += 1
    difference = (model.decode(changed) - model.decode(latents)).abs().amax((0, 1, 2, 3))
    assert difference[:4].min() > 0
    assert difference[48:].max() == 0


@pytest.mark.parametrize("quantizer", ["scalar", "residual"])
def test_a_saved_model_is_the_same_and_loads_without_running_code(tmp_path, quantizer):
    options = OPTIONS.model_copy(update={"quantizer": quantizer})
    model, path = trained_vqvae(options), tmp_path / "model.pt"
    saved = save_encoder(model, IDENTITY, path)
    assert saved == encoder_identity(path) == IDENTITY.encoded_by(sha256(path))
    torch.backends.cudnn.allow_tf32 = True
    loaded = load_encoder(path)
    assert not torch.backends.cudnn.allow_tf32
    assert not loaded.training
    volumes = torch.rand(1, 1, 16, 24, 32)
    latents = model.encode(volumes)
    assert loaded.latent_shape == model.latent_shape
    assert torch.equal(loaded.encode(volumes), latents)
    assert torch.equal(loaded.decode(latents), model.decode(latents))
    assert torch.equal(loaded.quantize(latents), model.quantize(latents))
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_another_file_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("not a model")
    with pytest.raises(BrainSCMError, match="train it again"):
        load_encoder(path)
    with pytest.raises(BrainSCMError, match="train it again"):
        encoder_identity(path)


def test_recomputed_activations_give_the_same_gradients():
    model = trained_vqvae()
    again = VQVAE(model.grid_shape, OPTIONS.model_copy(update={"recompute": True}))
    again.load_state_dict(model.state_dict())
    calls = []
    block = next(module for module in again.modules() if isinstance(module, ResidualBlock))
    block.branch.register_forward_pre_hook(lambda *_: calls.append(1))
    volumes = torch.rand(1, 1, 16, 24, 32)
    gradients = []
    for network in (model, again):
        network.decoder(network.encoder(volumes)).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert len(calls) == 2  # once forward, once more backward
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_neighbours_help_to_decode_what_a_cube_alone_cannot_show():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4, 1, 16, 24, 32, generator=generator)
    smooth = torch.nn.functional.avg_pool3d(noise, 5, 1, 2)
    batch = smooth, torch.ones_like(smooth, dtype=torch.bool)
    model = VQVAE((16, 24, 32), OPTIONS)
    model.start(lambda: [batch])
    latents = model.encode(smooth)
    alone = (model.linear._decode_alone(latents) - smooth).square().mean()
    helped = (model.decode(latents) - smooth).square().mean()  # the network, untrained, adds nothing
    assert helped < 0.8 * alone
    assert float(model.linear.error) == pytest.approx(float(helped.sqrt()), rel=0.05)


def test_the_linear_code_is_that_of_the_brain():
    """The cubes of the background, of which there are more, have no say."""
    generator = torch.Generator().manual_seed(0)
    volumes = torch.rand(3, 1, 16, 24, 32, generator=generator)
    masks = torch.zeros_like(volumes, dtype=torch.bool)
    masks[..., :8, :12, :16] = True
    cubes = SpaceToDepth(4)(volumes).movedim(1, -1).reshape(-1, 64)
    inside = cubes[SpaceToDepth(4)(masks.float()).movedim(1, -1).reshape(-1, 64).bool().any(1)].double()
    volumes[~masks] *= 5.0
    model = VQVAE((16, 24, 32), OPTIONS)
    model.start(lambda: [(volumes, masks)])
    torch.testing.assert_close(model.linear.mean, inside.mean(0).float())
    values = torch.linalg.eigvalsh(torch.cov(inside.T, correction=0))
    torch.testing.assert_close(model.linear.sd, values.flip(0)[:3].sqrt().float())


def test_the_networks_speak_in_units_of_what_they_add_to():
    """The encoder's in tenths of each latent's standard deviation, the decoder's in the linear code's error."""
    model = trained_vqvae()
    model.linear.sd.copy_(torch.tensor([0.5, 2.0, 30.0]))
    model.linear.error.fill_(0.25)
    volumes, latents = torch.rand(1, 1, 16, 24, 32), torch.randn(1, 3, 4, 6, 8)
    sd = model.linear.sd[:, None, None, None]
    added = model.encode(volumes) - model.linear.encode(volumes)
    torch.testing.assert_close(added, 0.1 * sd * model.analysis(volumes), rtol=1e-3, atol=1e-4)
    added = model.decode(latents) - model.linear.decode(latents)
    torch.testing.assert_close(added, 0.25 * model.synthesis(latents / sd), rtol=1e-3, atol=1e-5)
