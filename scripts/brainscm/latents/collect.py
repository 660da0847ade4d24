"""Gather what the shards have encoded into the one store that later stages read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from brainscm.latents.store import LatentStore
from brainscm.shards import remove_other_dealings


def collect(shards: Sequence[Path], scans: Sequence[str], path: Path) -> None:
    """Write the store of all scans at `path`, in their order, and remove the shards of another dealing.

    Args:
        shards: the stores, in one folder that holds nothing else.

    Raises:
        BrainSCMError: see `LatentStore.gather`.
    """
    LatentStore.gather(shards, scans, path)
    remove_other_dealings(shards)
