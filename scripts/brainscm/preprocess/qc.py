"""Quality metrics of one scan, each with its formula and direction, and the rules that turn them into a status."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from brainscm.config import PreprocessOptions
from brainscm.preprocess.template import Template
from brainscm.preprocess.tissues import Tissues
from brainscm.preprocess.volume import Volume

Status = Literal["pass", "warn", "fail"]


def image_metrics(volume: np.ndarray, mask: np.ndarray, tissues: Tissues, template: Template) -> dict[str, float]:
    """Metrics on the preprocessed volume (template space).

    - `ncc`: correlation of the volume with the template inside both masks; higher is better.
    - `cnr`: |mean WM - mean GM| / sqrt(var WM + var GM); higher is better (Magnotta and Friedman 2006, without the
      background term, which a zeroed background would spoil).
    - `cjv`: (sd WM + sd GM) / |mean WM - mean GM|; lower is better (Ganzetti et al. 2016).
    - `snr`: mean / sd of white matter; higher is better.
    """
    both = mask & template.brain_mask
    wm, gm = volume[tissues.wm > 0.9], volume[tissues.gm > 0.9]
    if min(wm.size, gm.size, int(both.sum())) < 100:
        return {"ncc": 0.0, "cnr": 0.0, "cjv": float("inf"), "snr": 0.0}
    contrast = abs(float(wm.mean() - gm.mean())) + 1e-9
    return {
        "ncc": float(np.corrcoef(volume[both], template.brain[both])[0, 1]),
        "cnr": contrast / float(np.sqrt(wm.var() + gm.var())),
        "cjv": float(wm.std() + gm.std()) / contrast,
        "snr": float(wm.mean() / wm.std()),
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


def judge(metrics: dict[str, float], options: PreprocessOptions) -> tuple[Status, list[str]]:
    """Apply the rules of `preprocess` in config.yaml. Returns the status and one sentence per rule broken."""
    failures: list[str] = []
    warnings: list[str] = []

    def check(found: str, broken_for_fail: bool, broken_for_warning: bool, limits: tuple[str, str]) -> None:
        if broken_for_fail:
            failures.append(f"{found} (fail {limits[0]})")
        elif broken_for_warning:
            warnings.append(f"{found} (warn {limits[1]})")

    ncc, volume, border, cnr = (metrics[name] for name in ("ncc", "mask_volume_ml", "border_cm2", "cnr"))
    check(
        f"similarity to the template is {ncc:.2f}: look whether this is a T1w brain, well registered",
        ncc < options.ncc_fail,
        ncc < options.ncc_warn,
        (f"below {options.ncc_fail:g}", f"below {options.ncc_warn:g}"),
    )
    fail_ml, warn_ml = options.volume_fail_ml, options.volume_warn_ml
    check(
        f"mask volume is {volume:.0f} ml: look at the mask",
        not fail_ml[0] <= volume <= fail_ml[1],
        not warn_ml[0] <= volume <= warn_ml[1],
        (f"outside {fail_ml[0]:g}-{fail_ml[1]:g} ml", f"outside {warn_ml[0]:g}-{warn_ml[1]:g} ml"),
    )
    check(
        f"{border:.0f} cm² of the mask lie on the edge of the scan: the brain is cut off",
        border > options.border_fail_cm2,
        border > options.border_warn_cm2,
        (f"above {options.border_fail_cm2:g} cm²", f"above {options.border_warn_cm2:g} cm²"),
    )
    check(
        f"grey-white contrast-to-noise is {cnr:.2f}: look for motion, noise or another contrast",
        cnr < options.cnr_fail,
        cnr < options.cnr_warn,
        (f"below {options.cnr_fail:g}", f"below {options.cnr_warn:g}"),
    )
    if failures:
        return "fail", failures + warnings
    return ("warn", warnings) if warnings else ("pass", [])
