"""By what one watches a training: the picture of a validation scan, and its curves as TensorBoard events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from brainscm.files import whole
from brainscm.images import Volume


def draw_progress(volume: Volume, reconstruction: Volume, title: str, path: Path) -> None:
    """Write a PNG: rows input, reconstruction, error (×2); columns the three middle planes of (x, y, z) volumes."""
    figure = Figure(figsize=(7.2, 7.2), facecolor="black", layout="tight")
    axes = figure.subplots(3, 3)
    error = reconstruction - volume
    rows = (("input", volume, "gray", 0, 1.2), ("reconstruction", reconstruction, "gray", 0, 1.2))
    for row, (name, values, colours, low, high) in enumerate((*rows, ("error", error, "RdBu_r", -0.5, 0.5))):
        for axis in range(3):
            plane = np.take(values, values.shape[axis] // 2, axis=axis)
            axes[row, axis].imshow(plane.T, origin="lower", cmap=colours, vmin=low, vmax=high)
            axes[row, axis].set_axis_off()
        axes[row, 0].set_title(name, color="white", loc="left", fontsize=9)
    figure.suptitle(title, color="white", fontsize=10)
    with whole(path) as partial:
        figure.savefig(partial, dpi=100)


class Events:
    """TensorBoard events in `folder`: `<figure>/<split>` for each number of the history's rows, by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows of the history, all of one step.

        The first rows of a process take back what an interrupted one had written from that step on.
        """
        step = rows[0]["step"]
        if self._writer is None:
            # Files are named by the second: without the step, a run resumed within it would overwrite the first.
            self._writer = SummaryWriter(str(self.folder), purge_step=step, filename_suffix=f".from-step-{step:08d}")
        for row in rows:
            for name, value in row.items():
                if isinstance(value, float) and math.isfinite(value):
                    self._writer.add_scalar(f"{name}/{row['split']}", value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
