"""Which encoder the config asks for, and the file that keeps a fitted one and knows which scans it is for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from brainscm.alignment.registration import Alignment
from brainscm.config import AutoencoderOptions
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.encoder import Encoder, Fitted
from brainscm.errors import BrainSCMError
from brainscm.files import sha256, whole
from brainscm.identity import Identity


def encoder_class(kind: str) -> type[Fitted]:
    """The encoder of a kind, which its module `encoding/<kind>.py` calls `ENCODER`."""
    found: type[Fitted] = import_module(f"brainscm.encoding.{kind}").ENCODER
    return found


def save_encoder(encoder: Fitted | Aligned, identity: Identity, path: Path) -> Identity:
    """Write an encoder to one file of tensors and plain values, which loads without running code.

    Args:
        identity: of the scans that it was fitted on.

    Returns:
        The identity of what this encoder makes of scans: see `encoder_identity`.
    """
    content = {
        "kind": encoder.kind,
        "identity": identity.encoded_by("").as_json(),
        "grid_shape": list(encoder.grid_shape),
        "options": encoder.options.model_dump(mode="json"),
        "is_aligned": encoder.is_aligned,
        "weights": {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()},
    }
    with whole(path) as partial:
        torch.save(content, partial)
    return encoder_identity(path)


def load_encoder(path: Path, device: str = "cpu") -> Encoder:
    """Load an encoder for inference.

    Raises:
        BrainSCMError: the file is not one that `save_encoder` wrote.
    """
    content = _read(path, device)
    try:
        shape = tuple(content["grid_shape"])
        options = AutoencoderOptions.model_validate(content["options"])
        inner = encoder_class(content["kind"])(shape, options)
        encoder: Fitted | Aligned = inner
        if content["is_aligned"]:
            target, weight = torch.zeros(2, *shape).clone()
            encoder = Aligned(inner, Alignment(target, weight, content["identity"]["voxel_mm"]))
        encoder.load_state_dict(content["weights"])
    except Exception as error:
        raise _not_an_encoder(path, error) from error
    # TF32 keeps 10 bits, too few for the small changes that counterfactuals make.
    torch.backends.cudnn.allow_tf32 = False
    return encoder.to(device).eval()


def encoder_identity(path: Path) -> Identity:
    """Of the scans that an encoder is for, and with the file's own hash of what it makes of them.

    Raises:
        BrainSCMError: the file is not one that `save_encoder` wrote.
    """
    content = _read(path, "cpu")
    try:
        return Identity.model_validate(content["identity"]).encoded_by(sha256(path))
    except (KeyError, ValueError) as error:
        raise _not_an_encoder(path, error) from error


def _read(path: Path, device: str) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(content, dict):
            raise TypeError
        return content
    except Exception as error:
        raise _not_an_encoder(path, error) from error


def _not_an_encoder(path: Path, error: Exception) -> BrainSCMError:
    return BrainSCMError(
        f"autoencoder: {path} is not a model of this version of BrainSCM ({type(error).__name__}); train it again."
    )
