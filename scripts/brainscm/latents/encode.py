"""Stream the scans through the encoder into one zarr store."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from numpy.typing import NDArray

from brainscm.encoding.layout import Mirror
from brainscm.encoding.model import Autoencoder
from brainscm.images import Grid, read_volume
from brainscm.parallel import side_by_side

logger = logging.getLogger("brainscm")


def encode_scans(
    scans: pd.DataFrame, model: Autoencoder, grid: Grid, path: Path, model_sha256: str, device: torch.device
) -> None:
    """Write the group `path` with the array `latents` (scan, c, x, y, z), one chunk a scan; its attributes are the
    scans' ids, the numbers of channels that belong together (`parts`), and their `Mirror`, null where there is none.

    Each scan is encoded by itself: alone it gives the same latent as in company, and memory does not grow. The store is
    renamed into place when it is whole.

    Raises:
        ScanError: a scan cannot be read, is not finite, or does not lie on `grid`.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    group = zarr.create_group(store=unfinished)
    shape = (len(scans), *model.latent_shape)
    latents = group.create_array("latents", shape=shape, chunks=(1, *model.latent_shape), dtype="float32")
    group.attrs.update({"scans": scans["scan"].tolist(), "model_sha256": model_sha256, "parts": list(model.parts)})
    mirror = model.mirror
    group.attrs["mirror"] = None if mirror is None else asdict(mirror)
    started = time.perf_counter()

    def encode(image: str) -> NDArray[np.float32]:
        volume = torch.from_numpy(read_volume(image, grid))[None, None].to(device)
        return model.encode(volume)[0].cpu().numpy()

    for i, latent in enumerate(side_by_side(encode, scans["image"], device)):
        latents[i] = latent
        if (i + 1) % 50 == 0:
            seconds_left = (time.perf_counter() - started) / (i + 1) * (len(scans) - i - 1)
            logger.info("encoded %d of %d scans, %.0f s left", i + 1, len(scans), seconds_left)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(unfinished, path)


def stored_mirror(store: zarr.Group) -> Mirror | None:
    """The `Mirror` of the latents in a group that `encode_scans` wrote."""
    found: Any = store.attrs["mirror"]
    return None if found is None else Mirror(**found)
