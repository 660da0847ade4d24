"""What every encoder offers the later stages, and what the modules that hold one build on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from brainscm.alignment.displacement import Spline
from brainscm.config import AutoencoderOptions
from brainscm.encoding.layout import Layout
from brainscm.encoding.quantizer import Quantizer
from brainscm.errors import BrainSCMError
from brainscm.tissue_levels import TissueLevels

Codes = dict[str, Tensor]  # whole numbers by what they are of, each (n, …); none is negative
Maps = Mapping[str, Callable[[Tensor], Tensor]]
Found = TypeVar("Found")
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # called once a pass; volumes and brain masks (n, 1, x, y, z)


class Encoder(Protocol):
    """Volumes (n, 1, x, y, z) to latents (n, c, x', y', z') and back, all float32.

    Attributes:
        kind: what the config calls it.
        grid_shape: (x, y, z). latent_shape: (c, x', y', z').
        layout: of a latent.
        is_aligned: whether a scan is encoded together with its displacement to the template.
    """

    kind: str
    grid_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int, int]
    is_aligned: bool

    @property
    def layout(self) -> Layout: ...

    @property
    def maps(self) -> Maps:
        """What latents tell of each voxel of the template, by name: functions of latents that give (n, 1, x, y, z)."""
        ...

    def encode(
        self, volumes: Tensor, displacements: Tensor | None = None, levels: Sequence[TissueLevels] = ()
    ) -> Tensor:
        """Latents of volumes.

        `displacements` (n, 3, x/2, y/2, z/2), voxels, are those that the alignment stage found; where they are not at
        hand, as for a volume that was made and not scanned, an encoder that needs them finds them itself. `levels`:
        how bright tissues are in each volume, which an encoder that is not aligned does not need.
        """
        ...

    def quantize(self, latents: Tensor) -> Tensor:
        """What the quantiser makes of latents; the latents themselves where there is none."""
        ...

    def to_codes(self, latents: Tensor) -> Codes:
        """Latents as whole numbers, of which they can be made again but for what `docs/reference/outputs.md` says.

        Raises:
            BrainSCMError: the encoder has no codes.
        """
        ...

    def of_codes(self, codes: Codes) -> Tensor:
        """The latents that codes stand for."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Volumes of latents, which are taken as they are."""
        ...

    def appearance(self, latents: Tensor) -> Tensor:
        """The part of `decode` that several shifts of one latent share, (n, 1, x, y, z): see `apply_shift`."""
        ...

    def transport(self, shift: Tensor, latents: Tensor, mean: Tensor) -> Tensor:
        """What a shift of the mean participant's latent `mean` (c, x', y', z') is for participants of these latents."""
        ...

    def apply_shift(self, factual: Factual, shift: Tensor) -> Tensor:
        """The scans themselves under a shift of their latents; a scan whose shift is null stays as it is."""
        ...

    def nearby(self, factual: Factual, shift: Tensor, volume: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What shifts near one would make of a scan, from what that one has made of it; None where each is as cheap.

        Args:
            factual: of one scan. volume: (1, 1, x, y, z), the counterfactual.

        Returns:
            (by how much the shift differs, by how much the appearance of the mean participant does, (1, x, y, z)) ->
            the counterfactual, (1, 1, x, y, z).
        """
        ...

    def motion(self, factual: Factual, shift: Tensor) -> Tensor:
        """Where what a shift moves comes from: p + motion(p) in the scan, for a voxel p; (n, 3, x, y, z) in voxels."""
        ...


@dataclass(frozen=True)
class Factual:
    """Observed scans, and what the decoder makes of their latents, which several questions to them share.

    Attributes:
        volumes: x, (n, 1, x, y, z).
        latents: z, (n, c, x', y', z'), of `encoder`, on the same device.
        levels: how bright the tissues of each scan are; none for an encoder that is not aligned.
    """

    encoder: Encoder
    volumes: Tensor
    latents: Tensor
    levels: Sequence[TissueLevels] = ()
    _of_shift: list[tuple[Tensor, Any]] = field(default_factory=list, init=False, repr=False, compare=False)

    def of_shift(self, shift: Tensor, find: Callable[[], Found]) -> Found:
        """What is to be found of a shift, once while the same is asked about; one shift's is held."""
        if not self._of_shift or not torch.equal(self._of_shift[0][0], shift):
            self._of_shift[:] = [(shift.clone(), find())]
        found: Found = self._of_shift[0][1]
        return found

    @cached_property
    def splines(self) -> list[Spline]:
        """Through each of the volumes."""
        return [Spline.through(volume) for volume in self.volumes[:, 0]]

    @cached_property
    def quantized(self) -> Tensor:
        """q(z)."""
        return self.encoder.quantize(self.latents)

    @cached_property
    def decoded(self) -> Tensor:
        """D(z)."""
        return self.encoder.decode(self.latents)

    @cached_property
    def appearance(self) -> Tensor:
        """What shifts of z have in common, see `Encoder.appearance`."""
        return self.encoder.appearance(self.latents)

    @cached_property
    def decoded_quantized(self) -> Tensor:
        """D(q(z))."""
        return self.encoder.decode(self.quantized)


class Unaligned:
    """The part of an encoder that takes a scan as it lies: an effect is the same for everyone, and fades intensities.

    Subclasses encode, quantize and decode.
    """

    is_aligned = False
    grid_shape: tuple[int, int, int]

    @property
    def maps(self) -> Maps:
        return {"appearance": self.decode}

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def to_codes(self, latents: Tensor) -> Codes:
        raise BrainSCMError("autoencoder: this encoder has no codes; kind: vqvae has.")

    def of_codes(self, codes: Codes) -> Tensor:
        raise BrainSCMError("autoencoder: this encoder has no codes; kind: vqvae has.")

    def appearance(self, latents: Tensor) -> Tensor:
        return self.decode(latents)

    def transport(self, shift: Tensor, latents: Tensor, mean: Tensor) -> Tensor:
        return shift

    def apply_shift(self, factual: Factual, shift: Tensor) -> Tensor:
        """x + D(z + s) - D(z): the scan keeps what the encoder loses."""
        return factual.volumes + (self.decode(factual.latents + shift) - factual.appearance)

    def nearby(self, factual: Factual, shift: Tensor, volume: Tensor) -> None:
        return None

    def motion(self, factual: Factual, shift: Tensor) -> Tensor:
        return shift.new_zeros((len(shift), 3, *self.grid_shape))


class Fitted(Unaligned, nn.Module):
    """An encoder whose numbers come from training scans: `ENCODER` of the module that is named as its `kind` is."""

    kind: str
    latent_shape: tuple[int, int, int, int]
    layout: Layout

    def __init__(self, grid_shape: Sequence[int], options: AutoencoderOptions) -> None:
        """Of the size that the options ask for, before it is fitted."""
        super().__init__()
        x, y, z = grid_shape
        self.grid_shape = (x, y, z)
        self.options = options

    def encode(
        self, volumes: Tensor, displacements: Tensor | None = None, levels: Sequence[TissueLevels] = ()
    ) -> Tensor:
        raise NotImplementedError

    def quantize(self, latents: Tensor) -> Tensor:
        """The latents themselves, unless a subclass has a quantiser."""
        return latents


class ClosedForm(Fitted):
    """An encoder that is computed from the training scans at once."""

    @classmethod
    def solve(cls, volumes: Any, options: AutoencoderOptions) -> Self:
        """Fit on volumes (n, 1, x, y, z): an array or anything that slices like one (memory map, zarr)."""
        raise NotImplementedError


class Network(Fitted):
    """An encoder whose weights are trained step by step, with a quantiser between its two halves."""

    quantizer: Quantizer

    @property
    def voxels(self) -> int:
        """Of a volume, that a latent vector stands for."""
        return math.prod(self.grid_shape) // math.prod(self.latent_shape[1:])

    def start(self, batches: Batches) -> None:
        """Set what is not learnt step by step, from training volumes."""
        raise NotImplementedError

    def encoder(self, volumes: Tensor) -> Tensor:
        """As `encode`, with gradients."""
        raise NotImplementedError

    def decoder(self, latents: Tensor) -> Tensor:
        """As `decode`, with gradients."""
        raise NotImplementedError
