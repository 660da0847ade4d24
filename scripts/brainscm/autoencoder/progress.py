"""The picture of a validation scan, its reconstruction and the error, by which one watches the training."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from brainscm.autoencoder.volumes import Volume


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
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, dpi=100, format="png")
    os.replace(unfinished, path)
