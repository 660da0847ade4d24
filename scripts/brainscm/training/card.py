"""The model's card: what a trained autoencoder was made from, and whether it suits the scans at hand."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import brainscm
from brainscm.config import AutoencoderOptions
from brainscm.errors import BrainSCMError
from brainscm.files import sha256
from brainscm.images import Grid
from brainscm.provenance import options_fingerprint
from brainscm.training.fit import FittedAutoencoder


def make_card(
    fitted: FittedAutoencoder,
    model_path: Path,
    preprocessing: Mapping[str, Any],
    options: AutoencoderOptions,
    seed: int,
    reconstruction: pd.DataFrame,
) -> dict[str, Any]:
    """Everything one must know of a model to trust it, or to make it again, as plain JSON values."""
    metrics = reconstruction.drop(columns="scan").groupby("split").mean()
    return {
        "kind": fitted.model.kind,
        "model_sha256": sha256(model_path),
        "preprocessing": dict(preprocessing),
        "preprocessing_fingerprint": options_fingerprint(preprocessing),
        "grid": {"shape": list(fitted.grid.shape), "affine": fitted.grid.affine.tolist()},
        "latent_shape": list(fitted.model.latent_shape),
        "data": {
            "fingerprint": fitted.data_fingerprint,
            "scans": {str(split): int(count) for split, count in reconstruction["split"].value_counts().items()},
        },
        "options": options.model_dump(),
        "seed": seed,
        "metrics": {str(split): row.dropna().to_dict() for split, row in metrics.iterrows()},
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


def check_card(
    card_path: Path, model_path: Path, preprocessing: Mapping[str, Any], grid: Grid | None = None
) -> dict[str, Any]:
    """Read a card and make sure that the model may be used on scans preprocessed so and lying on `grid`.

    Raises:
        BrainSCMError: the card is not this model's, or the scans were preprocessed otherwise; it names the difference.
    """
    card = json.loads(card_path.read_text())
    if card["model_sha256"] != sha256(model_path):
        raise BrainSCMError(f"{card_path} is not the card of {model_path}; train the autoencoder again.")
    differences = _differences(card["preprocessing"], json.loads(json.dumps(preprocessing, default=str)))
    if grid is not None:
        trained_on = Grid(tuple(card["grid"]["shape"]), np.array(card["grid"]["affine"]))
        if not trained_on.agrees_with(grid):
            differences.append(f"the grid is {grid} instead of {trained_on}")
    if differences:
        raise BrainSCMError(
            f"{model_path}: the scans were preprocessed otherwise than the model's ({'; '.join(differences)}); "
            "preprocess them as the model asks, or train the autoencoder again."
        )
    return card


def _differences(trained_on: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*trained_on, *given}):
        before, now = trained_on.get(key), given.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} is {now!r} instead of {before!r}")
    return found
