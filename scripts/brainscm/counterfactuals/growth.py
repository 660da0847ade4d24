"""Where a counterfactual grows and where it shrinks, as far as tissue is moved."""

from __future__ import annotations

import torch

from brainscm.alignment.displacement import jacobian
from brainscm.counterfactuals.native import Motion
from brainscm.encoding.aligned import FOLDED
from brainscm.images import Volume


def log_growth(motion: Motion) -> Volume:
    """The logarithm of how much larger each place, (x, y, z), is than where it came from."""
    return (-torch.linalg.det(jacobian(torch.from_numpy(motion))).clamp(min=FOLDED).log()).numpy()
