"""The limits of `quality` in config.yaml, applied: what a scan's measures say of it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from brainscm.config import QualityOptions
from brainscm.qc.measures import MEASURES, Limits

Status = Literal["pass", "warn", "fail"]


def apply_limits(metrics: Mapping[str, float | None], options: QualityOptions) -> tuple[Status, list[str]]:
    """Apply the limits of the metrics that are given, one of which, if it has no value, fails.

    Returns the status and one sentence a limit broken, failures first.
    """
    failures: list[str] = []
    warnings: list[str] = []
    for name, measure in MEASURES.items():
        if name not in metrics or measure.limits is None:
            continue
        value, limits = metrics[name], measure.limits
        if value is None:
            failures.append(f"{name} could not be measured: look at the scan")
            continue
        found, unit = limits.sentence.format(value=value), f" {measure.unit}".rstrip()
        if broken := _broken(value, limits, options, limits.fail, unit):
            failures.append(f"{found} (fail {broken})")
        elif broken := _broken(value, limits, options, limits.warn, unit):
            warnings.append(f"{found} (warn {broken})")
    if failures:
        return "fail", failures + warnings
    return ("warn", warnings) if warnings else ("pass", [])


def _broken(value: float, limits: Limits, options: QualityOptions, option: str, unit: str) -> str:
    """The limit that an option of `quality` sets, in words, if a value breaks it; else ""."""
    if not option:
        return ""
    limit = getattr(options, option)
    low, high = limit if isinstance(limit, tuple) else (limit, limit)
    is_broken = {
        "below": value < low,
        "above": value > high,
        "beyond": abs(value) > high,
        "outside": not low <= value <= high,
    }[limits.bad]
    told = f"{low:g}" if low == high else f"{low:g}-{high:g}"
    return f"{limits.bad} {told}{unit}" if is_broken else ""
