"""Quality measures of one scan, each with its formula and direction."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from brainscm.images import Image
from brainscm.preprocess.head import foreground
from brainscm.preprocess.template import Template
from brainscm.preprocess.tissues import Tissues

SHARED_BY_NEIGHBOURS = 0.25  # of the largest slice: nearer the ends of the brain slices differ by their outline


def image_metrics(volume: np.ndarray, mask: np.ndarray, tissues: Tissues, template: Template) -> dict[str, float]:
    """Metrics on the preprocessed volume (template space).

    - `ncc`: correlation of the volume with the template inside both masks; higher is better.
    - `cnr`: |mean WM - mean GM| / sqrt(var WM + var GM); higher is better (Magnotta and Friedman 2006, without the
      background term, which a zeroed background would spoil).
    - `cjv`: (sd WM + sd GM) / |mean WM - mean GM|; lower is better (Ganzetti et al. 2016).
    - `snr`: mean / sd of white matter; higher is better.
    - `contrast`: mean WM / mean GM; above 1 in a T1w, below 1 in a T2w.
    """
    both = mask & template.brain_mask
    wm, gm = volume[tissues.wm > 0.9], volume[tissues.gm > 0.9]
    if min(wm.size, gm.size, int(both.sum())) < 100:
        return {"ncc": 0.0, "cnr": 0.0, "cjv": float("inf"), "snr": 0.0, "contrast": 0.0}
    contrast = abs(float(wm.mean() - gm.mean())) + 1e-9
    return {
        "ncc": float(np.corrcoef(volume[both], template.brain[both])[0, 1]),
        "cnr": contrast / float(np.sqrt(wm.var() + gm.var())),
        "cjv": float(wm.std() + gm.std()) / contrast,
        "snr": float(wm.mean() / wm.std()),
        "contrast": float(wm.mean() / max(gm.mean(), 1e-9)),
    }


def raw_metrics(raw: Image, mask: np.ndarray) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics of the raw scan as it came, and for each that cannot be given the reason.

    - `efc`: Shannon entropy of the voxels' share of the energy, over its maximum; lower is better, ghosts and blur
      raise it (Atkinson et al. 1997, doi 10.1109/42.650886): with b = √Σx² and n voxels,
      -Σ (x / b) log(x / b) / (√n log √n).
    - `fber`: median of the squared intensities inside the head over that of the air; higher is better. Without a value
      where the air is zero, as after defacing or by the scanner.
    - `holes_ml`: volume inside the brain mask without signal (0 or less), as a missing slab leaves it; 0 is good.
    - `slice_jump`: see `slice_jump`.

    Args:
        mask: (x, y, z) bool, the brain on the scan's own grid.
    """
    metrics = {"holes_ml": float((mask & (raw.data <= 0)).sum()) * raw.voxel_ml, "slice_jump": slice_jump(raw, mask)}
    # Every second or third voxel of a fine scan says as much as all of them.
    steps = np.maximum(1, np.round(2 / raw.voxel_mm)).astype(int)
    data = np.abs(raw.data[tuple(slice(None, None, step) for step in steps)]).astype(np.float64)
    energy = float(np.sqrt((data**2).sum()))
    share = data[data > 0] / energy
    metrics["efc"] = float(-(share * np.log(share)).sum() / (np.sqrt(data.size) * np.log(np.sqrt(data.size))))
    head = foreground(data)
    air = float(np.median(data[~head] ** 2)) if not head.all() else 0.0
    metrics["fber"] = float(np.median(data[head] ** 2)) / air if air > 0 else float("nan")
    why_null = {} if air > 0 else {"fber": "the air around the head is zero in this file, so there is no noise to see"}
    return metrics, why_null


def slice_jump(raw: Image, mask: np.ndarray) -> float:
    """The largest difference between neighbouring slices against the median of the four differences around it.

    A difference is the mean of |x - x'| over the voxels of the brain that both slices share; the ends of the brain are
    left out. Near 1 is good: where slices are missing between two neighbours, or one was displaced, they differ more
    than their surroundings do. 1 where the mask spans too few slices to tell.
    """
    largest = 1.0
    box = (ndimage.find_objects(mask.astype(np.uint8)) or [np.index_exp[:0, :0, :0]])[0]
    cropped, cropped_mask = raw.data[box].astype(np.float32), mask[box]
    for axis in range(3):
        brain, inside = np.moveaxis(cropped, axis, 0), np.moveaxis(cropped_mask, axis, 0)
        shared = inside[1:] & inside[:-1]
        count = shared.sum(axis=(1, 2))
        apart = np.where(shared, np.abs(np.diff(brain, axis=0)), 0).sum(axis=(1, 2)) / np.maximum(count, 1)
        for at in np.flatnonzero(count > SHARED_BY_NEIGHBOURS * count.max(initial=0))[2:-2]:
            around = float(np.median(apart[[at - 2, at - 1, at + 1, at + 2]]))
            largest = max(largest, float(apart[at]) / max(around, 1e-9))
    return largest


def registration_metrics(raw: Image, template: Template, to_scan: np.ndarray) -> dict[str, float]:
    """Metrics of the linear registration.

    - `head_size`: determinant of the map from scan to template; above 1 the head is smaller than the template.
    - `fov_cut_percent`: share of the template's brain that lies beyond the scan's field of view; 0 is good.
    """
    to_voxel = np.linalg.inv(raw.affine) @ to_scan @ template.affine
    at = np.argwhere(template.brain_mask) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    within = ((at >= -0.5) & (at <= np.array(raw.data.shape) - 0.5)).all(1)
    return {
        "head_size": 1 / float(np.linalg.det(to_scan[:3, :3])),
        "fov_cut_percent": 100 * float(1 - within.mean()),
    }


def mask_metrics(mask: Image) -> dict[str, float]:
    """Metrics of the mask on the scan's own grid.

    - `mask_volume_ml`: intracranial volume; adults have about 1100 to 1900.
    - `border_cm2`: area of the mask on the faces of the field of view; above 0 the brain is probably cut off.
    - `mask_roughness`: surface voxels against the sphere of the same volume; lower is smoother.
    """
    data = mask.data > 0
    surface = data & ~ndimage.binary_erosion(data, border_value=1)
    count = max(int(data.sum()), 1)
    area = float(np.prod(mask.voxel_mm)) / mask.voxel_mm
    faces = [data.take(end, axis=axis).sum() * area[axis] for axis in range(3) for end in (0, -1)]
    return {
        "mask_volume_ml": count * mask.voxel_ml,
        "border_cm2": float(sum(faces)) / 100,
        "mask_roughness": float(surface.sum()) / (36 * np.pi * float(count) ** 2) ** (1 / 3),
    }
