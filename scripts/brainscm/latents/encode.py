"""Encode the usable scans, a shard at a time, each into a store of its own."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brainscm.encoding.encoder import Encoder
from brainscm.encoding.model import encoder_identity, load_encoder
from brainscm.encoding.scan import encode_scan
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity
from brainscm.latents.store import LatentStore
from brainscm.parallel import choose_device, device_of, side_by_side
from brainscm.scans import ScanTable
from brainscm.shards import WHOLE, Shard

logger = logging.getLogger("brainscm")


def run(scans: ScanTable, identity: Identity, model: Path, store: Path, shard: Shard = WHOLE) -> None:
    """Encode the scans of a shard, of this identity, with the model of a file into the `LatentStore` at `store`.

    Raises:
        BrainSCMError: the model is for scans that were preprocessed differently.
        ScanError: a scan cannot be read, is not finite, or does not lie on the grid of the others.
    """
    encoded = encoder_identity(model)
    here = f"{scans.preproc_dir}"
    mend = "train the autoencoder again, or preprocess the scans as its own were"
    identity.encoded_by(encoded.encoder).check(encoded, here, str(model), mend)
    encoder = load_encoder(model, choose_device("auto").type)
    if scans.grid.shape != encoder.grid_shape:
        size = "×".join(map(str, encoder.grid_shape))
        raise BrainSCMError(f"{here} and {model}: the grid is {scans.grid} here and {size} there; {mend}.")
    encode_scans(scans, encoder, encoded, store, shard)


def encode_scans(scans: ScanTable, encoder: Encoder, identity: Identity, store: Path, shard: Shard = WHOLE) -> None:
    """Encode the usable scans of a shard into the `LatentStore` at `store`.

    Each scan is encoded by itself: alone it gives the same latent as in company, and memory does not grow.

    Args:
        identity: of what the encoder makes of the scans.

    Raises:
        ScanError: a scan cannot be read, is not finite, or does not lie on the grid of the others.
    """
    started = time.perf_counter()
    chosen = [scan for scan in scans.usable["scan"] if shard.holds(scan)]

    def encode(scan: str) -> NDArray[np.float32]:
        return encode_scan(encoder, scans, scan)[0].cpu().numpy()

    with LatentStore.create(store, chosen, encoder.latent_shape, encoder.layout, identity) as latents:
        for done, latent in enumerate(side_by_side(encode, chosen, device_of(encoder)), start=1):
            latents[done - 1] = latent
            if done % 50 == 0:
                seconds_left = (time.perf_counter() - started) / done * (len(chosen) - done)
                logger.info("encoded %d of %d scans, %.0f s left", done, len(chosen), seconds_left)
