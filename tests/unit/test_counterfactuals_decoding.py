"""Decoding strategies: what each keeps, and what each calls the difference."""

import pytest
import torch
from torch import Tensor

from brainscm.config import QueryOptions
from brainscm.counterfactuals.decoding import STRATEGIES, pass_through
from brainscm.encoding.encoder import Factual, Unaligned


class Rounding(Unaligned):
    """Decodes a latent of 8 numbers into 8 voxels, scaled; its codebook is the whole numbers."""

    kind = "rounding"
    grid_shape = (2, 2, 2)
    latent_shape = (1, 2, 2, 2)

    def encode(self, volumes: Tensor) -> Tensor:
        return volumes / 0.5

    def quantize(self, latents: Tensor) -> Tensor:
        return latents.round()

    def decode(self, latents: Tensor) -> Tensor:
        return 0.5 * latents


@pytest.fixture
def factual() -> Factual:
    x = torch.rand(3, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.5
    return Factual(Rounding(), x, Rounding().encode(x) + 0.3)  # what the autoencoder loses: 0.15 everywhere


def test_residual_decoding_keeps_what_the_autoencoder_loses(factual: Factual) -> None:
    shift = torch.full_like(factual.latents, 0.2)
    volume, difference = STRATEGIES["residual"](factual, shift)
    torch.testing.assert_close(volume, factual.volumes + 0.1)
    torch.testing.assert_close(difference, torch.full_like(difference, 0.1))


def test_a_null_shift_returns_the_scan_itself_under_residual_decoding(factual: Factual) -> None:
    factual.volumes[0, 0, 0, 0, 0] = -0.01  # even where resampling left a value below zero
    volume, difference = STRATEGIES["residual"](factual, torch.zeros_like(factual.latents))
    assert torch.equal(volume, factual.volumes)
    assert not difference.any()


@pytest.mark.parametrize("name", ["direct", "quantized"])
def test_other_strategies_measure_the_difference_within_the_decoder(factual: Factual, name: str) -> None:
    null, difference = STRATEGIES[name](factual, torch.zeros_like(factual.latents))
    assert not difference.any()
    assert not torch.equal(null, factual.volumes)


def test_intensities_do_not_fall_below_zero(factual: Factual) -> None:
    volume, difference = STRATEGIES["residual"](factual, torch.full_like(factual.latents, -50.0))
    assert (volume == 0).all()
    torch.testing.assert_close(difference, -factual.volumes)


def test_quantized_decoding_swallows_a_small_shift_and_pass_through_says_so(factual: Factual) -> None:
    latents = torch.zeros(1, 1, 2, 2, 2)
    at_code = Factual(Rounding(), factual.volumes[:1], latents)
    small = torch.full_like(latents, 0.4)
    _, difference = STRATEGIES["quantized"](at_code, small)
    assert not difference.any()
    assert pass_through(at_code, small).tolist() == [0.0]
    whole = torch.full_like(latents, 3.0)
    assert pass_through(at_code, whole).tolist() == [1.0]
    assert torch.isnan(pass_through(at_code, torch.zeros_like(latents))).all()


def test_every_strategy_that_the_config_allows_exists() -> None:
    allowed = QueryOptions.model_fields["decode"].annotation
    assert set(STRATEGIES) == set(allowed.__args__)  # type: ignore[union-attr]
