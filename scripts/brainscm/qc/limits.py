"""The limits of `quality` in config.yaml, applied: what a scan's measures say of it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from brainscm.config import QualityOptions

Status = Literal["pass", "warn", "fail"]


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


def apply_limits(metrics: Mapping[str, float | None], limits: QualityOptions) -> tuple[Status, list[str]]:
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
