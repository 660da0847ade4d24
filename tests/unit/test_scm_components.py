"""What of a design shares a variance, and what shrinkage by component makes of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize

from brainscm.config import ImageOptions, QueryOptions, ScmOptions
from brainscm.counterfactuals.queries import outline
from brainscm.scm.components import Component
from brainscm.scm.design import Array
from brainscm.scm.diagnostics import diagnose
from brainscm.scm.image import fit_image
from brainscm.scm.model import Scm
from brainscm.scm.sample import Sample
from brainscm.scm.shrinkage import _likeliest, _log_likelihood, _standing_out, between_nodes, nodes_of

LATTICE = (4, 6, 6, 6)
NODES = {"age": {}, "diagnosis": {"levels": ["CN", "MCI", "AD"]}, "ventricles": {"formula": "age", "family": "gamma"}}


def cohort(n: int = 80, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, n)
    return pd.DataFrame(
        {
            "scan": [f"sub-{i}" for i in range(n)],
            "participant": [f"sub-{i}" for i in range(n)],
            "split": "train",
            "age": age,
            "diagnosis": rng.choice(["CN", "CN", "CN", "MCI", "AD"], n),
            "ventricles_ml": np.exp(2 + 0.02 * age + 0.3 * rng.normal(size=n)),
        }
    )


def fitted(formula: str, table: pd.DataFrame, latents: Array, nodes: dict[str, Any] = NODES, **image: Any) -> Scm:
    options = ScmOptions.model_validate({"nodes": nodes, "image": {"formula": formula, **image}, "permutations": 0})
    return Scm.fit(table, latents, options, seed=1)


def noise(n: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(n, *LATTICE))


def test_a_component_is_a_straight_line_what_bends_a_factor_or_a_term() -> None:
    table = cohort()
    scm = fitted("cr(age, df=3) + diagnosis + log(ventricles) + age:log(ventricles)", table, noise(len(table)))
    found = {each.name: each for each in scm.components}
    assert list(found) == [
        "cr(age, df=3)", "cr(age, df=3), bends", "diagnosis", "log(ventricles)", "age:log(ventricles)"
    ]  # fmt: skip
    assert [name for name, each in found.items() if each.measured] == [
        "log(ventricles)", "age:log(ventricles)"
    ]  # fmt: skip
    x = scm.design_matrix(table)
    line = (x @ found["cr(age, df=3)"].directions)[:, 0]
    assert np.corrcoef(line, table["age"])[0, 1] == pytest.approx(1)
    bends = x @ found["cr(age, df=3), bends"].directions
    assert bends.shape[1] == 2
    np.testing.assert_allclose((line - line.mean()) @ bends, 0, atol=1e-8)
    levels = x @ found["diagnosis"].directions
    of_ad = (table["diagnosis"] == "AD") * 1.0
    np.testing.assert_allclose(levels[:, 2] - levels[:, 2].mean(), of_ad - of_ad.mean(), atol=1e-10)


def test_what_a_factor_is_compared_with_does_not_matter() -> None:
    table = cohort()
    latents = noise(len(table)) + 1.5 * (table["diagnosis"] == "AD").to_numpy()[:, None, None, None, None]
    predicted = []
    for levels in (["CN", "MCI", "AD"], ["AD", "CN", "MCI"]):
        scm = fitted("age + diagnosis", table, latents, NODES | {"diagnosis": {"levels": levels}})
        predicted.append(scm.image.predict(scm.design_matrix(table)))
    # But for the random draws that tell how noisy least squares is.
    np.testing.assert_allclose(predicted[1], predicted[0], atol=0.02)


def test_a_spline_of_what_acts_in_a_straight_line_costs_little() -> None:
    """What bends has a variance of its own, so that its noise does not come with the line."""
    table = cohort(60)
    age = (table["age"] - 55) / 20
    effect = np.random.default_rng(2).normal(size=LATTICE) * 0.5
    latents = np.multiply.outer(age.to_numpy(), effect) + noise(60)
    error = {}
    for formula in ("age", "cr(age, df=5)"):
        for shrinkage in ("by_component", "none"):
            scm = fitted(formula, table, latents, shrinkage=shrinkage)
            ends = scm.design_matrix(table.iloc[:2].assign(age=[30.0, 80.0]))
            change = np.diff(scm.image.predict(ends), axis=0)[0]
            error[formula, shrinkage] = np.square(change - 2.5 * effect).mean()
    assert error["cr(age, df=5)", "by_component"] < 1.1 * error["age", "by_component"]
    assert error["cr(age, df=5)", "none"] > 1.5 * error["age", "none"]


def mediated(measured_from_image: bool, column: str = "volume_ml", n: int = 150) -> Scm:
    """Age moves what is measured; that moves the image, or is measured from a trait of it that age does not move."""
    rng = np.random.default_rng(5)
    age = rng.normal(size=n)
    own = rng.normal(size=n)
    measured = 0.7 * age + own
    effect, of_age = 0.4 * rng.normal(size=(2, *LATTICE))
    of_age -= effect * (of_age * effect).sum() / np.square(effect).sum()
    source = own if measured_from_image else measured
    latents = np.multiply.outer(source, effect) + np.multiply.outer(age, of_age) + rng.normal(size=(n, *LATTICE))
    table = pd.DataFrame({"scan": [f"sub-{i}" for i in range(n)], "split": "train", "age": age, column: measured})
    nodes = {"age": {}, "volume": {"formula": "age", "column": column}}
    return fitted("age + volume", table.assign(participant=table["scan"]), latents, nodes)


def test_what_a_badly_measured_mediator_carries_counts_as_its_causes() -> None:
    well, badly = mediated(False), mediated(True)
    assert well.image.apart.tolist() == []
    assert badly.image.apart.tolist() == ["volume"]
    (told,) = diagnose(badly, len(badly.training)).set_index("check").loc[["mediator_apart"], "warning"]
    assert told.startswith("what goes with volume in the image does not go with its causes")
    at = badly.image.columns.tolist().index("volume")
    assert not badly.image.coefficients[at].any()
    assert well.image.coefficients[at].any()
    # Of what is not measured from the image, noise is not in the image.
    assert mediated(True, "score").image.apart.tolist() == []


def test_a_mediator_that_some_imputations_set_apart_is_told_of_with_their_share() -> None:
    rng = np.random.default_rng(5)
    age, own = rng.normal(size=(2, 150))
    latents = np.multiply.outer(own, 0.4 * rng.normal(size=LATTICE)) + rng.normal(size=(150, *LATTICE))
    designs = {
        apart: np.column_stack([np.ones(150), age, 0.7 * age + (own if apart else rng.normal(size=150))])
        for apart in (True, False)
    }
    components = [Component("age", np.eye(3)[:, [1]]), Component("volume", np.eye(3)[:, [2]], measured=True)]
    options = ImageOptions(formula="age + volume")
    for imputed, share in (([False, True, False], [1 / 3]), ([True, True], [1.0]), ([False, False], [])):
        sample = Sample.of(designs[False], ["constant", "age", "volume"], latents, [str(i) for i in range(150)])
        sample = replace(sample, imputed=[designs[each] for each in imputed], components=components)
        image = fit_image(sample, options, seed=1)
        assert image.apart.tolist() == ["volume"] * len(share)
        assert image.apart_share.tolist() == share
    scm = mediated(True)
    told = [
        diagnose(replace(scm, image=replace(scm.image, apart_share=np.array([share]))), 150)
        .set_index("check")
        .loc["mediator_apart"]
        for share in (1.0, 0.4)
    ]
    assert [row["value"] for row in told] == [1.0, 0.4]
    assert [row["warning"].startswith("in 40 % of the imputations") for row in told] == [False, True]


def test_a_cause_of_which_no_effect_stands_out_is_told_where_it_is_asked_for() -> None:
    table = cohort()
    latents = noise(len(table)) + 0.03 * (table["age"] - 55).to_numpy()[:, None, None, None, None]
    scm = fitted("age + diagnosis", table, latents, {name: NODES[name] for name in ("age", "diagnosis")})
    checks = diagnose(scm, len(table)).set_index("check")
    assert checks.loc[["no_effect"], "item"].tolist() == ["diagnosis"]
    assert scm.moves_image(["age", "diagnosis"])
    for do, is_shown in (({"diagnosis": "AD"}, False), ({"age": "+10"}, True), ({"age": 70, "diagnosis": "AD"}, True)):
        warnings = outline(scm, table, QueryOptions(name="asked", do=do))[1]["warning"]
        silent = warnings.str.contains("no change is shown: no effect of diagnosis on the image stands out from noise")
        assert silent.all() != is_shown
        assert silent.any() != is_shown


def test_variances_are_the_likeliest() -> None:
    rng = np.random.default_rng(3)
    roots = [rng.normal(size=(5, k)) for k in (1, 2, 1)]
    products = np.stack([root @ root.T / np.square(root).sum() for root in roots])
    covariance = np.eye(5) + 4 * products[0] + 9 * products[1]
    draws = rng.multivariate_normal(np.zeros(5), covariance, 400)
    gram = draws.T @ draws / 400

    def lost(logarithms: Array) -> float:
        return -float(_log_likelihood(gram[None], products, np.exp(logarithms)[None])[0])

    peer = scipy.optimize.minimize(lost, np.zeros(3), method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-6})
    found = _likeliest(gram[None], products)
    np.testing.assert_allclose(found[0][:2], np.exp(peer.x)[:2], rtol=0.01)
    assert -lost(np.log(np.maximum(found[0], 1e-12))) == pytest.approx(-peer.fun, abs=1e-3)


def test_noise_stands_out_once_in_a_thousand() -> None:
    rng = np.random.default_rng(4)
    products = np.stack([np.diag(row) for row in np.eye(4)])
    found = []
    for _ in range(300):
        draws = rng.normal(size=(200, 4))
        found.append(_standing_out(draws.T @ draws / 200, 200, products) > 0)
    assert np.mean(found) < 0.004


def test_shares_between_nodes_are_interpolated() -> None:
    lattice = (30, 5, 14)
    nodes = [nodes_of(size) for size in lattice]
    maps = np.zeros((*[len(each) for each in nodes], 1, 1))
    maps[..., 0, 0] = nodes[0][:, None, None] * 2 + nodes[1][:, None] - nodes[2]
    found = between_nodes(maps, lattice)[..., 0, 0]
    x, y, z = np.indices(lattice)
    np.testing.assert_allclose(found, 2 * x + y - z, atol=1e-10)


def test_columns_without_a_formula_are_components_of_their_own() -> None:
    rng = np.random.default_rng(6)
    x = np.column_stack([np.ones(60), rng.normal(size=(60, 2))])
    z = x[:, 1, None, None, None, None] * rng.normal(size=LATTICE) + rng.normal(size=(60, *LATTICE))
    own = [str(i) for i in range(60)]
    sample = Sample.of(x, ["1", "a", "b"], z, own)
    bare = fit_image(sample, ImageOptions(formula="a + b"), seed=0)
    named = [Component(name, np.eye(3)[:, [i]]) for i, name in ((1, "a"), (2, "b"))]
    told = fit_image(
        Sample(x, ["1", "a", "b"], z, range(60), own, own, (), named), ImageOptions(formula="a + b"), seed=0
    )
    np.testing.assert_array_equal(told.coefficients, bare.coefficients)
    assert bare.coefficients[1].any()
    assert not bare.coefficients[2].any()
