"""A few preprocessed scans for tests: random voxels in random masks, with random displacements if they are aligned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from brainscm.images import Grid, write_displacement
from brainscm.scans import ScanTable
from brainscm.tables import write_table

GRID = Grid((8, 8, 16), np.diag([3.0, 3.0, 3.0, 1.0]))


def write_image(path: Path, values: np.ndarray, affine: np.ndarray = GRID.affine) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def write_scans(folder: Path, splits: Sequence[str], is_aligned: bool = False) -> ScanTable:
    """`sub-0`, `sub-1`, …, one in each of `splits`: their tables, and their files in `<folder>/preproc`."""
    rng = np.random.default_rng(0)
    rows = []
    for i, _ in enumerate(splits):
        mask = rng.random(GRID.shape) < 0.5
        volume = (mask * rng.random(GRID.shape)).astype(np.float32)
        row: dict[str, Any] = {"scan": f"sub-{i}", "status": "pass", "reasons": None, "head_size": 1.2}
        row |= {"preproc_t1w": f"sub-{i}_T1w.nii.gz", "template_mask": f"sub-{i}_mask.nii.gz"}
        write_image(folder / "preproc" / row["preproc_t1w"], volume)
        write_image(folder / "preproc" / row["template_mask"], mask.astype(np.uint8))
        if is_aligned:
            row |= {"csf_level": 0.25, "gm_level": 0.5, "wm_level": 0.8 + i / 100}
            row["deformation"] = f"sub-{i}_xfm.nii.gz"
            displacement = rng.normal(size=(3, *(size // 2 for size in GRID.shape))).astype(np.float32)
            write_displacement(folder / "preproc" / row["deformation"], displacement, GRID)
        rows.append(row)
    qc = pd.DataFrame(rows)
    write_table(qc, folder / "preproc" / "qc.tsv")
    write_table(pd.DataFrame({"scan": qc["scan"], "participant": qc["scan"], "split": splits}), folder / "scans.tsv")
    return read_scans(folder)


def read_scans(folder: Path) -> ScanTable:
    return ScanTable.read(folder / "scans.tsv", folder / "preproc" / "qc.tsv")
