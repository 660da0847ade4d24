"""Quality metrics of one scan, each with its formula and direction, and the rules that turn them into a status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from brainscm.config import QualityOptions
from brainscm.preprocess.head import foreground
from brainscm.preprocess.template import Template
from brainscm.preprocess.tissues import Tissues
from brainscm.preprocess.volume import Volume

Status = Literal["pass", "warn", "fail"]

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


def raw_metrics(raw: Volume, mask: np.ndarray) -> tuple[dict[str, float], dict[str, str]]:
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


def slice_jump(raw: Volume, mask: np.ndarray) -> float:
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


def registration_metrics(raw: Volume, template: Template, to_scan: np.ndarray) -> dict[str, float]:
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


def mask_metrics(mask: Volume) -> dict[str, float]:
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


@dataclass(frozen=True)
class Rule:
    """One rule: what is measured, when it is broken, and the sentence about it (`{value}` is filled in)."""

    metric: str
    sentence: str
    fail: tuple[float, float]
    warn: tuple[float, float]
    unit: str = ""


def rules(limits: QualityOptions) -> list[Rule]:
    """The rules of `quality` in config.yaml; each gives the range in which a metric neither fails nor warns."""
    top = float("inf")
    return [
        Rule(
            "ncc",
            "similarity to the template is {value:.2f}: look whether this is a T1w brain, well registered",
            (limits.ncc_fail, top),
            (limits.ncc_warn, top),
        ),
        Rule(
            "mask_volume_ml",
            "mask volume is {value:.0f} ml: look at the mask",
            limits.volume_fail_ml,
            limits.volume_warn_ml,
            " ml",
        ),
        Rule(
            "border_cm2",
            "{value:.0f} cm² of the mask lie on the edge of the scan: the brain is cut off",
            (-top, limits.border_fail_cm2),
            (-top, limits.border_warn_cm2),
            " cm²",
        ),
        Rule(
            "fov_cut_percent",
            "{value:.1f} % of the brain lie beyond the field of view: the brain is cut off",
            (-top, limits.fov_cut_fail_percent),
            (-top, limits.fov_cut_warn_percent),
            " %",
        ),
        Rule(
            "holes_ml",
            "{value:.0f} ml of the brain have no signal: look for missing slices, or a brain that was cut out",
            (-top, limits.holes_fail_ml),
            (-top, limits.holes_warn_ml),
            " ml",
        ),
        Rule(
            "slice_jump",
            "two neighbouring slices differ {value:.2f} times as much as those around: look for missing slices",
            (-top, top),
            (-top, limits.slice_jump_warn),
        ),
        Rule(
            "contrast",
            "white matter is {value:.2f} times as bright as grey matter: look whether this is a T1w",
            (limits.contrast_fail, top),
            (limits.contrast_warn, top),
        ),
        Rule(
            "cnr",
            "grey-white contrast-to-noise is {value:.2f}: look for motion, noise or another contrast",
            (limits.cnr_fail, top),
            (limits.cnr_warn, top),
        ),
    ]


def judge(metrics: Mapping[str, float | None], limits: QualityOptions) -> tuple[Status, list[str]]:
    """Apply the rules to a scan's metrics. Returns the status and one sentence per rule broken, failures first."""
    failures: list[str] = []
    warnings: list[str] = []
    for rule in rules(limits):
        value = metrics.get(rule.metric)
        if value is None:
            failures.append(f"{rule.metric} could not be measured: look at the scan")
            continue
        found = rule.sentence.format(value=value)
        if not rule.fail[0] <= value <= rule.fail[1]:
            failures.append(f"{found} (fail {_outside(rule.fail, rule.unit)})")
        elif not rule.warn[0] <= value <= rule.warn[1]:
            warnings.append(f"{found} (warn {_outside(rule.warn, rule.unit)})")
    if failures:
        return "fail", failures + warnings
    return ("warn", warnings) if warnings else ("pass", [])


def _outside(limits: tuple[float, float], unit: str) -> str:
    low, high = limits
    if np.isinf(high):
        return f"below {low:g}{unit}"
    return f"above {high:g}{unit}" if np.isinf(low) else f"outside {low:g}-{high:g}{unit}"
