"""How well each scan survives the autoencoder: the ceiling of every counterfactual."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from brainscm.encoding.encoder import Encoder
from brainscm.encoding.scan import encode_scan
from brainscm.files import reconstruction_name
from brainscm.images import write_coarsely
from brainscm.parallel import device_of, side_by_side
from brainscm.regions import MeasureRegions
from brainscm.scans import ScanTable
from brainscm.training.fidelity import psnr, ssim

logger = logging.getLogger("brainscm")

BRIGHTEST = 1.6  # of what is kept of a reconstruction; white matter is 1


def reconstruction_table(encoder: Encoder, scans: ScanTable, measure: MeasureRegions, folder: Path) -> pd.DataFrame:
    """Reconstruct every usable scan, in float32, and compare it with itself.

    Args:
        folder: receives each reconstruction, to be looked at: in 256 steps, under `reconstruction_name`.

    Returns:
        scan, split, psnr_db and ssim (whole grid), psnr_brain_db and ssim_brain (inside the brain mask), the last two
        again with the latent quantised before decoding (quantized_psnr_brain_db, quantized_ssim_brain), and, of scans
        not trained on, `<region>_error_ml`, the reconstruction's volume less the scan's: the floor under every regional
        change that a counterfactual shows.
    """

    def reconstruct(scan: str) -> dict[str, str | float]:
        split = str(scans.rows.at[scan, "split"])
        volume, geometry = scans.volume(scan), scans.geometry(scan)
        mask = geometry.mask
        latents = encode_scan(encoder, scans, scan)
        plain, quantized = encoder.decode(torch.cat([latents, encoder.quantize(latents)]))[:, 0].cpu().numpy()
        kept = np.clip(plain, 0, BRIGHTEST)
        write_coarsely(folder / reconstruction_name(scan), kept, scans.grid)
        errors = {}
        if split != "train":
            of_scan = measure(volume, geometry)
            before, after = of_scan.volumes_ml(volume), of_scan.volumes_ml(plain)
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

    rows = []
    for row in side_by_side(reconstruct, scans.usable["scan"], device_of(encoder)):
        rows.append(row)
        if len(rows) % 50 == 0:
            logger.info("reconstructed %d of %d scans", len(rows), len(scans.usable))
    return pd.DataFrame(rows)
