"""PSNR and SSIM against values known by hand."""

import numpy as np
import pytest

from brainscm.training.fidelity import psnr, ssim

rng = np.random.default_rng(0)
VOLUME = rng.random((16, 16, 16), np.float32)


def test_psnr_of_a_constant_error_is_its_decibels():
    assert psnr(VOLUME, VOLUME + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(VOLUME, VOLUME + 0.1, data_range=2) == pytest.approx(20 + 20 * np.log10(2), abs=1e-4)


def test_equal_volumes_have_infinite_psnr_and_ssim_one():
    assert psnr(VOLUME, VOLUME) == np.inf
    assert ssim(VOLUME, VOLUME) == pytest.approx(1)


def test_the_mask_hides_errors_outside_it():
    mask = np.zeros(VOLUME.shape, bool)
    mask[:4] = True
    damaged = VOLUME.copy()
    damaged[12:] = 0
    assert psnr(damaged, VOLUME, mask) == np.inf
    assert ssim(damaged, VOLUME, mask) == pytest.approx(1)
    assert psnr(damaged, VOLUME) < 20
    assert ssim(damaged, VOLUME) < ssim(damaged, VOLUME, mask)
