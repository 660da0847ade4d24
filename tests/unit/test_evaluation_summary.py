"""From single measurements to means with intervals, and to the contract's summary."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainscm.evaluation.measurements import table_of
from brainscm.evaluation.summary import METHODS, metrics_table, summarise

TABLE = pd.DataFrame(
    {"sex": ["F", "M"] * 4}, index=[f"s{number}{visit}" for number in range(4) for visit in "ab"]
)  # four participants, each scanned twice
SCM = SimpleNamespace(values=lambda table: table, covariates=SimpleNamespace(levels={"sex": ("F", "M"), "age": None}))
RECONSTRUCTION = pd.DataFrame({"split": ["train", "test"], "psnr_brain_db": [40.0, 30.0], "ssim_brain": [1.0, 0.9]})


def row(scan: str, value: float, **other) -> dict:
    about = {"source": "simulated", "method": "latent_glm", "decode": "residual", "query": "older", "effect": "total"}
    return {
        **about,
        "scan": scan,
        "participant": scan[:2],
        "years": 20.0,
        "metric": "psnr_brain_db",
        "value": value,
    } | other


def mean(metrics: pd.DataFrame, stratum: str = "all") -> pd.Series:
    found = metrics[(metrics["level"] == "mean") & (metrics["stratum"] == stratum) & metrics["region"].isna()]
    assert len(found) == 1
    return found.iloc[0]


def test_the_interval_of_a_mean_is_over_participants_and_not_over_their_scans():
    values = dict(zip(TABLE.index, np.repeat([20.0, 24.0, 26.0, 34.0], 2), strict=True))
    found = mean(metrics_table(table_of([row(scan, value) for scan, value in values.items()]), SCM, TABLE, seed=0))
    assert (found["value"], found["scans"], found["participants"]) == (26.0, 8, 4)
    once = [row(scan, value) for scan, value in values.items() if scan.endswith("a")]
    alone = mean(metrics_table(table_of(once), SCM, TABLE, seed=0))
    assert (found["ci95_low"], found["ci95_high"]) == pytest.approx((alone["ci95_low"], alone["ci95_high"]))


def test_means_come_by_query_level_and_years_and_leave_out_what_is_not_finite():
    rows = [row("s0a", 20.0), row("s0b", 30.0, query="younger", years=-5.0), row("s1a", np.inf)]
    metrics = metrics_table(table_of(rows), SCM, TABLE, seed=0)
    assert mean(metrics)["value"] == 25.0
    for stratum, value in {
        "query=older": 20.0,
        "query=younger": 30.0,
        "sex=F": 20.0,
        "sex=M": 30.0,
        "years=5 to 10": 30.0,
        "years=20 or more": 20.0,
    }.items():
        assert mean(metrics, stratum)["value"] == value


def test_the_summary_prefers_the_simulators_truth_and_takes_residual_decoding():
    rows = [row("s0a", 20.0), row("s0a", 10.0, decode="direct"), row("s1a", 30.0, source="follow-up")]
    summary = summarise(metrics_table(table_of(rows), SCM, TABLE, seed=0), RECONSTRUCTION, "no truth", "no interval")
    assert summary["reconstruction"] == {"psnr_brain_db": 30.0, "ssim_brain": 0.9}
    assert summary["truth"] == {"source": "simulated", "scans": 1, "participants": 1}
    assert list(summary["methods"]) == list(METHODS)
    latent = summary["methods"]["latent_glm"]
    assert latent["psnr_brain_db"] == 20.0
    assert latent["why_null"]["interval_coverage_95"] == "no interval"
    later = summarise(metrics_table(table_of(rows[2:]), SCM, TABLE, seed=0), RECONSTRUCTION, "no truth", "no interval")
    assert later["truth"]["source"] == "follow-up"
    assert later["methods"]["latent_glm"]["psnr_brain_db"] == 30.0


def test_without_any_measurement_every_figure_is_null_with_the_reason():
    summary = summarise(metrics_table(table_of([]), SCM, TABLE, seed=0), RECONSTRUCTION, "no truth", "no interval")
    assert summary["truth"] == {"source": None, "scans": 0, "participants": 0}
    assert set(summary["methods"]["voxel_glm"]["why_null"].values()) == {"no truth"}
