"""A cohort's scans with their latents and the encoder that made them, which have been checked against each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainscm.encoding.encoder import Encoder
from brainscm.encoding.model import encoder_identity, load_encoder
from brainscm.latents.store import LatentStore
from brainscm.scans import ScanTable
from brainscm.tissue_levels import TissueLevels


@dataclass(frozen=True)
class EncodedScans:
    """What all stages after the encoding start from.

    Attributes:
        scans: usable are those that have a latent.
        store: the latents.
        encoder: made them, and decodes them.
    """

    scans: ScanTable
    store: LatentStore
    encoder: Encoder

    @classmethod
    def open(
        cls, scans_tsv: Path | str, qc_tsv: Path | str, latents: Path | str, model: Path | str, device: str = "cpu"
    ) -> EncodedScans:
        """Read what indexing, quality control, encoding and training have written.

        Args:
            device: where the encoder is put.

        Raises:
            BrainSCMError: one of the files cannot be used, or another encoder made the latents.
        """
        scans, store, model = ScanTable.read(scans_tsv, qc_tsv), LatentStore.open(latents), Path(model)
        store.identity.check(encoder_identity(model), str(latents), str(model), "run encode_scans again")
        encoded = cls(scans, store, load_encoder(model, device))
        return encoded.leave_out(store.lacking(scans.rows["scan"]))

    def leave_out(self, reasons: pd.Series) -> EncodedScans:
        """As `ScanTable.leave_out`."""
        return replace(self, scans=self.scans.leave_out(reasons))

    def levels(self, scan: str) -> list[TissueLevels]:
        """How bright a scan's tissues are, as the encoder takes it: nothing, if it needs none.

        Raises:
            ScanError: that is not known.
        """
        return [self.scans.levels(scan)] if self.encoder.is_aligned else []

    def mean_levels(self, scans: Iterable[str]) -> list[TissueLevels]:
        """How bright tissues are in the mean of some scans, as the encoder takes it."""
        found = np.array([astuple(level) for scan in scans for level in self.levels(scan)])
        return [TissueLevels(*found.mean(axis=0).tolist())] if len(found) else []
