"""How a latent is laid out: which channels belong together, and what it becomes when left and right change places."""

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

    def split_sides(self, latents: NDArray[Any]) -> NDArray[Any]:
        """(n, 2·len(sources) + rest, x, y, z): what left and right share, how they differ, and the other channels."""
        own = len(self.sources)
        parts = np.empty((len(latents), latents.shape[1] + own, *latents.shape[2:]), latents.dtype)
        for latent, into in zip(latents, parts, strict=True):  # one by one: no second copy of them all
            image = self.image(latent[None])[0]
            into[:own] = (latent[:own] + image) / 2
            into[own : 2 * own] = (latent[:own] - image) / 2
            into[2 * own :] = latent[own:]
        return parts

    def join_sides(self, parts: NDArray[Any]) -> NDArray[Any]:
        """The latents of which `split_sides` has made these."""
        own = len(self.sources)
        return np.concatenate([parts[:, :own] + parts[:, own : 2 * own], parts[:, 2 * own :]], axis=1)


@dataclass(frozen=True)
class Layout:
    """What later stages have to know of a latent (n, c, x, y, z).

    Attributes:
        parts: numbers of channels that belong together and are shrunk together; their sum is c.
        mirror: what becomes of a latent when left and right change places; None where that is not known.
    """

    parts: tuple[int, ...]
    mirror: Mirror | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for a file; `Layout.of_json` takes them back."""
        mirror = self.mirror
        sides = None if mirror is None else {"sources": list(mirror.sources), "signs": list(mirror.signs)}
        return {"parts": list(self.parts), "mirror": sides}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Layout:
        mirror = values["mirror"]
        return cls(tuple(values["parts"]), None if mirror is None else Mirror(**mirror))
