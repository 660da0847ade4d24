"""Formulas against simpler ones: likelihoods and tests are statsmodels', held-out scans by the fit alone."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
import statsmodels.api as sm
from statsmodels.miscmodels.ordinal_model import OrderedModel

from brainscm.config import ScmOptions
from brainscm.scm.comparison import compare_formulas, simpler
from brainscm.scm.formula import parse_formula
from brainscm.scm.model import Scm

N, TRAINED = 260, 200
LEVELS = ["I", "II", "III"]
NODES: dict[str, Any] = {
    "age": {},
    "sex": {"levels": ["F", "M"]},
    "gaussian": {"formula": "age + sex"},
    "gamma": {"formula": "age + sex", "family": "gamma"},
    "poisson": {"formula": "age + sex", "family": "poisson"},
    "negbinomial": {"formula": "age + sex", "family": "negbinomial"},
    "binomial": {"formula": "age + sex", "levels": ["no", "yes"]},
    "multinomial": {"formula": "age + sex", "levels": LEVELS},
    "ordered": {"formula": "age + sex", "levels": LEVELS, "family": "ordered"},
}


def cohort() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(5)
    age, male = rng.uniform(-1.5, 1.5, N), rng.integers(0, 2, N)
    linear = age + 0.4 * male
    ids = [f"sub-{i:03d}" for i in range(N)]
    table = pd.DataFrame(
        {
            "scan": ids,
            "participant": ids,
            "split": np.where(np.arange(N) < TRAINED, "train", "validation"),
            "age": age,
            "sex": np.array(["F", "M"])[male],
            "gaussian": 3 * linear + rng.normal(size=N),
            "gamma": np.exp(2 + 0.4 * linear) * rng.gamma(3, 1 / 3, N),
            "poisson": rng.poisson(np.exp(0.5 + 0.5 * linear)),
            "negbinomial": rng.poisson(np.exp(0.5 + 0.5 * linear) * rng.gamma(2, 1 / 2, N)),
            "binomial": np.array(["no", "yes"])[(linear + rng.logistic(size=N) > 0).astype(int)],
            "multinomial": np.array(LEVELS)[np.searchsorted([-0.5, 1.0], linear + rng.logistic(size=N))],
            "ordered": np.array(LEVELS)[np.searchsorted([-0.5, 1.0], linear + rng.logistic(size=N))],
        }
    )
    return table, linear[:, None] * np.array([1.0, 0.5, 0.0]) + rng.normal(size=(N, 3))


def peer(family: str, table: pd.DataFrame, x: np.ndarray) -> tuple[float, int]:
    """Log-likelihood by statsmodels, and the number of parameters."""
    y = table[family]
    if family in ("binomial", "multinomial", "ordered"):
        y = y.map({level: i for i, level in enumerate(NODES[family]["levels"])})
    if family == "gaussian":
        return sm.OLS(y, x).fit().llf, x.shape[1] + 1
    if family == "gamma":
        kind = sm.families.Gamma(sm.families.links.Log())
        mean = sm.GLM(y, x, family=kind).fit().mu
        loss = scipy.optimize.minimize_scalar(
            lambda scale: -kind.loglike(y, mean, scale=scale), bounds=(0.1, 1), method="bounded"
        )
        return -loss.fun, x.shape[1] + 1
    if family == "poisson":
        return sm.Poisson(y, x).fit(disp=False).llf, x.shape[1]
    if family == "negbinomial":
        return sm.NegativeBinomial(y, x).fit(disp=False, maxiter=500).llf, x.shape[1] + 1
    if family == "ordered":
        return OrderedModel(y, x[:, 1:], distr="logit").fit(method="bfgs", disp=False).llf, x.shape[1] + 1
    fit = sm.MNLogit(y, x).fit(disp=False)
    return fit.llf, fit.params.size


@pytest.fixture(scope="module")
def fitted() -> tuple[Scm, pd.DataFrame, np.ndarray, pd.DataFrame]:
    table, z = cohort()
    image = {"formula": "cr(age, df=3) * sex", "shrinkage": "none"}
    scm = Scm.fit(table, z, ScmOptions.model_validate({"nodes": NODES, "image": image}), seed=1)
    return scm, table, z, compare_formulas(scm, table, z)


@pytest.mark.parametrize("family", [name for name in NODES if name not in ("age", "sex")])
def test_likelihoods_and_tests_of_nodes_are_those_of_statsmodels(fitted: Any, family: str) -> None:
    _, table, _, found = fitted
    training = table[table["split"] == "train"]
    x = np.column_stack([np.ones(TRAINED), training["age"], training["sex"] == "M"]).astype(float)
    designs = {"": x, "without age": x[:, [0, 2]], "without sex": x[:, :2]}
    own = found[found["node"] == family].assign(simpler=lambda rows: rows["simpler"].fillna("")).set_index("simpler")
    assert set(own.index) == set(designs)
    full, _ = peer(family, training, x)
    for lacks, design in designs.items():
        likelihood, parameters = peer(family, training, design)
        row = own.loc[lacks]
        assert row["log_likelihood"] == pytest.approx(likelihood, abs=2e-4)
        assert row["parameters"] == parameters
        assert row["aic"] == pytest.approx(2 * parameters - 2 * likelihood, abs=5e-4)
        if not lacks:
            assert np.isnan(row["p"])
        elif family in ("negbinomial", "binomial", "multinomial", "ordered"):
            df = own.loc["", "parameters"] - parameters
            assert row["statistic"] == "chi2"
            assert row["p"] == pytest.approx(scipy.stats.chi2.sf(2 * (full - likelihood), df), rel=1e-3)
        elif family == "gaussian":
            f = sm.OLS(training[family], x).fit().compare_f_test(sm.OLS(training[family], design).fit())
            assert (row["value"], row["p"]) == pytest.approx(f[:2], rel=1e-6)


def test_held_out_scans_are_judged_by_the_model_of_the_training_scans(fitted: Any) -> None:
    _, table, z, found = fitted
    training, other = table[table["split"] == "train"], table[table["split"] != "train"]
    fit = sm.OLS.from_formula("gaussian ~ age", training).fit()
    spread = np.sqrt(np.square(fit.resid).mean())
    expected = scipy.stats.norm.logpdf(other["gaussian"], fit.predict(other), spread).mean()
    own = found[found["node"] == "gaussian"].set_index("simpler")["held_out_log_likelihood"]
    assert own["without sex"] == pytest.approx(expected)
    assert own["without sex"] < own.loc[own.index.isna()].item()
    of_image = found[found["node"] == "image"].set_index("simpler")
    straight = of_image.loc["a straight line for cr(age, df=3)"]
    assert straight["formula"] == "1 + age + sex + age:sex"
    x = [sm.add_constant(np.column_stack([t["age"], t["sex"] == "M", t["age"] * (t["sex"] == "M")]).astype(float))
         for t in (training, other)]  # fmt: skip
    left = z[TRAINED:] - x[1] @ np.linalg.lstsq(x[0], z[:TRAINED])[0]
    assert straight["held_out_r2"] == pytest.approx(
        1 - np.square(left).sum() / np.square(z[TRAINED:] - z[:TRAINED].mean(0)).sum()
    )
    likelihood = np.mean([sm.OLS(column, x[0]).fit().llf for column in z[:TRAINED].T])
    assert straight["log_likelihood"] == pytest.approx(likelihood)
    assert straight["aic"] == pytest.approx(2 * 5 - 2 * likelihood)


def test_simpler_formulas_lack_a_term_that_is_no_part_of_another_or_a_curve() -> None:
    def of(text: str) -> dict[str, str]:
        return simpler(parse_formula(text, "here"))

    assert of("age") == {"without age": "1"}
    assert of("cr(log(age), df=4) * sex + offset(log(icv))") == {
        "without cr(log(age), df=4):sex": "1 + cr(log(age), df=4) + sex + offset(log(icv))",
        "a straight line for cr(log(age), df=4)": "1 + log(age) + sex + log(age):sex + offset(log(icv))",
    }
    assert of("cc(month, df=3) + bs(age / 10, df=4)") == {
        "without cc(month, df=3)": "1 + bs(age / 10, df=4)",
        "without bs(age / 10, df=4)": "1 + cc(month, df=3)",
        "a straight line for bs(age / 10, df=4)": "1 + cc(month, df=3) + I(age / 10)",
    }


def test_only_the_first_scan_of_a_participant_counts() -> None:
    table, z = cohort()
    twice = pd.concat([table, table.assign(scan=table["scan"] + "_again")], ignore_index=True)
    nodes = {name: NODES[name] for name in ("age", "sex", "poisson")}
    options = ScmOptions.model_validate({"nodes": nodes, "image": {"formula": "age", "shrinkage": "none"}})
    once, again = (
        compare_formulas(Scm.fit(rows, latents, options, seed=1), rows, latents)
        for rows, latents in ((table, z), (twice, np.concatenate([z, z])))
    )
    columns = ["scans", "log_likelihood", "p", "held_out_log_likelihood"]
    nodes_of = [each[each["node"] == "poisson"].reset_index(drop=True)[columns] for each in (once, again)]
    pd.testing.assert_frame_equal(*nodes_of)


def test_what_cannot_be_compared_says_why() -> None:
    table, z = cohort()
    table["binomial"] = np.where(table["age"] > 0, "yes", "no")
    nodes = {name: NODES[name] for name in ("age", "sex", "binomial")}
    options = ScmOptions.model_validate({"nodes": nodes, "image": {"formula": "age"}})
    found = compare_formulas(Scm.fit(table, z, options, seed=1), table, z)
    own = found[found["node"] == "binomial"]
    assert own["reason"].str.contains("few participants|cannot be fitted").sum() == 3
    assert own["p"].isna().all()
