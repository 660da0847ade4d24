"""Where a counterfactual grows and where it shrinks, as far as tissue is moved."""

from __future__ import annotations

import torch

from brainscm.alignment.displacement import log_jacobian
from brainscm.counterfactuals.native import Motion
from brainscm.images import Volume


def log_growth(motion: Motion) -> Volume:
    """The logarithm of how much larger each place, (x, y, z), is than where it came from."""
    return -log_jacobian(torch.from_numpy(motion)).numpy()
