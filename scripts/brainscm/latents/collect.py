"""Gather what the shards have encoded into the one store that later stages read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from brainscm.latents.store import LatentStore


def collect(shards: Sequence[Path], scans: Sequence[str], path: Path) -> None:
    """Write the store of all scans at `path`, in their order, and remove the shards of another dealing.

    Args:
        shards: the stores, in one folder that holds nothing else.

    Raises:
        BrainSCMError: see `LatentStore.gather`.
    """
    LatentStore.gather(shards, scans, path)
    for left_over in set(shards[0].parent.iterdir()) - {*shards}:
        shutil.rmtree(left_over, ignore_errors=True)
