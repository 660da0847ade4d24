"""A participant's place: z and centiles by refitting without the participant, and uniform where nothing is unusual."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm

from brainscm.config import ScmOptions
from brainscm.scm.model import Scm
from brainscm.scm.places import places


def cohort(n: int = 60, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    participants = np.append(np.arange(n), [0, 1, 2])  # three come twice
    age = rng.uniform(20, 80, n)[participants]
    ids = [f"s{i}" for i in range(n + 3)]
    table = pd.DataFrame({"scan": ids, "participant": [f"p{i}" for i in participants], "age": age})
    table["split"] = np.where(participants % 4 == 3, "test", "train")
    table["gm_ml"] = 800 - 2 * age + rng.normal(0, 20, len(participants))
    table["ventricles_ml"] = 10 + 0.3 * age + rng.normal(0, 4, len(participants))
    z = 0.05 * age[:, None] + 0.02 * table["ventricles_ml"].to_numpy()[:, None] + rng.normal(size=(n + 3, 30))
    return table, z


def model(table: pd.DataFrame, z: np.ndarray) -> Scm:
    nodes: dict[str, Any] = {"age": {}, "ventricles": {"formula": "age"}}
    options = {"nodes": nodes, "image": {"formula": "age + ventricles", "shrinkage": "none"}}
    return Scm.fit(table, z, ScmOptions.model_validate(options), seed=1)


def test_a_place_is_that_of_a_fit_without_the_participant() -> None:
    table, z = cohort()
    found = places(model(table, z), table, z, ["gm", "wm"]).set_index(["measure", "scan"])
    assert set(found.index.get_level_values("measure")) == {"latent", "gm"}
    for scan in ("s0", "s3", "s5"):  # came twice; of the test split; once
        row, own = found.loc[("gm", scan)], table.set_index("scan").loc[scan]
        others = table[(table["split"] == "train") & (table["participant"] != own["participant"])]
        fit = sm.OLS(others["gm_ml"], sm.add_constant(others["age"])).fit()
        told = fit.get_prediction([[1.0, own["age"]]])
        sd = np.sqrt(fit.scale)
        assert row["expected"] == pytest.approx(told.predicted_mean[0])
        distance = own["gm_ml"] - told.predicted_mean[0]
        assert row["z"] == pytest.approx(distance / told.se_obs[0])
        assert row["centile"] == pytest.approx(100 * scipy.stats.t.cdf(row["z"], fit.df_resid))
        half = scipy.stats.t.ppf(0.975, fit.df_resid) * told.se_mean[0]
        low = 100 * scipy.stats.t.cdf((distance - half) / sd, fit.df_resid)
        assert row["centile_low"] == pytest.approx(low)
        assert row["centile_low"] < row["centile"] < row["centile_high"]


def test_a_volume_that_is_a_node_is_placed_by_its_causes_and_not_by_itself() -> None:
    table, z = cohort()
    found = places(model(table, z), table, z, ["ventricles"])
    assert found[found["measure"] == "ventricles"]["z"].std() == pytest.approx(1, abs=0.25)


def test_centiles_of_participants_who_were_not_fitted_are_uniform() -> None:
    centiles = []
    for seed in range(12):
        table, z = cohort(seed=seed)
        found = places(model(table, z), table, z, ["gm"])
        centiles.append(found[found["split"] == "test"])
    every = pd.concat(centiles)
    for measure in ("gm", "latent"):
        assert scipy.stats.kstest(every[every["measure"] == measure]["centile"] / 100, "uniform").pvalue > 1e-3


def test_an_unusual_brain_has_an_unusual_latent() -> None:
    table, z = cohort()
    z[7] += 4 * np.random.default_rng(1).normal(size=30)
    found = places(model(table, z), table, z, []).set_index("scan")
    assert found.loc["s7", "centile"] > 99.9
    assert found["z"].idxmax() == "s7"


def test_the_interval_of_a_latents_place_holds_that_of_its_true_residual() -> None:
    held, narrower = [], []
    for seed in range(8):
        table, z = cohort(seed=seed)
        found = places(model(table, z), table, z, []).set_index("scan").loc[table["scan"]]
        ends = scipy.stats.t.ppf(found[["centile_low", "centile_high"]] / 100, (table["split"] == "train").sum() - 1)
        size, (unit, _) = np.log(found["value"]), np.polyfit(found["z"], np.log(found["value"]), 1)
        half = unit * (ends[:, 1] - ends[:, 0]) / 2
        age, ventricles = (table[column].to_numpy()[:, None] for column in ("age", "ventricles_ml"))
        true = np.log(np.square(z - 0.05 * age - 0.02 * ventricles).mean(axis=1))
        held += list(np.abs(true - size) < half)
        narrower += list(np.abs(true - size) < half / 4)
    assert np.mean(held) > 0.85
    assert np.mean(narrower) < 0.75
