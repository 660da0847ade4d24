"""From single measurements to what is reported: means with intervals, by group, and the contract's summary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from brainscm.evaluation.bootstrap import bootstrap_mean
from brainscm.evaluation.measurements import COLUMNS as MEASURED
from brainscm.scm.model import Scm

METRICS = ("psnr_brain_db", "change_correlation", "change_slope", "region_volume_mae_ml", "interval_coverage_95")
METHODS = ("persistence", "voxel_glm", "pca_glm", "latent_glm")
COLUMNS = ["level", "stratum", *MEASURED, "ci95_low", "ci95_high", "scans", "participants"]
KEYS = ["source", "method", "decode", "region", "metric"]
MOST_LEVELS = 10
NOTHING_PREDICTED = "persistence predicts no change, so there is nothing to correlate"
WHY_NULL = {
    "psnr_brain_db": "the prediction equals the truth everywhere",
    "change_correlation": "the predicted or the true change is the same everywhere",
    "change_slope": "nothing truly changed",
    "region_volume_mae_ml": "no region could be measured",
}
TRUTHS = ("simulated", "follow-up")
INTERVAL_EDGES = (0.0, 5.0, 10.0, 20.0, math.inf)


def metrics_table(measurements: pd.DataFrame, scm: Scm, table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The long table: one row a measurement (`level` scan), and one a mean over scans (`level` mean).

    Means come for all scans (`stratum` all) and by query, interval of age, and level of each categorical node, with a
    95 % bootstrap interval over participants; those of single regions for all scans only.

    Args:
        measurements: a row each, see `measurements.table_of`. table: their scans, indexed by scan id.
        scm, seed: of the workflow.
    """
    means = []
    for stratum, part in _strata(measurements, scm, table):
        measured = part[np.isfinite(part["value"])]
        for key, group in measured.groupby(KEYS, sort=False, dropna=False):
            # Seeded by its place, so that a row is the same whatever else is measured.
            rng = np.random.default_rng([seed, *f"{stratum}{key}".encode()])
            value, low, high = bootstrap_mean(group["value"].to_numpy(), group["participant"].to_numpy(), rng)
            means.append(
                {
                    **dict(zip(KEYS, key, strict=True)),
                    "stratum": stratum,
                    "value": value,
                    "ci95_low": low,
                    "ci95_high": high,
                    "scans": group["scan"].nunique(),
                    "participants": group["participant"].nunique(),
                }
            )
    parts = [
        pd.DataFrame(means).assign(level="mean") if means else pd.DataFrame(columns=COLUMNS),
        measurements.assign(level="scan"),
    ]
    return pd.concat([part for part in parts if len(part)] or parts[:1]).reindex(columns=COLUMNS)


def _strata(single: pd.DataFrame, scm: Scm, table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "all", single
    if single.empty:
        return
    answered = single[single["source"].isin(TRUTHS) & single["region"].isna()]
    for query, part in answered.groupby("query", sort=False):
        yield f"query={query}", part
    values = scm.values(table)
    for node, levels in scm.covariates.levels.items():
        if levels is not None and 1 < len(levels) <= MOST_LEVELS:
            for level, part in answered.groupby(answered["scan"].map(values[node]), sort=False, observed=True):
                yield f"{node}={level}", part
    bins = pd.cut(answered["years"].abs(), INTERVAL_EDGES, right=False)
    for interval, part in answered.groupby(bins, observed=True):
        to = "or more" if math.isinf(interval.right) else f"to {interval.right:g}"
        yield f"years={interval.left:g} {to}", part


def summarise(
    metrics: pd.DataFrame, reconstruction: pd.DataFrame, why_no_truth: str, why_no_interval: str
) -> dict[str, Any]:
    """`evaluation/summary.json`: means over scans and queries against the simulator's truth, else against follow-ups.

    Args:
        metrics: from `metrics_table`.
        reconstruction: the encoder's fidelity by scan and split.
        why_no_truth: the reason to give where there is no case at all.
        why_no_interval: the reason to give where a fitted method has no interval.
    """
    means = metrics[(metrics["level"] == "mean") & (metrics["stratum"] == "all") & metrics["region"].isna()]
    source = next((s for s in TRUTHS if (means["source"] == s).any()), None)
    means = means[means["source"] == source]
    test = reconstruction[reconstruction["split"] == "test"]
    return {
        "reconstruction": {
            "psnr_brain_db": _finite(test["psnr_brain_db"].mean()),
            "ssim_brain": _finite(test["ssim_brain"].mean()),
        },
        "methods": {
            method: _method(means, method, why_no_truth if source is None else None, why_no_interval)
            for method in METHODS
        },
        "truth": {
            "source": source,
            "scans": int(means["scans"].max() or 0) if source else 0,
            "participants": int(means["participants"].max()) if source else 0,
        },
    }


def _method(means: pd.DataFrame, method: str, why_no_truth: str | None, why_no_interval: str) -> dict[str, Any]:
    own = means[(means["method"] == method) & means["decode"].isin(["none", "residual"])].set_index("metric")["value"]
    found: dict[str, Any] = {metric: _finite(own.get(metric)) for metric in METRICS}
    reasons = dict(WHY_NULL, interval_coverage_95=why_no_interval)
    if method == "persistence":
        reasons |= {"change_correlation": NOTHING_PREDICTED, "interval_coverage_95": "no change states no interval"}
    why_null = {metric: why_no_truth or reasons[metric] for metric in METRICS if found[metric] is None}
    return {**found, "why_null": why_null}


def _finite(value: float | None) -> float | None:
    """A JSON number, or null: JSON knows no NaN."""
    return float(value) if value is not None and math.isfinite(value) else None
