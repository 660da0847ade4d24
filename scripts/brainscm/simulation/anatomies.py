"""Which label map each simulated participant's head is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from brainscm.errors import BrainSCMError
from brainscm.simulation.causal_model import generator

SUFFIXES = (".nii", ".nii.gz", ".mgz")


def find_label_maps(folder: Path) -> list[Path]:
    """The label maps of `simulation.anatomies`, in order of their names. Raises BrainSCMError if there is none."""
    found = sorted(path for path in folder.glob("*") if path.name.endswith(SUFFIXES)) if folder.is_dir() else []
    if not found:
        raise BrainSCMError(
            f"simulation.anatomies: {folder} holds no label maps ({', '.join(SUFFIXES)}); name a folder that does."
        )
    return found


def anatomy_name(path: Path) -> str:
    """How the tables call the head of a label map."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def draw_label_map(label_maps: Sequence[Path], seed: int, participant: int) -> Path:
    """The label map of participant 1, 2, …; no covariate has a part in it.

    As many participants in a row as there are maps have one each, in a random order.
    """
    turn, place = divmod(participant - 1, len(label_maps))
    order = generator(seed, "label maps", str(turn)).permutation(len(label_maps))
    return label_maps[int(order[place])]
