"""What one step of a training does: the batch, the loss, the gradient, the weights and the codebook."""

import numpy as np
import pytest
import torch
from test_training_trainer import GRID, OPTIONS, make_store

from brainscm.config import AutoencoderOptions
from brainscm.encoding.quantizer import to_rows
from brainscm.encoding.vqvae import VQVAE
from brainscm.ranks import Ranks
from brainscm.training import hardware
from brainscm.training import trainer as trainer_module
from brainscm.training.hardware import Passes
from brainscm.training.losses import Objective, charbonnier, dissimilarity
from brainscm.training.trainer import Trainer
from brainscm.training.validation import validate
from brainscm.training.volume_store import Stores


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    """Whatever the hardware multiplies in."""
    monkeypatch.setattr(hardware, "training_precision", lambda device: torch.float32)


def started(tmp_path, **changes) -> Trainer:
    """A trainer before its first step."""
    torch.manual_seed(0)
    options = AutoencoderOptions.model_validate({**OPTIONS.model_dump(), **changes})
    stores = Stores(make_store(tmp_path / "train", 6, seed=0), make_store(tmp_path / "validation", 3, seed=1))
    trainer = Trainer(VQVAE(GRID, options), stores, options, seed=7, folder=tmp_path / "run")
    trainer._start()
    return trainer


def test_a_step_trains_on_its_scans_as_they_are_augmented(tmp_path, monkeypatch):
    trainer = started(tmp_path, batch_size=3, deformation_voxels=1.5)
    monkeypatch.setattr(trainer_module, "augment", lambda volume, mask, rng, size: (volume + size, ~mask))
    volumes, masks, _ = trainer._training_batch(5)
    rows = trainer.schedule.batch(5)
    np.testing.assert_array_equal(volumes, trainer.stores.training.volumes[rows].astype(np.float32) + 1.5)
    np.testing.assert_array_equal(masks, ~trainer.stores.training.masks[rows])


def test_each_step_and_each_scan_of_it_is_augmented_differently_and_the_same_again(tmp_path, monkeypatch):
    draws = []
    monkeypatch.setattr(trainer_module, "augment", lambda *given: draws.append(given[2].random()) or given[:2])
    trainer = started(tmp_path)
    for step in (0, 1, 0):
        trainer._training_batch(step)
    assert len(set(draws)) == 4
    assert draws[:2] == draws[4:]


def test_each_process_takes_its_part_of_a_step_and_the_random_changes_that_go_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "augment", lambda *given: (given[0] + given[2].random(), given[1]))
    whole = started(tmp_path, batch_size=4, quantized_share=0.5)
    parts = []
    for rank in (0, 1):
        part = Trainer(whole.network, whole.stores, whole.options, 7, tmp_path / "run", Ranks(rank, 2))
        parts.append(part._training_batch(3))
    for whole_batch, *halves in zip(whole._training_batch(3), *parts, strict=True):
        assert torch.equal(torch.cat(halves), whole_batch)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_volumes_that_is_decoded_from_codes_is_the_one_asked_for(tmp_path, share):
    trainer = started(tmp_path, quantized_share=share)
    drawn = torch.cat([trainer._training_batch(step)[2] for step in range(150)])
    assert float(drawn.float().mean()) == pytest.approx(share, abs=0.08)


def test_a_volume_decoded_from_codes_teaches_the_encoder_as_if_it_were_not(tmp_path):
    trainer = started(tmp_path, commitment_weight=0.0)
    volumes, masks, _ = trainer._training_batch(0)
    network = trainer.network
    for parameter in network.parameters():  # at the start the last layers are zero and pass nothing on
        torch.nn.init.normal_(parameter, std=0.05)
    mixed = torch.tensor([True, False])
    terms, vectors, indices = trainer._terms(volumes, masks, mixed)
    latents = network.encoder(volumes)
    codes, expected_indices = network.quantizer(latents)
    reconstruction = network.decoder(torch.stack([codes[0], latents[1]]))
    assert float(terms["intensity"]) == pytest.approx(float(charbonnier(reconstruction, volumes, masks)), rel=1e-5)
    assert float(terms["commitment"]) == pytest.approx(float((latents - codes).square().mean()), rel=1e-5)
    assert torch.equal(indices, to_rows(expected_indices))
    torch.testing.assert_close(vectors, latents.detach().movedim(1, -1).reshape(-1, latents.shape[1]))
    # The gradient at the codes is handed on to the latents.
    codes = codes.detach().requires_grad_()
    at_codes = torch.where(mixed[:, None, None, None, None], codes, latents.detach())
    loss = Objective(trainer.options)(network.decoder(at_codes), volumes, masks, torch.zeros(()))["loss"]
    (at_decoder,) = torch.autograd.grad(loss, at_codes)
    expected = torch.autograd.grad(latents, list(network.analysis.parameters()), at_decoder)
    found = torch.autograd.grad(terms["loss"], list(network.analysis.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    volumes, masks = torch.rand(2, 1, 16, 16, 16), torch.rand(2, 1, 16, 16, 16) > 0.3
    options = AutoencoderOptions(ssim_weight=0.3, commitment_weight=2.0, gradient_weight=0.0, fourier_weight=0.7)
    terms = Objective(options)(volumes + 0.1, volumes, masks, torch.tensor(0.5))
    assert set(terms) == {"intensity", "dissimilarity", "commitment", "fourier", "loss"}
    expected = terms["intensity"] + 0.3 * terms["dissimilarity"] + 2.0 * 0.5 + 0.7 * terms["fourier"]
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["dissimilarity"], dissimilarity(volumes + 0.1, volumes, masks))


def test_a_step_learns_at_the_rate_of_the_schedule(tmp_path):
    trainer = started(tmp_path, max_steps=40, learning_rate=0.01)
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    assert trainer._train_step()
    moved = torch.cat([(value - before[name]).abs().flatten() for name, value in trainer.network.named_parameters()])
    assert float(moved.max()) == pytest.approx(0.01 / 2, rel=1e-3)  # Adam's first step, in a warm-up of two
    assert trainer.progress.step == 1


def test_a_long_gradient_is_cut_short(tmp_path):
    trainer = started(tmp_path)
    intensity = trainer.objective.intensity
    trainer.objective.intensity = lambda *given: 1e4 * intensity(*given)
    assert trainer._train_step()
    norm = torch.stack([p.grad.norm() for p in trainer.network.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1.0, rel=1e-3)


def test_the_codebook_follows_what_the_encoder_gives(tmp_path):
    trainer = started(tmp_path, quantizer="residual", codebook_decay=0.9)
    codebook = trainer.network.quantizer.stages[0]
    counts, sums = codebook.counts.clone(), codebook.sums.clone()
    batch = trainer._training_batch(0)
    _, vectors, indices = trainer._terms(*batch)
    assert trainer._train_step()
    given = torch.bincount(indices[:, 0], minlength=codebook.size)
    torch.testing.assert_close(codebook.counts, 0.9 * counts + 0.1 * given)
    totals = torch.zeros_like(sums).index_add_(0, indices[:, 0], vectors)
    torch.testing.assert_close(codebook.sums, 0.9 * sums + 0.1 * totals, rtol=1e-4, atol=1e-4)


def test_a_step_that_is_not_finite_leaves_everything_as_it_was(tmp_path):
    trainer = started(tmp_path)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.objective.intensity = lambda reconstruction, *_: reconstruction.mean() * float("nan")
    assert not trainer._train_step()
    assert trainer.progress.step == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())


def test_the_start_is_fitted_on_a_sample_of_the_training_scans(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "LINEAR_SCANS", 4)
    seen = []
    monkeypatch.setattr(VQVAE, "start", lambda self, batches: seen.extend(volume for volume, _ in batches()))
    trainer = started(tmp_path)
    rows = trainer.schedule.sample(0, 4)
    assert len(rows) == 4
    np.testing.assert_array_equal(torch.cat(seen), trainer.stores.training.volumes[rows].astype(np.float32))


def test_validation_tells_how_well_continuous_latents_are_decoded_in_the_brain(tmp_path):
    trainer = started(tmp_path)
    network, store = trainer.network, trainer.stores.validation
    found = validate(network, Passes(network, trainer.options), store, trainer.objective, Ranks())
    psnr, from_codes, intensity, codes = [], [], [], []
    for row in range(len(store)):
        volume, mask = torch.from_numpy(store.volumes[[row]]).float(), torch.from_numpy(store.masks[[row]])
        latents = network.encode(volume)
        decoded = network.decode(latents)
        psnr.append(-10 * np.log10(float((decoded - volume)[mask].square().mean())))
        intensity.append(float(charbonnier(decoded, volume, mask)))
        quantized, indices = network.quantizer(latents)
        codes.append(to_rows(indices))
        from_codes.append(-10 * np.log10(float((network.decode(quantized) - volume)[mask].square().mean())))
    assert found.psnr == pytest.approx(np.mean(psnr), rel=1e-4)
    assert found.means["intensity"] == pytest.approx(np.mean(intensity), rel=1e-4)
    assert found.means["quantized_psnr_brain_db"] == pytest.approx(np.mean(from_codes), rel=1e-4)
    sizes, rows = network.quantizer.sizes, torch.cat(codes)
    counts = [torch.bincount(rows[:, book], minlength=size) for book, size in enumerate(sizes)]
    assert found.use.usage == sum(int((count > 0).sum()) for count in counts) / sum(sizes)
    bits = [float(torch.special.entr(count / len(rows)).sum()) / np.log(2) for count in counts]
    assert found.use.bits == pytest.approx(bits, rel=1e-4)
    assert found.use.bits_per_voxel == pytest.approx(sum(bits) / 4**3, rel=1e-4)
    assert found.use.perplexity == pytest.approx(np.mean(np.exp2(bits)), rel=1e-4)
    np.testing.assert_array_equal(found.picture[0], store.volumes[0, 0].astype(np.float32))


def test_the_codes_are_those_of_all_processes(tmp_path, monkeypatch):
    trainer = started(tmp_path)
    arguments = trainer.network, Passes(trainer.network, trainer.options), trainer.stores.validation, trainer.objective
    alone = validate(*arguments, Ranks())
    parts: list[list[torch.Tensor]] = []
    monkeypatch.setattr(Ranks, "add_up", lambda self, tensors: parts.append([tensor.clone() for tensor in tensors]))
    for rank in (0, 1):
        validate(*arguments, Ranks(rank, 2))
    totals, used = (sum(part) for part in zip(*parts, strict=True))
    assert (totals / 3).tolist() == pytest.approx(list(alone.means.values()))
    assert float((used > 0).double().mean()) == alone.use.usage
