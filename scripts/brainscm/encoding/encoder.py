"""What every encoder offers the later stages."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from brainscm.encoding.layout import Layout


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

    def encode(self, volumes: Tensor, displacements: Tensor | None = None) -> Tensor:
        """Latents of volumes.

        `displacements` (n, 3, x/2, y/2, z/2), voxels, are those that the alignment stage found; where they are not at
        hand, as for a volume that was made and not scanned, an encoder that needs them finds them itself.
        """
        ...

    def quantize(self, latents: Tensor) -> Tensor:
        """What the quantiser makes of latents; the latents themselves where there is none."""
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

    def apply_shift(self, volumes: Tensor, latents: Tensor, shift: Tensor, appearance: Tensor) -> Tensor:
        """The scans themselves under a shift of their latents; a scan whose shift is null stays as it is.

        `appearance`: that of `latents`.
        """
        ...


class Unaligned:
    """The part of an encoder that takes a scan as it lies: an effect is the same for everyone, and fades intensities.

    Subclasses encode, quantize and decode.
    """

    is_aligned = False

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def appearance(self, latents: Tensor) -> Tensor:
        return self.decode(latents)

    def transport(self, shift: Tensor, latents: Tensor, mean: Tensor) -> Tensor:
        return shift

    def apply_shift(self, volumes: Tensor, latents: Tensor, shift: Tensor, appearance: Tensor) -> Tensor:
        """x + D(z + s) - D(z): the scan keeps what the encoder loses."""
        return volumes + (self.decode(latents + shift) - appearance)
