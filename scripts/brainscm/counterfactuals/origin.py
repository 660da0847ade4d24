"""What all counterfactuals of a study share, and what made them what they are: for their side-cars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import brainscm
from brainscm.bundle import FIXED, Bundle
from brainscm.config import Config
from brainscm.files import sha256
from brainscm.provenance import options_fingerprint

MODEL_FILES = ("covariates.tsv", "node_models.npz", "image_model.npz")


def causal_model_hash(scm_dir: Path) -> str:
    """Of the files of a study's own causal model."""
    return options_fingerprint([sha256(scm_dir / name) for name in MODEL_FILES])


def origin_of(config: Config, scm_dir: Path, code: str) -> dict[str, Any]:
    """Fields of a side-car: which causal model, options, code, seed and versions.

    The autoencoder is part of the latents' identity, which the data set's description holds.
    """
    options = config.model_dump(mode="json")
    bundle = Bundle.open(config.bundle) if config.bundle else None
    return {
        # A bundle names the model of the study that it was made of.
        "CausalModelSHA256": bundle.told["causal_model_sha256"] if bundle else causal_model_hash(scm_dir),
        "ConfigHash": options_fingerprint({key: options[key] for key in FIXED}),
        "CodeHash": code,
        "Seed": config.seed,
        "Software": {"BrainSCM": brainscm.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }
