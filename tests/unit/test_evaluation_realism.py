from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from brainscm.evaluation.realism import CounterfactualFeatures, image_features, mmd_test, realism_table

PAIRS, FEATURES = 24, 5


def p_values(shift: float, repeats: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(repeats):
        shared = rng.standard_normal((PAIRS, 1))  # what two partners have in common: their covariates
        a, b = (shared + rng.standard_normal((PAIRS, FEATURES)) for _ in range(2))
        found.append(mmd_test(a + shift, b, rng)["p"])
    return np.array(found)


def test_equal_distributions_are_told_apart_as_rarely_as_the_level_says():
    p = p_values(0.0, 60)
    assert np.mean(p <= 0.05) <= 0.13
    assert np.mean(p) == pytest.approx(0.5, abs=0.12)


def test_a_shifted_distribution_is_told_apart():
    assert np.median(p_values(1.0, 5)) < 0.01


def test_the_same_sample_has_no_discrepancy():
    a = np.random.default_rng(0).standard_normal((PAIRS, FEATURES))
    found = mmd_test(a, a, np.random.default_rng(1))
    assert found["mmd2"] == pytest.approx(0, abs=1e-12)
    assert found["p"] == 1


def test_blur_is_seen_in_the_finest_band_and_contrast_in_the_percentiles():
    rng = np.random.default_rng(0)
    volume = gaussian_filter(rng.standard_normal((24, 24, 24)), 1).astype(np.float32) + 1
    mask = np.zeros(volume.shape, bool)
    mask[4:-4, 4:-4, 4:-4] = True
    sharp, blurred = (image_features(v, mask) for v in (volume, gaussian_filter(volume, 1)))
    assert blurred[5] < sharp[5] - 1
    assert blurred[5] - sharp[5] < blurred[8] - sharp[8]
    np.testing.assert_allclose(image_features(2 * volume, mask)[:5], 2 * sharp[:5], rtol=1e-6)


AGES = np.linspace(30, 70, 20)
REAL = pd.DataFrame(
    {
        "scan": [f"s{n}" for n in range(20)],
        "participant": [f"p{n}" for n in range(20)],
        "age": AGES,
        "sex": ["F", "M"] * 10,
        "gm_ml": 700 - AGES,
        "csf_ml": 200 + AGES,
    }
).set_index("scan", drop=False)
SCM = SimpleNamespace(
    values=lambda table: table[["age", "sex"]],
    training_values=REAL[["age"]],
    covariates=SimpleNamespace(
        columns={"age": "age", "sex": "sex", "csf": "csf_ml"}, levels={"age": None, "sex": ("F", "M")}
    ),
)


def realism(asked: pd.DataFrame, shift: float = 0.0, read: list[str] | None = None) -> pd.DataFrame:
    """Of counterfactuals with these table rows, whose image features are their age and a shift."""
    made = [
        CounterfactualFeatures(
            "q",
            "latent_glm",
            "residual",
            row,
            row[["gm_ml", "csf_ml"]].rename(lambda c: c[:-3]),
            np.array([row["age"] + shift]),
        )
        for _, row in asked.iterrows()
    ]

    def real_image(scan: str) -> np.ndarray:
        if read is not None:
            read.append(scan)
        return np.array([REAL.at[scan, "age"]])

    return realism_table(made, SCM, REAL, ["gm", "csf"], real_image, seed=0).set_index("features")


def test_partners_are_other_participants_of_near_covariates_each_used_once():
    read: list[str] = []
    found = realism(REAL, read=read)
    assert found.loc["image", "pairs"] == len(read) == len(set(read)) == 20
    partners = REAL.loc[read]
    assert (partners["participant"].to_numpy() != REAL["participant"].to_numpy()).all()
    assert (partners["sex"].to_numpy() == REAL["sex"].to_numpy()).all()
    assert np.abs(partners["age"].to_numpy() - AGES).max() < 5


def test_a_counterfactual_without_a_near_partner_is_left_out():
    old = REAL.assign(age=REAL["age"].where(REAL.index != "s19", 95.0))
    assert realism(old).loc["image", "pairs"] == 19
    few = realism(REAL.assign(sex="F"))  # ten women, less oneself, for twenty counterfactuals
    assert few.loc["image", "pairs"] == 10
    too_few = realism(REAL.assign(age=REAL["age"] + 34))
    assert too_few["p"].isna().all()
    assert too_few["pairs"].between(1, 7).all()
    assert (
        too_few["why_null"]
        .str.endswith("of 20 counterfactuals have a real scan of another participant near them")
        .all()
    )


def test_counterfactuals_that_look_otherwise_are_told_apart():
    assert realism(REAL).loc["image", "p"] > 0.05
    assert realism(REAL, shift=60.0).loc["image", "p"] < 0.01
    assert realism(REAL, shift=60.0).loc["regions", "p"] > 0.05
