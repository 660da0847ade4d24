"""How near a counterfactual comes: to the truth, to what the causal model intends, and inside its own interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from brainscm.evaluation.agreement import change_agreement
from brainscm.evaluation.intervals import LEVELS, RegionInterval
from brainscm.evaluation.measurements import Row, by_region, measured
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.evaluation.truth import Truth
from brainscm.images import Volume
from brainscm.training.fidelity import psnr, ssim

Millilitres = Mapping[str, float]  # by region


def score_reconstruction(
    about: Mapping[str, Any], decoded: Volume, decoded_ml: Millilitres, scan: Scan, scan_ml: Millilitres
) -> list[Row]:
    """What encoding and decoding alone do to a scan: the floor under direct decoding."""
    errors = _minus(decoded_ml, scan_ml)
    found = {
        "psnr_brain_db": psnr(decoded, scan.volume, mask=scan.mask),
        "ssim_brain": ssim(decoded, scan.volume, mask=scan.mask),
        "region_volume_mae_ml": _mean_size(errors),
    }
    return measured(about, found) + by_region(about, "region_volume_error_ml", errors)


def score_change(about: Mapping[str, Any], after_ml: Millilitres, start_ml: Millilitres) -> list[Row]:
    """By how much each region changes."""
    return by_region(about, "region_change_ml", _minus(after_ml, start_ml))


def score_effectiveness(about: Mapping[str, Any], after_ml: Millilitres, targets_ml: Millilitres) -> list[Row]:
    """Measured minus intended volume of the regions that the causal model sets (ml)."""
    if not targets_ml:
        return []
    errors = {region: after_ml[region] - target for region, target in targets_ml.items()}
    return by_region(about, "effectiveness_error_ml", errors) + measured(
        about, {"effectiveness_mae_ml": _mean_size(errors)}
    )


def score_agreement(
    about: Mapping[str, Any], made: Counterfactual, after_ml: Millilitres, truth: Truth, scan: Scan
) -> list[Row]:
    """How the volume, its change and its regions agree with the truth."""
    found = change_agreement(made.volume, made.difference, truth.volume, truth.volume - scan.volume, scan.mask)
    errors = _minus(after_ml, truth.regions_ml)
    found["region_volume_mae_ml"] = _mean_size(errors)
    return measured(about, found) + by_region(about, "region_volume_error_ml", errors)


def score_intervals(about: Mapping[str, Any], intervals: Mapping[str, RegionInterval], truth: Truth) -> list[Row]:
    """How often the intervals hold the truth, of each region and over all, and how wide they are."""
    if not intervals:
        return []
    rows: list[Row] = []
    for level in LEVELS:
        metric = f"interval_coverage_{100 * level:.0f}"
        covered = {region: float(each.covers(truth.regions_ml[region], level)) for region, each in intervals.items()}
        rows += by_region(about, metric, covered) + measured(about, {metric: float(np.mean([*covered.values()]))})
    widths = {region: 2 * interval.half_width(0.95) for region, interval in intervals.items()}
    return rows + by_region(about, "interval_width_95_ml", widths)


def score_written_intervals(
    about: Mapping[str, Any], bounds_ml: Mapping[str, tuple[float, float]], true_change_ml: Millilitres
) -> list[Row]:
    """How often the intervals of regions.tsv hold the true change, and how wide they are."""
    bounds = {region: bounds_ml[region] for region in true_change_ml if region in bounds_ml}
    if not bounds:
        return []
    covered = {region: float(low <= true_change_ml[region] <= high) for region, (low, high) in bounds.items()}
    widths = {region: high - low for region, (low, high) in bounds.items()}
    metric = "written_interval_coverage_95"
    rows = by_region(about, metric, covered) + measured(about, {metric: float(np.mean([*covered.values()]))})
    return rows + by_region(about, "written_interval_width_95_ml", widths)


def bound_change(about: Mapping[str, Any], intervals: Mapping[str, RegionInterval], start_ml: Millilitres) -> list[Row]:
    """The 95 % interval of each region's change, where the method states one; needs no truth."""
    bounds: list[Row] = []
    for side, name in ((-1, "low"), (1, "high")):
        ends = {
            region: interval.centre_ml + side * interval.half_width(0.95) - start_ml[region]
            for region, interval in intervals.items()
        }
        bounds += by_region(about, f"region_change_{name}_95_ml", ends)
    return bounds


def _minus(after_ml: Millilitres, before_ml: Millilitres) -> dict[str, float]:
    return {region: after_ml[region] - before_ml[region] for region in after_ml}


def _mean_size(errors: Millilitres) -> float:
    return float(np.abs([*errors.values()]).mean())
