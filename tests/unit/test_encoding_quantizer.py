"""A codebook: k-means start, moving averages, revival of dead codes; several that code what is left; levels."""

import pytest
import torch

from brainscm.encoding.quantizer import Codebook, Levels, Residual, nearest, to_rows

CENTRES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def clusters(seed: int, each: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return CENTRES.repeat_interleave(each, 0) + 0.1 * torch.randn(4 * each, 2, generator=generator)


def started_codebook(size: int = 4, decay: float = 0.9) -> Codebook:
    codebook = Codebook(size, 2, decay)
    codebook.start(clusters(0), torch.Generator().manual_seed(1))
    return codebook


def test_it_starts_at_the_centres_of_the_data():
    codebook = started_codebook()
    assert torch.cdist(CENTRES, codebook.codes).amin(1).max() < 0.2


def test_updates_follow_drifting_data():
    codebook = started_codebook()
    generator = torch.Generator().manual_seed(3)
    for step in range(100):
        vectors = clusters(step) + 2.0
        codebook.update(vectors, nearest(vectors, codebook.codes), generator)
    assert torch.cdist(CENTRES + 2, codebook.codes).amin(1).max() < 0.2


def test_dead_codes_are_revived_and_stay_alive():
    codebook = started_codebook()
    codebook.codes[0], codebook.sums[0] = 1e3, 1e3 * codebook.counts[0]
    generator = torch.Generator().manual_seed(3)
    revived = 0
    for step in range(100):
        vectors = clusters(step)
        revived += codebook.update(vectors, nearest(vectors, codebook.codes), generator)
    assert revived >= 1
    assert len(nearest(clusters(99), codebook.codes).unique()) == 4
    assert torch.isfinite(codebook.codes).all()


def test_a_dead_code_restarts_at_a_vector_of_the_batch_with_averages_that_let_it_move():
    codebook = started_codebook()
    codebook.codes[0], codebook.sums[0], codebook.counts[0] = 1e3, 0, 0
    vectors = clusters(7)
    assert codebook.update(vectors, nearest(vectors, codebook.codes), torch.Generator().manual_seed(3)) == 1
    assert (codebook.codes[0] == vectors).all(1).any()
    fair_share = len(vectors) / 4
    assert float(codebook.counts[0]) == pytest.approx(0.1 * fair_share)
    torch.testing.assert_close(codebook.sums[0], 0.1 * fair_share * codebook.codes[0])


@pytest.mark.parametrize("rows_at_once", [7, 1000])
def test_assignment_does_not_depend_on_the_block_size(rows_at_once, monkeypatch):
    codebook = started_codebook()
    expected = torch.cdist(clusters(5), codebook.codes).argmin(1)
    monkeypatch.setattr("brainscm.encoding.quantizer.ROWS_AT_ONCE", rows_at_once)
    assert torch.equal(nearest(clusters(5), codebook.codes), expected)


def latents_of(vectors: torch.Tensor) -> torch.Tensor:
    """One volume of latents (1, c, rows/4, 2, 2)."""
    return vectors.reshape(1, -1, 2, 2, vectors.shape[1]).movedim(-1, 1)


def started_residual(codebooks: int = 3) -> tuple[Residual, torch.Tensor]:
    vectors = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    quantizer = Residual(codebooks, 16, 3, 0.9)
    quantizer.start(vectors, torch.Generator().manual_seed(1))
    return quantizer, vectors


def test_each_codebook_codes_what_those_before_it_leave():
    quantizer, vectors = started_residual()
    quantized, indices = quantizer(latents_of(vectors))
    assert indices.shape == (1, 3, 500, 2, 2)
    left = vectors.clone()
    for stage, chosen in zip(quantizer.stages, to_rows(indices).unbind(1), strict=True):
        assert torch.equal(chosen, torch.cdist(left, stage.codes).argmin(1))
        left = left - stage.codes[chosen]
    torch.testing.assert_close(to_rows(quantized), vectors - left, rtol=0, atol=1e-5)


def test_the_first_codebooks_alone_are_a_coarser_copy():
    quantizer, vectors = started_residual()
    latents = latents_of(vectors)
    indices = quantizer.encode(latents)
    lost = [float((quantizer.decode(indices[:, :k]) - latents).square().mean()) for k in (1, 2, 3)]
    assert lost[1] < 0.4 * lost[0]
    assert lost[2] < 0.4 * lost[1]


def test_every_codebook_follows_what_is_left_to_it():
    quantizer, vectors = started_residual()
    before = [stage.codes.clone() for stage in quantizer.stages]
    latents = latents_of(vectors)
    quantizer.update(vectors, to_rows(quantizer.encode(latents)), torch.Generator().manual_seed(0))
    left = vectors
    for stage, codes in zip(quantizer.stages, before, strict=True):
        chosen = torch.cdist(left, codes).argmin(1)
        left_next = left - codes[chosen]
        counts = torch.bincount(chosen, minlength=16).float()
        sums = torch.zeros(16, 3).index_add_(0, chosen, left)
        average = (0.9 * 2000 / 16 * codes + 0.1 * sums) / (0.9 * 2000 / 16 + 0.1 * counts)[:, None]
        torch.testing.assert_close(stage.codes, average, rtol=1e-4, atol=1e-4)
        left = left_next


SD = torch.tensor([0.1, 1.0, 20.0])


def started_levels(step: float = 0.5) -> tuple[Levels, torch.Tensor]:
    vectors = SD * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    quantizer = Levels(3, step)
    quantizer.centre.copy_(torch.tensor([0.0, -9.1, 0.7]))
    quantizer.start(vectors, torch.Generator())
    return quantizer, vectors


def test_every_channel_is_rounded_to_steps_from_empty_space():
    quantizer, vectors = started_levels()
    quantized, indices = quantizer(latents_of(vectors))
    rows = to_rows(quantized)
    assert float((rows - vectors).abs().max()) <= 0.25 + 1e-5
    torch.testing.assert_close((rows - quantizer.centre) / 0.5, ((rows - quantizer.centre) / 0.5).round())
    empty = quantizer.centre[None, :, None, None, None]
    assert torch.equal(quantizer(empty)[0], empty)
    assert torch.equal(quantizer.encode(quantized), indices)


def test_a_channel_has_the_levels_that_it_reaches_and_no_more():
    quantizer, vectors = started_levels()
    indices = to_rows(quantizer.encode(latents_of(vectors)))
    assert quantizer.sizes[0] == 3 < quantizer.sizes[1] < quantizer.sizes[2]
    for channel in (0, 2):  # empty space lies among the vectors
        assert indices[:, channel].min() == 0
        assert indices[:, channel].max() == quantizer.sizes[channel] - 1


def test_far_latents_stay_at_the_outermost_levels():
    quantizer, _ = started_levels()
    indices = quantizer.encode(torch.full((1, 3, 1, 1, 1), 1e6)).flatten().tolist()
    assert indices == [size - 1 for size in quantizer.sizes]
    assert quantizer.encode(torch.full((1, 3, 1, 1, 1), -1e6)).flatten().tolist() == [0, 0, 0]


def test_codes_are_counted_codebook_by_codebook():
    quantizer, vectors = started_levels()
    indices = quantizer.encode(latents_of(vectors))
    counts = quantizer.count(indices).split(list(quantizer.sizes))
    for channel, count in enumerate(counts):
        assert torch.equal(count, torch.bincount(indices[:, channel].flatten(), minlength=len(count)))
