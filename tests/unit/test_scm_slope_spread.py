"""The spread of participants' slopes in time: F of nested models, mixed models, and what is told of it."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf

from brainscm.config import ScmOptions
from brainscm.scm.error_rates import SLOPES_SKEWED
from brainscm.scm.model import Scm
from brainscm.scm.slope_spread import _spreads, random_slopes, slope_spreads, years_asked


def visits(spread: float, participants: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 6, participants)
    who = np.repeat(np.arange(participants), count)
    years = np.concatenate([np.sort(rng.uniform(0, 6, each)) for each in count])
    slope = rng.normal(-3, spread, participants)[who]
    baseline = rng.uniform(50, 80, participants)[who]
    return pd.DataFrame(
        {
            "scan": [f"s{i}" for i in range(len(who))],
            "participant": [f"p{i}" for i in who],
            "split": "train",
            "age": baseline + years,
            "gm_ml": 600 + rng.normal(0, 30, participants)[who] + slope * years + rng.normal(0, 2, len(who)),
        }
    )


def slopes_of(table: pd.DataFrame) -> tuple[float, float, float]:
    found = random_slopes(*(table[column].to_numpy() for column in ("gm_ml", "age", "participant")))
    assert found is not None
    return found.mean_ml, found.sd_ml, found.p


def test_p_is_that_of_a_slope_of_each_participant_against_one_for_all() -> None:
    table = visits(0.6)
    _, spread, p = slopes_of(table)
    several = table[table.groupby("participant")["age"].transform("count") > 1]
    one, own = (smf.ols(f"gm_ml ~ C(participant) + {term}", several).fit() for term in ("age", "age:C(participant)"))
    assert p == pytest.approx(sm.stats.anova_lm(one, own)["Pr(>F)"].iloc[1], rel=1e-6)
    assert slopes_of(table)[0] == pytest.approx(one.params["age"])
    assert spread > 0


def test_the_spread_is_that_of_a_mixed_model_and_the_true_one() -> None:
    found = np.array([slopes_of(visits(1.2, participants=150, seed=seed))[1] for seed in range(12)])
    assert np.mean(found**2) == pytest.approx(1.2**2, rel=0.1)
    table = visits(1.2, participants=150)
    # Whatever participants differ in besides is no matter; it is made small for the other's search to end.
    within = table[["age", "gm_ml"]] - table.groupby("participant")[["age", "gm_ml"]].transform("mean")
    own = np.random.default_rng(1).normal(0, 2, 150)[table["participant"].str[1:].astype(int)]
    within = within.assign(years=within["age"], gm_ml=within["gm_ml"] + own, participant=table["participant"])
    peer = smf.mixedlm("gm_ml ~ years", within, groups="participant", re_formula="~years").fit(method="lbfgs")
    assert peer.converged
    assert found[0] == pytest.approx(np.sqrt(peer.cov_re.loc["years", "years"]), rel=0.1)


def test_p_is_uniform_where_all_slopes_are_one() -> None:
    p = np.array([slopes_of(visits(0.0, participants=25, seed=seed))[2] for seed in range(300)])
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("spread", "told"), [(1.5, True), (0.0, False)])
def test_slopes_that_differ_are_told_of(spread: float, told: bool) -> None:
    table = visits(spread)
    options = ScmOptions.model_validate({"nodes": {"age": {}}, "image": {"formula": "age", "shrinkage": "none"}})
    scm = Scm.fit(table, np.random.default_rng(0).normal(size=(len(table), 2)), options, seed=1)
    found = slope_spreads(scm, table, ["gm", "wm"])
    row, returning = found.to_dict("records")
    assert (row["check"], row["item"]) == ("slope_spread", "gm")
    assert row["value"] == pytest.approx(spread / 3, abs=0.15)
    assert found["warning"].notna().tolist() == [told, False]
    assert not told or f"in up to {SLOPES_SKEWED} % of cases where there is nothing" in row["warning"]
    several = int((table["participant"].value_counts() > 1).sum())
    assert (returning["check"], returning["value"]) == ("returning_participants", several)
    once = table[~table["participant"].duplicated()].reset_index(drop=True)
    scm = Scm.fit(once, np.random.default_rng(0).normal(size=(len(once), 2)), options, seed=1)
    assert slope_spreads(scm, once, ["gm"]).empty


@pytest.mark.parametrize(("participants", "spread"), [(30, 1.0), (15, 0.5)])
def test_changes_in_time_of_new_participants_lie_in_the_widened_interval(participants: int, spread: float) -> None:
    """Over 8 years slopes that differ by 1 make a difference of 8 ml, where what is measured errs by 2.

    Of fifteen participants often no spread is seen, and an interval that took it for none would hold 85 %.
    """
    rng, held, narrow = np.random.default_rng(5), [], []
    for seed in range(60):
        table = visits(spread, participants, seed)
        found = random_slopes(*(table[column].to_numpy() for column in ("gm_ml", "age", "participant")))
        if found is None:
            continue
        truth = 8 * rng.normal(found.mean_ml, spread, 200) + rng.normal(0, 2, 200)
        distance = np.abs(truth - 8 * found.mean_ml)
        narrow.append((distance <= 1.96 * 2).mean())
        held.append((distance <= np.hypot(1.96 * 2, found.half_width_ml(-8))).mean())
    assert np.mean(narrow) < 0.75
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_what_is_known_of_the_spread_is_a_confidence_distribution() -> None:
    """The true spread is at each of its ranks as often, where there is one to be seen."""
    ranks = []
    for seed in range(100):
        table = visits(2.0, 20, seed)
        squares = table.groupby("participant")["age"].agg(lambda age: ((age - age.mean()) ** 2).sum())
        weights = squares[squares > 0].to_numpy()
        rng = np.random.default_rng(seed)
        slopes = rng.normal(0, np.sqrt(2.0**2 + 4 / weights))
        q = float(weights @ (slopes - weights @ slopes / weights.sum()) ** 2)
        noise = 4 * rng.chisquare(40) / 40
        ranks.append((_spreads(weights, q, noise, 40) < 2.0**2).mean())
    assert np.mean(np.array(ranks) < 0.5) == pytest.approx(0.5, abs=0.12)
    assert np.mean(np.abs(np.array(ranks) - 0.5) > 0.45) == pytest.approx(0.1, abs=0.07)


def test_years_are_those_of_age_by_every_way() -> None:
    table = visits(0.0)
    options = {"nodes": {"age": {}, "gm": {"formula": "age"}}, "image": {"formula": "age + gm", "shrinkage": "none"}}
    declared = ScmOptions.model_validate(options)
    scm = Scm.fit(table, np.random.default_rng(0).normal(size=(len(table), 2)), declared, seed=1)
    rows = table.head(3)
    older = scm.intervene(rows, {"age": "+5"})
    np.testing.assert_allclose(years_asked(scm, rows, older, "total"), 5)
    np.testing.assert_allclose(years_asked(scm, rows, older, "direct"), 0)
    np.testing.assert_allclose(years_asked(scm, rows, scm.intervene(rows, {"gm": "+5"}), "total"), 0)
