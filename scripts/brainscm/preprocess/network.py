"""Find the brain in a head of any scanner, age or field of view with deepbet's two networks.

Fisch et al. 2024, doi 10.1016/j.compbiomed.2024.108845; MIT licence. The networks come with the package deepbet, whose
own code is not used: it wants further packages, and a window toolkit. PyTorch is imported only where it is needed.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from brainscm.errors import ConfigError
from brainscm.images import Image
from brainscm.preprocess.skullstrip import solid

COARSE, FINE = 128, 256  # voxels along each edge of what the two networks see: the field of view, and the brain's box
MARGIN = 0.1  # of the brain's extent, on each side of its box
WEIGHTS = {  # each network's file in the package, and its SHA-256
    COARSE: ("bbox_model.pt", "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa"),
    FINE: ("model.pt", "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd"),
}


@dataclass(frozen=True)
class FirstLook:
    """What the first network says of a whole field of view, which the second starts from.

    Attributes:
        probability: of the brain, `COARSE` voxels along each edge.
        low, high: the two quantiles of intensity by which what both networks see is scaled.
    """

    probability: np.ndarray
    low: float
    high: float

    @classmethod
    def at(cls, head: Image) -> FirstLook:
        seen = _resize(head.data, np.zeros(3), np.array(head.data.shape), (COARSE,) * 3)
        low, high = (float(level) for level in np.quantile(seen, (0.005, 0.995)))
        return cls(_run(COARSE, _normalised(seen, low, high)), low, high)

    def on_grid_of(self, head: Image) -> np.ndarray:
        """The probability on the head's own grid, (x, y, z): good enough for size, place and tilt."""
        return _resize(self.probability, np.zeros(3), np.array(self.probability.shape), head.data.shape)


def brain_probability(head: Image, first: FirstLook | None = None) -> np.ndarray:
    """Probability (x, y, z) that a voxel belongs to the brain: 0 everywhere where the networks see none.

    The first network finds the brain in the whole field of view, the second outlines it in the box around it. One
    thread gives the same numbers for the same input.

    Args:
        head: upright (RAS), and its brain upright too: the networks have seen few that were tilted.
        first: what the first network says of this head, if it was asked before.

    Raises:
        ConfigError: the package deepbet is not there, or its networks are not those that were tested.
    """
    shape = np.array(head.data.shape)
    first = first or FirstLook.at(head)
    found = solid(first.probability > 0.5)
    if not found.any():
        return np.zeros(head.data.shape, np.float32)
    box = ndimage.find_objects(found.astype(np.uint8))[0]
    start, stop = (np.array([getattr(part, end) for part in box]) * shape / COARSE for end in ("start", "stop"))
    margin = MARGIN * (stop - start)
    start = np.clip(np.round(start - margin), 0, shape).astype(int)
    stop = np.clip(np.round(stop + margin), 0, shape).astype(int)
    seen = _normalised(_resize(head.data, start, stop, (FINE,) * 3), first.low, first.high)
    fine = _run(FINE, seen)
    probability = np.zeros(head.data.shape, np.float32)
    inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    probability[inside] = _resize(fine, np.zeros(3), np.array(fine.shape), tuple(stop - start))
    return probability


def _run(edge: int, seen: np.ndarray) -> np.ndarray:
    import torch

    network = _load(edge)
    with torch.inference_mode():
        classes = network(torch.from_numpy(seen)[None, None])  # (1, 2, x, y, z): background and brain
    return classes[0, 1].numpy()


def _load(edge: int) -> Any:
    import torch

    name, sha256 = WEIGHTS[edge]
    install = "install requirements.lock, or write preprocess.skull_strip: ants"
    try:
        weights = Path(str(distribution("deepbet").locate_file(f"data/models/{name}"))).read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise ConfigError(
            f"preprocess.skull_strip: the package deepbet with its networks is missing; {install}"
        ) from error
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise ConfigError(f"preprocess.skull_strip: deepbet's {name} is not that of version 1.0.2; {install}")
    return torch.jit.load(io.BytesIO(weights), map_location="cpu").eval()


def _normalised(seen: np.ndarray, low: float, high: float) -> np.ndarray:
    """As the networks were trained: between two quantiles of the field of view, then to a mean and a deviation."""
    clipped = np.clip((seen - low) / max(high - low, 1e-9), 0, 1)
    return (0.226 * (clipped - clipped.mean()) / max(float(clipped.std()), 1e-9) + 0.449).astype(np.float32)


def _resize(data: np.ndarray, start: np.ndarray, stop: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The box from voxel `start` to `stop` (exclusive) in another number of voxels, by linear interpolation."""
    step = (stop - start) / np.array(shape)
    at = [start[k] + (np.arange(n) + 0.5) * step[k] - 0.5 for k, n in enumerate(shape)]
    for axis, positions in enumerate(at):
        low = np.clip(np.floor(positions).astype(int), 0, data.shape[axis] - 1)
        high = np.minimum(low + 1, data.shape[axis] - 1)
        share = np.clip(positions - low, 0, 1).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        data = data.take(low, axis) * (1 - share) + data.take(high, axis) * share
    return data.astype(np.float32, copy=False)
