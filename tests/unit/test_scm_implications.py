"""What the graph implies: which independences, tests equal to statsmodels, false arrows found and true ones let be."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm

from brainscm.config import ScmOptions
from brainscm.scm.claims import adjustment_warnings, identification, in_words, missing_arrows
from brainscm.scm.graph import read_graph
from brainscm.scm.implications import holm, implications
from brainscm.scm.model import Scm


def cohort(n: int = 150, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """age → diagnosis → volume ← age, sex; volume and age → image; sex has an arrow to the volume."""
    rng = np.random.default_rng(seed)
    age, sex, weight = rng.normal(60, 10, n), rng.integers(0, 2, n), rng.normal(size=n)
    disease = 0.08 * (age - 60) + rng.logistic(size=n) > 0.5
    volume = np.exp(3 + 0.02 * (age - 60) + 0.3 * disease + 0.35 * sex) * rng.gamma(20, 1 / 20, n)
    falls = rng.poisson(np.exp(0.2 + 0.03 * (age - 60)))
    ids = [f"s{i}" for i in range(n)]
    table = pd.DataFrame(
        {
            "scan": ids, "participant": ids, "split": "train", "age": age, "sex": np.array(["F", "M"])[sex],
            "weight": weight, "diagnosis": np.array(["CN", "AD"])[disease.astype(int)], "volume": volume,
            "falls": falls,
        }
    )  # fmt: skip
    z = 0.05 * age[:, None] * np.ones(8) + 0.1 * volume[:, None] * rng.normal(size=8) + rng.normal(size=(n, 8))
    z[:, 3] += 2.0 * sex
    return table, z


NODES: dict[str, Any] = {
    "age": {},
    "sex": {"levels": ["F", "M"]},
    "weight": {},
    "diagnosis": {"levels": ["CN", "AD"], "formula": "age"},
    "volume": {"formula": "age + diagnosis", "family": "gamma"},
    "falls": {"formula": "age", "family": "poisson"},
}


def fitted(table: pd.DataFrame, z: np.ndarray, nodes: dict[str, Any] | None = None, image: str = "age + volume") -> Any:
    options = ScmOptions.model_validate({"nodes": nodes or NODES, "image": {"formula": image}, "permutations": 40})
    scm = Scm.fit(table, z, options, seed=1)
    return scm, implications(scm, scm.sample(z, range(len(z))))


def test_missing_arrows_are_those_of_earlier_nodes() -> None:
    graph = read_graph(ScmOptions.model_validate({"nodes": NODES, "image": {"formula": "age + volume"}}))
    assert missing_arrows(graph) == [
        ("diagnosis", "sex"), ("diagnosis", "weight"), ("volume", "sex"), ("volume", "weight"), ("falls", "sex"),
        ("falls", "weight"), ("falls", "diagnosis"), ("falls", "volume"), ("image", "sex"), ("image", "weight"),
        ("image", "diagnosis"), ("image", "falls"),
    ]  # fmt: skip


def test_a_missing_arrow_is_found_and_the_others_are_let_be() -> None:
    table, z = cohort()
    _, found = fitted(table, z)
    single = found.iloc[:-1]
    conflicts = {(row["node"], row["other"]) for _, row in single[single["conflict"]].iterrows()}
    assert conflicts == {("volume", "sex"), ("image", "sex")} or conflicts == {("volume", "sex")}
    assert found.set_index(["node", "other"]).loc[("image", "sex"), "p"] == pytest.approx(1 / 41)
    assert bool(found["conflict"].iloc[-1])
    assert in_words(single.iloc[2]) == "volume should not depend on sex, given age, diagnosis"
    mended = {**NODES, "volume": {"formula": "age + diagnosis + sex", "family": "gamma"}}
    _, again = fitted(table, z, mended, "age + volume + sex")
    assert not again["conflict"].any()


def test_tests_are_likelihood_ratios_and_f_tests_of_statsmodels() -> None:
    table, z = cohort()
    _, found = fitted(table, z)
    found = found.set_index(["node", "other"])
    x = np.column_stack([np.ones(150), table["age"]])
    more = np.column_stack([x, table["weight"]])
    y = (table["diagnosis"] == "AD").astype(int)
    ratio = 2 * (sm.Logit(y, more).fit(disp=False).llf - sm.Logit(y, x).fit(disp=False).llf)
    row = found.loc[("diagnosis", "weight")]
    assert (row["statistic"], row["value"], row["df1"]) == ("chi2", pytest.approx(ratio, rel=1e-5), 1)
    assert row["p"] == pytest.approx(scipy.stats.chi2.sf(ratio, 1), rel=1e-4)
    disease = np.column_stack([x, y])
    small, large = (
        sm.GLM(table["volume"], each, family=sm.families.Gamma(sm.families.links.Log())).fit()
        for each in (disease, np.column_stack([disease, table["weight"]]))
    )
    row = found.loc[("volume", "weight")]
    f = (small.deviance - large.deviance) / (large.deviance / large.df_resid)
    assert (row["statistic"], row["value"], row["df2"]) == ("F", pytest.approx(f, rel=1e-6), 146)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gaussian", "poisson", "ordered"])
def test_p_is_uniform_where_the_arrow_is_truly_absent(family: str) -> None:
    rng, p = np.random.default_rng(3), []
    levels = ["I", "II", "III"] if family == "ordered" else None
    for _ in range(30):
        ids, age = [f"s{i}" for i in range(60)], rng.normal(size=60)
        table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age, "w": rng.normal(size=60)})
        y = 0.5 * age + rng.logistic(size=60)
        counts = rng.poisson(np.exp(0.5 + 0.3 * age))
        table["v"] = np.array(levels)[np.digitize(y, [0.5, 1.5])] if levels else counts
        if family == "gaussian":
            table["v"] = y
        nodes = {
            "age": {},
            "w": {},
            "v": {"formula": "age", "family": family, **({"levels": levels} if levels else {})},
        }
        options = ScmOptions.model_validate({"nodes": nodes, "image": {"formula": "age + w + v", "shrinkage": "none"}})
        scm = Scm.fit(table, rng.normal(size=(60, 2)), options, seed=1)
        found = implications(scm, scm.sample(rng.normal(size=(60, 2)), range(60)))
        p.append(found["p"].iloc[0])
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3


def test_what_cannot_be_tested_says_why() -> None:
    table, z = cohort(30)
    table["weight"] = table["age"] * 2
    nodes = {key: NODES[key] for key in ("age", "sex", "weight", "volume", "diagnosis")}
    options = ScmOptions.model_validate({"nodes": nodes, "image": {"formula": "age"}, "permutations": 0})
    scm = Scm.fit(table, z, options, seed=1)
    found = implications(scm, scm.sample(z, range(30))).set_index(["node", "other"])
    assert "already told by" in found.loc[("volume", "weight"), "reason"]
    assert "permutations" in found.loc[("image", "sex"), "reason"]
    assert not found.loc[("image", "sex"), "conflict"]


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])


def test_adjustment_that_is_in_question_is_told() -> None:
    nodes: dict[str, Any] = {"age": {}, "diagnosis": {}, "ventricles": {"formula": "age + diagnosis"}}

    def told(nodes: dict[str, Any], image: str, measured: list[str]) -> list[str]:
        graph = read_graph(ScmOptions.model_validate({"nodes": nodes, "image": {"formula": image}}))
        return adjustment_warnings(graph, measured)

    (warning,) = told(nodes, "age + ventricles", ["ventricles"])
    assert warning.startswith(
        "scm.image.formula: it holds ventricles and leaves out what ventricles depends on (diagnosis)"
    )
    assert told(nodes, "age + diagnosis + ventricles", ["ventricles"]) == []
    (warning,) = told({"age": {}, "ventricles": {}}, "age + ventricles", ["ventricles"])
    assert warning.startswith("scm.nodes.ventricles: it is measured on the scan and has no formula")


@pytest.mark.parametrize(
    ("image", "do", "effect", "told"),
    [
        (
            "age + sex", ["age"], "total",
            "by the graph nothing causes both age and the image; sex is held beside; it is identified if nothing "
            "unmeasured causes both age and the image",
        ),
        (
            "age + volume", ["age"], "total",
            "by the graph nothing causes both age and the image; it is identified if nothing unmeasured causes two of "
            "age, diagnosis, volume and the image",
        ),
        (
            "age + volume", ["age"], "direct",
            "by the graph nothing causes both age and the image; it is identified if nothing unmeasured causes both "
            "the image and age, or both the image and what is held on the way (diagnosis and volume)",
        ),
        (
            "age + sex + diagnosis", ["diagnosis"], "total",
            "age, by the graph a cause of both diagnosis and the image, must be held and is; it is identified if "
            "nothing unmeasured causes both diagnosis and the image",
        ),
        (
            "diagnosis + sex", ["diagnosis"], "total",  # age acts through the diagnosis alone
            "by the graph nothing causes both diagnosis and the image; sex is held beside; it is identified if nothing "
            "unmeasured causes both diagnosis and the image",
        ),
        (
            "falls + diagnosis", ["falls"], "total",
            "age, by the graph a cause of both falls and the image, must be held and is (in part by holding "
            "diagnosis); it is identified if nothing unmeasured causes both falls and the image",
        ),
    ],
)  # fmt: skip
def test_what_an_effect_rests_on_is_told(image: str, do: list[str], effect: str, told: str) -> None:
    graph = read_graph(ScmOptions.model_validate({"nodes": NODES, "image": {"formula": image}}))
    assert identification(graph, do, effect) == told


def test_what_an_effect_on_a_node_rests_on_is_told() -> None:
    graph = read_graph(ScmOptions.model_validate({"nodes": NODES, "image": {"formula": "age"}}))
    assert identification(graph, ["diagnosis"], "total", "volume").startswith("age, by the graph a cause of both diag")
    assert identification(graph, ["age"], "total", "volume").endswith("causes two of age, diagnosis and volume")


def test_ways_past_a_node_are_those_of_the_graph_without_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = [*"abcdef"]
        parents = {name: [other for other in names[:i] if rng.random() < 0.4] for i, name in enumerate(names)}
        nodes = {name: {"formula": " + ".join(above)} if above else {} for name, above in parents.items()}
        image = [name for name in names if rng.random() < 0.4] or ["f"]
        graph = read_graph(ScmOptions.model_validate({"nodes": nodes, "image": {"formula": " + ".join(image)}}))

        def leads(node: str, past: str) -> bool:
            below = [name for name in names if node in parents[name] and name != past]  # noqa: B023
            return node in image or any(leads(name, past) for name in below)  # noqa: B023

        for node in names:
            for past in names:
                if node != past:
                    assert graph.reaches([node], "image", past=[past]) == leads(node, past)
