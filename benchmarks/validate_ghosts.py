"""How weak a ghost quality control sees in the air around a head, and how often it sees one that is not there.

python benchmarks/validate_ghosts.py [--labels label_map.nii.gz …] [--heads T1w.nii.gz …]

Heads are drawn from label maps (`drawn_heads.py`), one each, or are real ones; each is taken as it is, and with a copy
of itself, shifted along an axis and by a part of the field of view (0.3 to 0.7) at random, added to it. Writes
benchmarks/results/ghosts.json: of the heads as they are and of each brightness of the copy, quantiles of the measure
`ghost`, and the share of heads that warn.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from drawn_heads import draw_head
from record import RESULTS, circumstances, write

from brainscm.config import QualityOptions
from brainscm.images import Image
from brainscm.preprocess.head import read_scan
from brainscm.qc.measures import ghost

SEED, SHARES = 20260101, (0.0, 0.03, 0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="*", type=Path, default=[], metavar="label_map.nii.gz")
    parser.add_argument("--heads", nargs="*", type=Path, default=[], metavar="T1w.nii.gz")
    arguments = parser.parse_args()
    found = {}
    for kind, heads in (("drawn", drawn(arguments.labels)), ("real", (read_scan(p).volume for p in arguments.heads))):
        measured = [ghosts_of(head, np.random.default_rng((SEED, k))) for k, head in enumerate(heads)]
        if measured:
            found[kind] = {"heads": len(measured), "by_brightness": summary(np.array(measured))}
            print(kind, found[kind], flush=True)
    given = "".join(f" --{name} …" for name, paths in vars(arguments).items() if paths)
    command = f"python benchmarks/validate_ghosts.py{given}"
    write(found | circumstances(platform.system(), command=command), RESULTS / "ghosts.json")


def drawn(labels: list[Path]) -> Iterator[Image]:
    """A head a label map, none with a ghost of its own."""
    for k, path in enumerate(sorted(labels)):
        head = next(head for seed in range(k, SEED, 1000) if not (head := draw_head(path, seed)).traits.ghosted)
        yield head.image


def ghosts_of(head: Image, rng: np.random.Generator) -> list[float]:
    """The measure with a copy of each brightness."""
    axis = int(rng.integers(3))
    copy = np.roll(head.data, round(rng.uniform(0.3, 0.7) * head.data.shape[axis]), axis)
    return [ghost(head.with_data(head.data + share * copy)) for share in SHARES]


def summary(measured: np.ndarray) -> dict[str, Any]:
    limit = QualityOptions().ghost_warn
    return {
        f"{share:g}": {
            "warn": round(float((column > limit).mean()), 3),
            "median": round(float(np.median(column)), 3),
            "lowest": round(float(column.min()), 3),
            "highest": round(float(column.max()), 3),
        }
        for share, column in zip(SHARES, measured.T, strict=True)
    }


if __name__ == "__main__":
    main()
