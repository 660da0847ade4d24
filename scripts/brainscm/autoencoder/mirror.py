"""What a latent becomes when left and right of the brain change places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mirror:
    """The mirror image of the leading channels of latents (n, c, x, y, z); those after them have none.

    Attributes:
        sources, signs: channel i of the mirror image is `signs[i]` times channel `sources[i]`, its x axis reversed.
    """

    sources: Sequence[int]
    signs: Sequence[int]

    def image(self, latents: NDArray[Any]) -> NDArray[Any]:
        """Of the leading channels, (n, len(sources), x, y, z)."""
        signs = np.asarray(self.signs, dtype=latents.dtype)[:, None, None, None]
        return latents[:, list(self.sources), ::-1] * signs

    def apart(self, latents: NDArray[Any]) -> NDArray[Any]:
        """(n, 2·len(sources) + rest, x, y, z): what left and right share, how they differ, and the other channels."""
        own = len(self.sources)
        parts = np.empty((len(latents), latents.shape[1] + own, *latents.shape[2:]), latents.dtype)
        for latent, into in zip(latents, parts, strict=True):  # one by one: no second copy of them all
            image = self.image(latent[None])[0]
            into[:own] = (latent[:own] + image) / 2
            into[own : 2 * own] = (latent[:own] - image) / 2
            into[2 * own :] = latent[own:]
        return parts

    def together(self, parts: NDArray[Any]) -> NDArray[Any]:
        """The latents of which `apart` has made these."""
        own = len(self.sources)
        return np.concatenate([parts[:, :own] + parts[:, own : 2 * own], parts[:, 2 * own :]], axis=1)
