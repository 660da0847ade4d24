"""Grey matter of each lobe and of the hippocampus of a real head, by its own DLMUSE label map.

A template's lobes would have to be carried to the scan, and what that misses would be taken for atrophy.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainscm.images import Image, Mask
from brainscm.preprocess.template import Template
from brainscm.preprocess.tissues import Tissues
from brainscm.resampling import sample

# Numbers of the label maps (MUSE): cortex is 100 to 207.
PARTS: dict[str, list[int]] = {
    "parietal_gm": [106, 107, 148, 149, 168, 169, 176, 177, 194, 195, 198, 199],
    "occipital_gm": [108, 109, 114, 115, 128, 129, 134, 135, 144, 145, 156, 157, 160, 161, 196, 197],
    "temporal_gm": [122, 123, 132, 133, 154, 155, *range(180, 182), *range(184, 186), *range(200, 204), 206, 207],
    "limbic_gm": [100, 101, 116, 117, 138, 139, 166, 167, 170, 171],
    "hippocampus_gm": [47, 48],
}
CORTEX = range(100, 208)
PARTS["frontal_gm"] = sorted({*CORTEX} - {label for labels in PARTS.values() for label in labels})
BESIDE = [*range(23, 40), *range(55, 61), 71, 72, 73, 75, 76]  # other grey matter: deep, and the cerebellum's
LOBES = ("frontal_gm", "parietal_gm", "occipital_gm", "temporal_gm", "hippocampus_gm")


def territories(label_map: Path, to_scan: np.ndarray, template: Template) -> dict[str, Mask]:
    """What lies nearest to each of `LOBES`, (x, y, z) on the template's grid, so that it holds a border that moves.

    Args:
        label_map: on the raw scan's grid.
        to_scan: (4, 4), from the template's world to the scan's.
    """
    image = nib.load(label_map)
    source = Image(np.asarray(image.dataobj).astype(np.float32), image.affine)
    labels = sample(source, template.affine, template.shape, world=to_scan, order=0).round().astype(int)
    seeds = np.isin(labels, [*CORTEX, *PARTS["hippocampus_gm"], *BESIDE])
    nearest = ndimage.distance_transform_edt(~seeds, return_distances=False, return_indices=True)
    filled = labels[tuple(nearest)]
    return {lobe: np.isin(filled, PARTS[lobe]) for lobe in LOBES}


def lobes_ml(tissues: Tissues, of_scan: dict[str, Mask], voxel_ml: float) -> dict[str, float]:
    """Grey matter (ml) in each territory."""
    return {lobe: float(tissues.gm[inside].sum(dtype=np.float64)) * voxel_ml for lobe, inside in of_scan.items()}
