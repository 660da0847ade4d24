"""How well each scan survives the autoencoder: the ceiling of every counterfactual."""

from __future__ import annotations

import logging

import pandas as pd
import torch

from brainscm.autoencoder.fidelity import psnr, ssim
from brainscm.autoencoder.model import Autoencoder
from brainscm.autoencoder.volumes import Grid, read_mask, read_volume

logger = logging.getLogger("brainscm")


def reconstruction_table(model: Autoencoder, scans: pd.DataFrame, grid: Grid, device: torch.device) -> pd.DataFrame:
    """Reconstruct every scan, one at a time and in float32, and compare it with itself.

    Returns:
        scan, split, psnr_db and ssim (whole grid), psnr_brain_db and ssim_brain (inside the brain mask), and the last
        two again with the latent quantised before decoding (quantized_psnr_brain_db, quantized_ssim_brain).
    """
    rows = []
    columns = scans[["scan", "split", "image", "mask"]].astype(str)
    for i, (scan, split, image, brain_mask) in enumerate(columns.itertuples(index=False), start=1):
        volume, mask = read_volume(image, grid), read_mask(brain_mask)
        latents = model.encode(torch.from_numpy(volume)[None, None].to(device))
        plain = model.decode(latents)[0, 0].cpu().numpy()
        quantized = model.decode(model.quantize(latents))[0, 0].cpu().numpy()
        rows.append(
            {
                "scan": scan,
                "split": split,
                "psnr_db": psnr(plain, volume),
                "ssim": ssim(plain, volume),
                "psnr_brain_db": psnr(plain, volume, mask),
                "ssim_brain": ssim(plain, volume, mask),
                "quantized_psnr_brain_db": psnr(quantized, volume, mask),
                "quantized_ssim_brain": ssim(quantized, volume, mask),
            }
        )
        if i % 50 == 0:
            logger.info("reconstructed %d of %d scans", i, len(scans))
    return pd.DataFrame(rows)
