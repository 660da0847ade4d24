"""Encode every usable scan into one store."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brainscm.encoding.encoder import Encoder
from brainscm.identity import Identity
from brainscm.images import Grid, read_volume
from brainscm.latents.store import LatentStore
from brainscm.parallel import side_by_side

logger = logging.getLogger("brainscm")


def encode_scans(
    scans: pd.DataFrame, encoder: Encoder, grid: Grid, path: Path, identity: Identity, device: torch.device
) -> None:
    """Encode scans (rows: scan, image) into the `LatentStore` at `path`.

    Each scan is encoded by itself: alone it gives the same latent as in company, and memory does not grow.

    Raises:
        ScanError: a scan cannot be read, is not finite, or does not lie on `grid`.
    """
    started = time.perf_counter()

    def encode(image: str) -> NDArray[np.float32]:
        volume = torch.from_numpy(read_volume(image, grid))[None, None].to(device)
        return encoder.encode(volume)[0].cpu().numpy()

    with LatentStore.create(path, scans["scan"].tolist(), encoder.latent_shape, encoder.layout, identity) as latents:
        for i, latent in enumerate(side_by_side(encode, scans["image"], device)):
            latents[i] = latent
            if (i + 1) % 50 == 0:
                seconds_left = (time.perf_counter() - started) / (i + 1) * (len(scans) - i - 1)
                logger.info("encoded %d of %d scans, %.0f s left", i + 1, len(scans), seconds_left)
