"""From the files of a preprocessed scan to its latent."""

from __future__ import annotations

import torch
from torch import Tensor

from brainscm.encoding.encoder import Encoder
from brainscm.parallel import device_of
from brainscm.scans import ScanTable


def encode_scan(encoder: Encoder, scans: ScanTable, scan: str) -> Tensor:
    """The latent of a preprocessed scan, (1, c, x', y', z'), on the encoder's device.

    Raises:
        ScanError: the scan, or the displacement that its alignment found, cannot be read.
    """
    device = device_of(encoder)
    volume = torch.from_numpy(scans.volume(scan))[None, None].to(device)
    if not encoder.is_aligned:
        return encoder.encode(volume)
    displacements = torch.from_numpy(scans.displacement(scan))[None].to(device)
    return encoder.encode(volume, displacements, [scans.levels(scan)])
