"""The minimality matrix: does an intervention move each region by what the causal model says, and no further?

Minimality(A, r) of Sun et al. 2025 (arXiv 2508.02880) asks of the regions that should not move that they stay. A graph
says more: by how much each region should move. So the matrix has every region for every intervention.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainscm.evaluation.bootstrap import bootstrap_mean
from brainscm.evaluation.repeats import Repeats

WHO = ["query", "effect", "scan", "participant", "region"]
COLUMNS = (
    "query", "effect", "method", "decode", "region", "mean_ml", "measured_ml", "expected_ml", "true_ml",
    "excess_ml", "excess_low_ml", "excess_high_ml", "excess_percent", "noise_ml", "noise_source", "beyond_noise",
    "scans", "participants",
)  # fmt: skip


def minimality_table(
    measurements: pd.DataFrame, table: pd.DataFrame, regions: Sequence[str], repeats: Repeats, seed: int
) -> pd.DataFrame:
    """One row a query, method, decoding and region; means over the test scans that were asked, in ml.

    `measured` is the change in the counterfactual volume, `expected` what the causal model says, `true` the simulator's
    (where known); `excess` = measured - expected with its 95 % interval over participants. `noise` is the standard
    deviation of the difference between two scans of one participant; without repeated scans, of what encoding and
    decoding alone change. `beyond_noise`: the excess exceeds it and its interval leaves zero out.

    Args:
        measurements: a row each, see `measurements.table_of`. table: usable scans with `<region>_ml`.
    """
    changes = measurements[measurements["metric"] == "region_change_ml"]
    if changes.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    changes = changes[changes["source"] != "follow-up"]
    expected, true = (
        changes[changes["method"] == name].set_index(WHO)["value"].rename(column)
        for name, column in (("scm", "expected_ml"), ("truth", "true_ml"))
    )
    made = changes[~changes["method"].isin(["scm", "truth"])].rename(columns={"value": "measured_ml"})
    made = made.join(expected, on=WHO).join(true, on=WHO)
    made["excess_ml"] = made["measured_ml"] - made["expected_ml"]
    noise, source = _noise(measurements, repeats)
    found = []
    keys = ["query", "effect", "method", "decode", "region"]
    for key, group in made.groupby(keys, sort=False):
        region = str(key[-1])
        rng = np.random.default_rng([seed, *"".join(map(str, key)).encode()])
        excess, low, high = bootstrap_mean(group["excess_ml"].to_numpy(), group["participant"].to_numpy(), rng)
        mean_ml, noise_ml = float(table[f"{region}_ml"].mean()), noise.get(region, float("nan"))
        found.append(
            {
                **dict(zip(keys, key, strict=True)),
                "mean_ml": mean_ml,
                **group[["measured_ml", "expected_ml", "true_ml"]].mean(),
                "excess_ml": excess,
                "excess_low_ml": low,
                "excess_high_ml": high,
                "excess_percent": 100 * excess / mean_ml,
                "noise_ml": noise_ml,
                "noise_source": source,
                "beyond_noise": bool(abs(excess) > noise_ml and not low <= 0 <= high),
                "scans": group["scan"].nunique(),
                "participants": group["participant"].nunique(),
            }
        )
    matrix = pd.DataFrame(found, columns=list(COLUMNS))
    order = {region: place for place, region in enumerate(regions)}
    return matrix.sort_values("region", key=lambda names: names.map(order), kind="stable").sort_values(
        ["method", "decode"], kind="stable", ignore_index=True
    )


def _noise(measurements: pd.DataFrame, repeats: Repeats) -> tuple[dict[str, float], str]:
    if repeats.sd_ml:
        return repeats.sd_ml, repeats.source
    of_own = (measurements["source"] == "reconstruction") & (measurements["method"] == "latent_glm")
    errors = measurements[of_own & measurements["region"].notna()]
    if errors["scan"].nunique() < 2:
        return {}, repeats.source
    sd = {str(region): float(part["value"].std()) for region, part in errors.groupby("region")}
    return sd, f"reconstruction alone ({repeats.source})"
