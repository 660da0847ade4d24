"""What all counterfactuals of a study share, and what made them what they are: for their side-cars."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

import brainscm
from brainscm.bundle import FIXED, Bundle
from brainscm.config import Config
from brainscm.files import sha256
from brainscm.provenance import options_fingerprint
from brainscm.scm.model import Scm

MODEL_FILES = ("covariates.tsv", "node_models.npz", "image_model.npz")


def causal_model_hash(scm_dir: Path) -> str:
    """Of the files of a study's own causal model."""
    return options_fingerprint([sha256(scm_dir / name) for name in MODEL_FILES])


def origin_of(config: Config, scm_dir: Path, code: str, scm: Scm) -> dict[str, Any]:
    """Fields of a side-car: which causal model, options, code, seed and versions.

    Args:
        scm: that of `scm_dir`, with what new levels of the study's own scans add to it.

    The autoencoder is part of the latents' identity, which the data set's description holds.
    """
    options = config.model_dump(mode="json")
    bundle = Bundle.open(config.bundle) if config.bundle else None
    return {
        # A bundle names the model of the study that it was made of.
        "CausalModelSHA256": bundle.told["causal_model_sha256"] if bundle else causal_model_hash(scm_dir),
        "ConfigHash": options_fingerprint({key: options[key] for key in FIXED}),
        "CodeHash": code,
        **({"NewLevels": _content(scm)} if config.new_levels else {}),
        "Seed": config.seed,
        "Software": {"BrainSCM": brainscm.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def _content(scm: Scm) -> dict[str, str]:
    """What the image model's coefficients are, by column: a hash of each."""
    pairs = zip(scm.image.columns, scm.image.coefficients, strict=True)
    return {str(column): hashlib.sha256(each.tobytes()).hexdigest()[:16] for column, each in pairs}
