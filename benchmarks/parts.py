"""An image node with an effect on some parts of an aligned latent alone, to tell what each of them brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from brainscm.encoding.layout import Layout
from brainscm.scm.model import Scm

DISPLACEMENT, DENSITY, APPEARANCE = (0, 1), (2, 3), (4,)  # parts of an aligned latent, by their number


def of_parts(scm: Scm, layout: Layout, parts: Sequence[int]) -> Scm:
    """The model without any effect on the other parts; what is left is as it was estimated beside them."""
    kept = np.isin(np.repeat(np.arange(len(layout.parts)), layout.parts), parts)
    coefficients = scm.image.coefficients.copy()
    coefficients[1:, ~kept] = 0
    return replace(scm, image=replace(scm.image, coefficients=coefficients))
