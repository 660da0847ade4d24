"""How bright the tissues of a scan are, and how a voxel's share of each follows from its brightness."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

LEVEL_COLUMNS = ("csf_level", "gm_level", "wm_level")  # of qc.tsv
WINDOW = 0.25  # of the way from one level to the next; wider ones reach into thin cortex and sulci, and see less


@dataclass(frozen=True)
class TissueLevels:
    """How bright the tissues of one scan are, in its own units: CSF below grey below white matter."""

    csf: float
    gm: float
    wm: float

    def as_metrics(self) -> dict[str, float]:
        """By the names of `LEVEL_COLUMNS`."""
        return dict(zip(LEVEL_COLUMNS, astuple(self), strict=True))


def rise(volume: Any, dark: float, bright: Any) -> Any:
    """0 where a volume (an array or a tensor) is dark, 1 where it is bright, linear within `WINDOW` around half way."""
    return (0.5 + (volume - (dark + bright) / 2) / (WINDOW * (bright - dark))).clip(0, 1)
