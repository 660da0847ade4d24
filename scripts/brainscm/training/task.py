"""What a training depends on, in one object that a file can hold for the other processes of the same training."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from brainscm.config import AutoencoderOptions
from brainscm.identity import Identity
from brainscm.scans import ScanTable


class TrainingTask(BaseModel):
    """A training: on which scans, of what, and where its state is kept.

    Attributes:
        scans_tsv, qc_tsv: the cohort's index and its quality control.
        identity: of its scans.
        work_dir: holds the state, so that a training that was stopped goes on from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scans_tsv: Path
    qc_tsv: Path
    identity: Identity
    options: AutoencoderOptions
    seed: int
    work_dir: Path

    @cached_property
    def scans(self) -> ScanTable:
        return ScanTable.read(self.scans_tsv, self.qc_tsv)

    @property
    def is_aligned(self) -> bool:
        """Whether the encoder is fitted on scans brought to the template."""
        return self.options.alignment != "none"

    @property
    def folder(self) -> Path:
        """Where all trainings keep their states."""
        return self.work_dir / "autoencoder"
