"""The codebook: nearest codes, k-means start, moving averages, revival of dead codes; and levels instead of codes."""

import pytest
import torch

from brainscm.encoding.quantizer import Codebook, FiniteScalars, nearest, to_vectors

CENTRES = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def clusters(seed: int, each: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return CENTRES.repeat_interleave(each, 0) + 0.1 * torch.randn(4 * each, 2, generator=generator)


def started_codebook(size: int = 4, decay: float = 0.9) -> Codebook:
    codebook = Codebook(size, 2, decay)
    codebook.start(clusters(0), torch.Generator().manual_seed(1))
    return codebook


def test_every_position_gets_its_nearest_code():
    codebook = started_codebook(size=16)
    latents = 10 * torch.rand(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    quantized, indices = codebook(latents)
    expected = torch.cdist(to_vectors(latents), codebook.codes).argmin(1).reshape(2, 3, 4, 5)
    assert torch.equal(indices, expected)
    assert torch.equal(quantized[1, :, 2, 3, 4], codebook.codes[indices[1, 2, 3, 4]])


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


SD = torch.tensor([0.1, 1.0, 20.0])[:, None, None, None]


def started_levels(levels: int = 5) -> tuple[FiniteScalars, torch.Tensor]:
    latents = 3 + SD * torch.randn(4, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    quantizer = FiniteScalars(3, levels)
    quantizer.start(to_vectors(latents), torch.Generator())
    return quantizer, latents


@pytest.mark.parametrize("levels", [2, 5, 8])
def test_every_channel_snaps_to_its_levels_and_all_are_used(levels):
    quantizer, latents = started_levels(levels)
    quantized, indices = quantizer(latents)
    assert quantized.shape == indices.shape == latents.shape
    for channel in range(3):
        assert len(quantized[:, channel].unique()) == levels
    assert torch.equal(indices.unique(), torch.arange(quantizer.size))
    assert torch.equal(quantizer(quantized)[0], quantized)


def test_levels_follow_the_standard_deviation_and_more_of_them_lose_less():
    lost = []
    for levels in (2, 5, 8):
        quantizer, latents = started_levels(levels)
        lost.append(((quantizer(latents)[0] - latents) / SD).square().mean((0, 2, 3, 4)))
    assert (lost[0] > lost[1]).all()
    assert (lost[1] > lost[2]).all()
    # the same share of each channel's variance, whatever its unit; the best 5 levels for a normal variable leave 0.08
    assert 0.08 < lost[1].min() <= lost[1].max() < 0.11


def test_far_latents_stay_at_the_outermost_levels():
    quantizer, _ = started_levels()
    quantized, indices = quantizer(torch.full((1, 3, 1, 1, 1), 1e6))
    assert torch.isfinite(quantized).all()
    assert indices.flatten().tolist() == [4, 9, 14]
