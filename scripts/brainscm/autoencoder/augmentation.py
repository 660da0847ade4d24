"""Small random changes of training volumes that keep them plausible brains."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def augment(volumes: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flip left-right half of the volumes (n, 1, x, y, z), and change contrast and brightness by up to 10 and 5 %."""
    changed, flipped = volumes.clone(), masks.clone()
    for i in range(len(volumes)):
        flip, gamma, scale = rng.random() < 0.5, rng.uniform(0.9, 1.1), rng.uniform(0.95, 1.05)
        if flip:
            changed[i], flipped[i] = volumes[i].flip(1), masks[i].flip(1)
        changed[i] = changed[i].clamp_min(0).pow(gamma) * scale
    return changed, flipped
