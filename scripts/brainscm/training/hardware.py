"""Where a network is trained and in which numbers, and what is said when its memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from brainscm.config import AutoencoderOptions
from brainscm.encoding.encoder import Network
from brainscm.errors import BrainSCMError
from brainscm.images import Mask, Volume
from brainscm.parallel import choose_device
from brainscm.training.volume_store import VolumeStore


class Passes:
    """The two halves of a network, on the device and in the precision that it is trained in."""

    def __init__(self, network: Network, options: AutoencoderOptions) -> None:
        self.device = choose_device(options.device)
        self.precision = training_precision(self.device)
        network.to(self.device)
        self._encoder: Callable[[Tensor], Tensor] = network.encoder
        self._decoder: Callable[[Tensor], Tensor] = network.decoder
        if options.compile:  # the two functions and not the module, whose weights keep their names
            self._encoder = torch.compile(self._encoder, dynamic=False)
            self._decoder = torch.compile(self._decoder, dynamic=False)

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    @property
    def precision_name(self) -> str:
        return str(self.precision).removeprefix("torch.")

    @property
    def gpu_memory_gb(self) -> float | None:
        """The most that was used so far."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None

    def encode(self, volumes: Tensor) -> Tensor:
        """Latents, in the training's precision."""
        with self._autocast():
            return self._encoder(volumes)

    def decode(self, latents: Tensor) -> Tensor:
        """Volumes, float32."""
        with self._autocast():
            return self._decoder(latents).float()

    def read(self, store: VolumeStore, row: int) -> tuple[Tensor, Tensor]:
        """One volume and its mask, (1, 1, x, y, z)."""
        return self.take(store.volumes[[row]], store.masks[[row]])

    def take(self, volumes: Volume, masks: Mask) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(volumes).to(self.device).float(), torch.from_numpy(masks).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)


def training_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies in it: GPUs since Ampere, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if native else torch.float32


@contextmanager
def told_when_memory_runs_out(options: AutoencoderOptions) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into advice.

    Raises:
        BrainSCMError: the GPU's memory does not hold a training step.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = ["a smaller autoencoder.batch_size"] if options.batch_size > 1 else []
        advice += [] if options.recompute else ["autoencoder.recompute: true"]
        raise BrainSCMError(
            f"autoencoder: the GPU's memory does not hold a training step; try {', '.join(advice)}"
            f"{', ' if advice else ''}fewer autoencoder.channels, or larger voxels (preprocess.voxel_mm)."
        ) from error
