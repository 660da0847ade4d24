"""What the side-cars of a raw T1w tell that preprocessing has to know: a contrast agent, slices lost in the conversion.

This module imports little, because the Snakefile does: what is told is a parameter of preprocessing, so that a mended
side-car is seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from brainscm.files import read_description, sidecar

GEOMETRY = re.compile(r"missing|interslice|equidistant|evenly|gantry|duplicate|truncat|corrupt|shear", re.IGNORECASE)


def list_json(folder: Path) -> tuple[str, ...]:
    """The names of the JSON files in a folder; none where it cannot be read."""
    try:
        return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".json")))
    except OSError:
        return ()


def read_sidecars(t1w: Path, listed: Callable[[Path], Sequence[str]] = list_json) -> dict[str, Any]:
    """What the side-cars of an image say together, by BIDS's inheritance principle.

    Those of the data set, the participant and the session hold too, if their names have the image's suffix and none
    but its entities. What is nearer to the image counts more.

    Args:
        listed: how the JSON files of a folder are looked up: of the data set's own folder it is asked for every scan.
    """
    own = sidecar(t1w)
    *entities, suffix = own.stem.split("_")
    up_to_dataset = next((k + 2 for k, folder in enumerate(own.parents) if folder.name.startswith("sub-")), 1)
    told: dict[str, Any] = {}
    for folder in reversed(own.parents[:up_to_dataset]):
        parts = {name: name.removesuffix(".json").split("_") for name in listed(folder)}
        holding = [name for name, (*given, kind) in parts.items() if kind == suffix and {*given} <= {*entities}]
        for name in sorted(holding, key=lambda name: len(parts[name])):
            told |= read_description(folder / name)
    return told


def notes_of_sidecars(t1w: Path, listed: Callable[[Path], Sequence[str]] = list_json) -> list[str]:
    """A sentence each about what the side-cars tell."""
    told = read_sidecars(t1w, listed)
    return [*_conversion_warnings(t1w, told), *_contrast_agent(t1w, told)]


def _conversion_warnings(t1w: Path, told: dict[str, Any]) -> list[str]:
    """What is kept of the conversion from DICOM that speaks of lost or displaced slices."""
    warnings = told.get("ConversionWarnings")
    kept = [str(warning) for warning in warnings if GEOMETRY.search(str(warning))] if isinstance(warnings, list) else []
    return [f"{t1w.name}: the conversion from DICOM said: {warning}" for warning in kept]


def _contrast_agent(t1w: Path, told: dict[str, Any]) -> list[str]:
    """A contrast agent, in BIDS's words or DICOM's."""
    agents = [str(told[key]) for key in ("ContrastBolusIngredient", "ContrastBolusAgent") if told.get(key)]
    return [f"{t1w.name}: has a contrast agent ({agents[0]}), which brightens vessels and membranes"] if agents else []
