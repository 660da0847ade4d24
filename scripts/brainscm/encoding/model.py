"""How an encoder is built from the config, and kept in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from brainscm.alignment.registration import Alignment
from brainscm.config import AutoencoderOptions
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.pca import PCA
from brainscm.encoding.vqvae import VQVAE
from brainscm.errors import BrainSCMError
from brainscm.files import whole


def build_vqvae(options: AutoencoderOptions, grid_shape: tuple[int, int, int]) -> VQVAE:
    """An untrained VQ-VAE of the options' size."""
    return VQVAE(grid_shape, **_architecture(options))


def _architecture(options: AutoencoderOptions) -> dict[str, Any]:
    names = ["channels", "residual_blocks", "latent_channels", "quantizer", "fsq_levels"]
    names += ["codebook_size", "codebook_decay"]
    return {name: getattr(options, name) for name in names}


def save_autoencoder(model: VQVAE | PCA | Aligned, options: AutoencoderOptions, path: Path) -> None:
    """Write a model to one file of tensors and plain values, which loads without running code; atomic."""
    inner = model.inner if isinstance(model, Aligned) else model
    architecture = _architecture(options) if isinstance(inner, VQVAE) else {"components": inner.latent_shape[0]}
    content = {
        "kind": model.kind,
        "grid_shape": list(model.grid_shape),
        "architecture": architecture,
        "aligned_voxel_mm": model.alignment.voxel_mm if isinstance(model, Aligned) else None,
        "weights": {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
    }
    save_atomically(content, path)


def load_autoencoder(path: Path, device: str = "cpu") -> VQVAE | PCA | Aligned:
    """Load a model for inference.

    Raises:
        BrainSCMError: the file is not a model that `save_autoencoder` wrote.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        kinds: dict[str, type[VQVAE] | type[PCA]] = {"vqvae": VQVAE, "pca": PCA}
        inner = kinds[content["kind"]](tuple(content["grid_shape"]), **content["architecture"])
        model: VQVAE | PCA | Aligned = inner
        if content["aligned_voxel_mm"] is not None:
            target, weight = torch.zeros(2, *content["grid_shape"]).clone()
            model = Aligned(inner, Alignment(target, weight, content["aligned_voxel_mm"]))
        model.load_state_dict(content["weights"])
    except Exception as error:
        raise BrainSCMError(
            f"autoencoder: {path} is not a model of this version of BrainSCM ({type(error).__name__}); train it again."
        ) from error
    # TF32 keeps 10 bits, too few for the small changes that counterfactuals make.
    torch.backends.cudnn.allow_tf32 = False
    return model.to(device).eval()


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to a neighbour, then rename: a reader finds the old file or the new one, never half of it."""
    with whole(path) as partial:
        torch.save(content, partial)
