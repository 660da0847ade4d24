"""How well each scan survives the autoencoder: the ceiling of every counterfactual."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pandas as pd
import torch

from brainscm.encoding.encoder import Encoder
from brainscm.images import Grid, Mask, Volume, read_mask, read_volume
from brainscm.parallel import side_by_side
from brainscm.training.fidelity import psnr, ssim

logger = logging.getLogger("brainscm")


Segment = Callable[[Volume, Mask], dict[str, float]]  # a scan and its brain mask -> ml of each region


def reconstruction_table(
    model: Encoder, scans: pd.DataFrame, grid: Grid, device: torch.device, segment: Segment | None = None
) -> pd.DataFrame:
    """Reconstruct every scan, in float32, and compare it with itself.

    Returns:
        scan, split, psnr_db and ssim (whole grid), psnr_brain_db and ssim_brain (inside the brain mask), and the last
        two again with the latent quantised before decoding (quantized_psnr_brain_db, quantized_ssim_brain). With
        `segment`, also `<region>_error_ml`, the reconstruction's volume less the scan's, of people not trained on: the
        floor under every regional change that a counterfactual shows.
    """

    def reconstruct(row: tuple[str, str, str, str]) -> dict[str, str | float]:
        scan, split, image, brain_mask = row
        volume, mask = read_volume(image, grid), read_mask(brain_mask)
        latents = model.encode(torch.from_numpy(volume)[None, None].to(device))
        plain, quantized = model.decode(torch.cat([latents, model.quantize(latents)]))[:, 0].cpu().numpy()
        errors = {}
        if segment and split != "train":
            before, after = segment(volume, mask), segment(plain, mask)
            errors = {f"{region}_error_ml": after[region] - before[region] for region in before}
        return {
            "scan": scan,
            "split": split,
            "psnr_db": psnr(plain, volume),
            "ssim": ssim(plain, volume),
            "psnr_brain_db": psnr(plain, volume, mask),
            "ssim_brain": ssim(plain, volume, mask),
            "quantized_psnr_brain_db": psnr(quantized, volume, mask),
            "quantized_ssim_brain": ssim(quantized, volume, mask),
            **errors,
        }

    columns = scans[["scan", "split", "image", "mask"]].astype(str)
    rows = []
    for i, row in enumerate(side_by_side(reconstruct, columns.itertuples(index=False, name=None), device), start=1):
        rows.append(row)
        if i % 50 == 0:
            logger.info("reconstructed %d of %d scans", i, len(scans))
    return pd.DataFrame(rows)
