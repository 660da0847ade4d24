"""How far a training has come, and its figures so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

COLUMNS = (
    "step", "split", "loss", "intensity", "dissimilarity", "commitment", "gradient", "fourier", "psnr_brain_db",
    "quantized_psnr_brain_db", "bits_per_voxel", "codebook_usage", "perplexity", "lr", "seconds", "volumes_per_second",
    "loading_share", "gpu_memory_gb",
)  # fmt: skip


@dataclass
class Progress:
    """All that changes while training, beside the weights and the optimiser.

    The interval is what lies between two validations.
    """

    step: int = 0
    seconds: float = 0.0
    rollbacks: int = 0
    best_psnr: float = -math.inf
    best_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    interval: dict[str, float] = field(default_factory=dict)  # sums of the training's terms
    interval_steps: int = 0
    interval_seconds: float = 0.0
    interval_loading_seconds: float = 0.0  # of these: waiting for a batch

    def count_step(self, terms: Mapping[str, float], seconds: float) -> None:
        for name, value in terms.items():
            self.interval[name] = self.interval.get(name, 0.0) + value
        self.step += 1
        self.interval_steps += 1
        self.seconds += seconds
        self.interval_seconds += seconds

    def close_interval(self, batch_size: int) -> dict[str, float]:
        """Means over the interval's steps and how fast they were, or nothing if there was none; begin the next."""
        figures: dict[str, float] = {}
        if self.interval_steps:
            figures = {
                **{name: total / self.interval_steps for name, total in self.interval.items()},
                "seconds": self.seconds,
                "volumes_per_second": self.interval_steps * batch_size / self.interval_seconds,
                "loading_share": self.interval_loading_seconds / self.interval_seconds,
            }
        self.interval, self.interval_steps = {}, 0
        self.interval_seconds = self.interval_loading_seconds = 0.0
        return figures


def history_table(history: list[dict[str, Any]]) -> pd.DataFrame:
    """history.tsv: one row a validation and split, with the same columns whatever has happened so far."""
    return pd.DataFrame(history, columns=list(COLUMNS))
