"""The model's card: all that one must know of a trained autoencoder to trust it, or to make it again."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pandas as pd
import torch

import brainscm
from brainscm.encoding.encoder import Encoder
from brainscm.identity import Identity
from brainscm.training.fit import FittedAutoencoder
from brainscm.training.task import TrainingTask


def make_card(
    task: TrainingTask,
    fitted: FittedAutoencoder,
    encoder: Encoder,
    identity: Identity,
    reconstruction: pd.DataFrame,
) -> dict[str, Any]:
    """The card as plain JSON values.

    Args:
        encoder: what was fitted, as it was written. identity: of what it makes of scans.
        reconstruction: of every scan, as from `reconstruction_table`.
    """
    grid = task.scans.grid
    metrics = reconstruction.drop(columns="scan").groupby("split").mean()
    metrics = metrics.replace(np.inf, np.nan)  # the PSNR of what survives exactly, which JSON does not know
    return {
        "kind": encoder.kind,
        "identity": identity.as_json(),
        "grid": {"shape": list(grid.shape), "affine": grid.affine.tolist()},
        "latent_shape": list(encoder.latent_shape),
        "data": {
            "fingerprint": fitted.data_fingerprint,
            "scans": {str(split): int(count) for split, count in reconstruction["split"].value_counts().items()},
        },
        "options": task.options.model_dump(),
        "seed": task.seed,
        "metrics": {str(split): row.dropna().to_dict() for split, row in metrics.iterrows()},
        "bits_per_voxel": fitted.bits_per_voxel,
        "parameters": fitted.parameters,
        "steps": fitted.steps,
        "best_step": fitted.best_step,
        "seconds": round(fitted.seconds, 1),
        "device": fitted.device,
        "precision": fitted.precision,
        "versions": {
            "brainscm": brainscm.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
