"""The declared graph: what is refused before any work, and in which words."""

import contextlib
import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest

from brainscm.config import Config, QueryOptions, ScmOptions
from brainscm.errors import ConfigError
from brainscm.questions import query_label
from brainscm.scm.covariates import Covariates, check_table, check_values
from brainscm.scm.exogenous import associations
from brainscm.scm.graph import check_graph, read_graph
from brainscm.scm.precheck import check_cohort, check_designs

NODES = {"age": {}, "sex": {"levels": ["F", "M"]}}


def scm(nodes: dict[str, Any] | None = None, image: str = "age + sex", **contrasts: Any) -> ScmOptions:
    return ScmOptions.model_validate({"nodes": nodes or NODES, "image": {"formula": image}, "contrasts": contrasts})


def query(**fields: Any) -> QueryOptions:
    return QueryOptions.model_validate({"name": "q", "do": {"age": 80}} | fields)


def test_parents_come_before_their_children_whatever_the_order_in_the_config() -> None:
    nodes = {"c": {"formula": "b + a"}, "b": {"formula": "a"}, "a": {}, "x": {}}
    graph = read_graph(scm(nodes, image="cr(c, df=3) * x"))
    order = list(graph.formulas)
    assert order.index("a") < order.index("b") < order.index("c")
    assert graph.exogenous == ("a", "x")
    assert graph.parents("c") == ("b", "a")
    assert graph.image.names == ("c", "x")
    assert graph.descendants(("a",)) == ("b", "c")
    assert graph.descendants(("b",)) == ("c",)
    assert graph.descendants(("a", "b")) == ("c",)
    assert graph.reaches_image(["a"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (scm({"a": {"formula": "b"}, "b": {"formula": "c"}, "c": {"formula": "a"}}, "a"), ["circle", "a → c → b → a"]),
        (scm({"a": {"formula": "a"}}, "a"), ["circle", "a → a"]),
        (scm(image="agee + sex"), ["scm.image.formula", "'agee' is not a node", "did you mean 'age'"]),
        (scm({**NODES, "v": {"formula": "sexx"}}), ["scm.nodes.v.formula", "'sexx'", "did you mean 'sex'"]),
        (scm(image="age +"), ["scm.image.formula", "not a formula"]),
        (scm(image="cr(age, df=4"), ["scm.image.formula", "not a formula"]),
        (scm(image="image ~ age"), ["right-hand side alone"]),
        (scm(image="0 + age"), ["intercept"]),
        (scm(image="sex + offset(age)"), ["scm.image.formula", "has an offset, which a latent does not"]),
        (scm({**NODES, "v": {"formula": "age * offset(sex)"}}), ["scm.nodes.v.formula", "multiplies an offset"]),
        (scm(image="cs(age)"), ["unknown function 'cs'", "did you mean"]),
        (scm(image="np.log(age) + I(age - age.mean())"), ["'age.mean'", "other scans"]),
        (scm({"head-size": {}, **NODES}), ["'head-size' cannot stand in a formula", "head_size"]),
        (scm({**NODES, "dx": {"levels": ["A", "B", "C"], "family": "binomial"}}), ["binomial takes two levels"]),
        (scm({**NODES, "dx": {"levels": ["A", "A"]}}), ["stands twice"]),
        (scm(ageing={"agge": [50, 80]}), ["scm.contrasts.ageing", "'agge' is not a node", "did you mean 'age'"]),
        (scm(sexes={"sex": ["F", "X"]}), ["scm.contrasts.sexes", "'X' is not one of its levels", "F, M"]),
        (scm(ageing={"age": ["+5", 80]}), ["scm.contrasts.ageing", "two values"]),
        (scm(nothing={}), ["scm.contrasts.nothing is empty"]),
        (scm({"lambda": {}, **NODES}), ["'lambda' cannot stand in a formula"]),
        (scm({"image": {}, **NODES}), ["'image' cannot stand in a formula"]),
        (scm({"Intercept": {}, **NODES}), ["'Intercept' cannot stand in a formula"]),
        (scm({"log": {}, **NODES}), ["'log' cannot stand in a formula", '"{column: log}"']),
        (scm(image="1"), ["scm.image.formula: '1' names no node, so that no intervention could change the image"]),
        (scm({**NODES, "v": {"formula": "1"}}), ["scm.nodes.v.formula: '1' names no node; leave the formula out"]),
        (scm(ageing={"age": [50, 50]}), ["scm.contrasts.ageing: its two ends are the same"]),
        (
            scm({**NODES, "v": {"family": "gamma", "formula": "age"}}, more={"v": [0, 30]}),
            ["scm.contrasts.more: v: a gamma node has values above 0, not 0"],
        ),
        (
            scm({**NODES, "v": {}}, "age + cr(log(v), df=3)", more={"v": [0, 30]}),
            ["scm.contrasts.more: v: 'log(v)' in scm.image.formula has no value at 0; ask within its domain."],
        ),
    ],
)
def test_unusable_graph_is_refused_in_one_sentence(options: ScmOptions, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_graph(options)
    message = str(caught.value)
    assert message.startswith("config: scm")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ([query(do={"agee": 80})], ["counterfactuals (q)", "'agee' is not a node", "did you mean 'age'"]),
        ([query(), query(name="r", do={"sex": "X"})], ["counterfactuals (r)", "'X' is not one of its levels"]),
        ([query(do={"sex": "+1"})], ["'+1' is not one of its levels"]),
        ([query(do={"age": 1e12})], ["counterfactuals (q): age: 1000000000000.0 is too large a number"]),
        ([query(do={"age": "+99999999999"})], ["age: +99999999999 is too large a number"]),
        ([query(do={"lesions": -1})], ["a poisson node has counts (0, 1, 2, ...), not -1"]),
        ([query(do={"lesions": -0.5})], ["a poisson node has counts (0, 1, 2, ...), not -0.5"]),
        ([query(do={"years": 12})], ["'I(1 / (years - 12))' in scm.nodes.lesions.formula has no value at 12"]),
        (
            [query(name="older-10"), query(name="older_10")],
            ["counterfactuals (older_10)", "overwrite those of 'older-10'"],
        ),
    ],
)
def test_unanswerable_query_is_refused(queries: list[QueryOptions], words: list[str]) -> None:
    lesions = {"family": "poisson", "formula": "I(1 / (years - 12))"}
    with pytest.raises(ConfigError) as caught:
        check_graph(scm({**NODES, "years": {}, "lesions": lesions}), queries)
    for word in words:
        assert word in str(caught.value)


def test_good_graph_and_queries_pass() -> None:
    nodes = {**NODES, "v": {"formula": "cr(age, df=4) + sex", "family": "gamma"}}
    options = scm(nodes, "bs(age, df=4) * sex + np.log(v) + C(sex)", ageing={"age": [50, 80], "sex": ["F", "M"]})
    check_graph(options, [query(do={"age": "+10", "sex": "M"}), query(name="r", do={"v": 30.5})])


@pytest.mark.parametrize(("name", "label"), [("older", "older"), ("younger-by_10", "youngerBy10"), ("a_B", "aB")])
def test_query_label_is_alphanumeric(name: str, label: str) -> None:
    assert query_label(name) == label


def participants(**columns: list[Any]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    ids = [f"sub-{i}" for i in range(count)]
    return pd.DataFrame({"scan": ids, "participant": ids, **columns})


@pytest.mark.parametrize(
    ("nodes", "columns", "words"),
    [
        ({"age": {}}, {"Age": [1.0, 2.0]}, ["scm.nodes.age", "no column 'age'", "did you mean 'Age'"]),
        ({"age": {}}, {"age": [None, None]}, ["scm.nodes.age", "no training scan has a value"]),
        ({"age": {"family": "gaussian"}}, {"age": ["60", "7O"]}, ["gaussian node needs numbers", "holds '7O'"]),
        ({"age": {"unit": "years"}}, {"age": ["60", "70,5"]}, ["'age' holds text such as '70,5' where numbers seem"]),
        ({"v": {"family": "gamma"}}, {"v": [1.0, -2.0]}, ["gamma needs values above 0", "-2"]),
        ({"v": {"family": "poisson"}}, {"v": [1.0, 2.5]}, ["poisson needs counts"]),
        ({"site": {}}, {"site": ["A", "A", "B"]}, ["level 'B' has 1 training participants", 'levels: [A]"']),
        ({"dx": {"levels": ["CN", "AD"]}}, {"dx": ["CN", "CN", "MCI"]}, ["level 'AD' has 0 training participants"]),
        ({"dx": {"formula": "1"}}, {"dx": ["CN", "CN"]}, ["every training scan has the value 'CN'"]),
    ],
)
def test_table_that_does_not_fit_the_graph_is_refused(nodes: Any, columns: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_table(scm(nodes, "1"), participants(**columns))
    for word in words:
        assert word in str(caught.value)


def test_two_scans_of_one_participant_are_not_two_participants() -> None:
    table = participants(site=["A", "A", "B", "B"])
    table["participant"] = ["sub-0", "sub-1", "sub-2", "sub-2"]
    with pytest.raises(ConfigError, match="level 'B' has 1 training participants"):
        check_table(scm({"site": {}}, "site"), table)


def test_a_value_that_nobody_has_is_found_before_anything_is_measured() -> None:
    options = scm({"site": {}, "ventricles": {}}, "site + ventricles")
    table = participants(site=["Guys", "Guys", "HH", "HH"])
    with pytest.raises(ConfigError, match="'Guy' is not one of its levels; did you mean 'Guys'"):
        check_values(options, [query(do={"site": "Guy"})], table)
    check_values(options, [query(do={"site": "HH", "ventricles": 30})], table)
    with pytest.raises(ConfigError, match="age: 'nan' is not a number"):
        check_values(scm({"age": {}}, "age"), [query(do={"age": "nan"})], participants(age=[50, 60]))
    for value in ("big", "nan", "1e999"):  # a volume is a number, measured or not
        with pytest.raises(ConfigError, match=f"ventricles: '{value}' is not a number"):
            check_values(options, [query(do={"ventricles": value})], table, measured=["ventricles"])


def test_what_would_fail_after_a_night_of_preprocessing_is_found_in_the_cohort_table() -> None:
    table = participants(age=[f"{20 + i},5" for i in range(12)], sex=["F", "M"] * 6)
    with pytest.raises(ConfigError, match="'age' holds text such as '20,5' where numbers seem to be meant"):
        check_values(scm({"age": {}, "sex": {}, "gm": {}}, "age + gm"), [], table)
    table["age"] = range(20, 32)
    table["split"] = ["train"] * 8 + ["test"] * 4
    check_values(scm({"age": {}, "sex": {}, "gm": {}}, "age + gm"), [query(do={"age": 50})], table)
    participant = str(table["participant"].iloc[0])
    check_values(scm(), [query(do={"age": 50}, scans=[participant, participant.removeprefix("sub-")])], table)
    with pytest.raises(ConfigError, match="scans: 'sub-99' is neither a scan nor a participant"):
        check_values(scm(), [query(do={"age": 50}, scans=["sub-99"])], table)
    check_values(scm(), [query(do={"age": 50}, scans="age > 25 and sex == 'F'")], table)
    with pytest.raises(ConfigError, match="no scan has age > 90: it is 20 to 31"):
        check_values(scm(), [query(do={"age": 50}, scans="age > 90")], table)
    check_values(scm(), [query(do={"age": 50}, scans="gm_ml > 600")], table, measured=["gm_ml"])
    with pytest.raises(ConfigError, match="the cohort has no column 'gm'"):
        check_values(scm(), [query(do={"age": 50}, scans="gm > 600")], table, measured=["gm_ml"])
    table.loc[:7, "age"] = None
    with pytest.raises(ConfigError, match="no training scan has a value of 'age'"):
        check_values(scm(), [], table)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"do": {"age": "-20"}}, r"\(q\): 'log\(age - onset\)' in scm.image.formula would have no value for sub-1;"),
        ({"do": {"age": "-20"}, "scans": ["sub-3"]}, None),
        ({"do": {"age": 45, "onset": 44}}, None),
        (
            {"do": {"weight": "-6"}},
            r"weight: '-6' gives sub-1 -1, and a gamma node has values above 0; ask for a smaller",
        ),
        ({"do": {"falls": "+0.5"}}, r"falls: '\+0.5' gives sub-0 1.5, and a poisson node has counts"),
        ({"do": {"sex": "M"}}, None),
    ],
)
def test_changes_that_leave_a_domain_are_found_in_the_cohort_table(asked: dict[str, Any], words: str | None) -> None:
    table = participants(
        age=[80, 60, 75, 90], onset=[50, 45, 50, 60], weight=[7, 5, 8, 9], falls=[1, 0, 3, 2], sex=["F", "M"] * 2
    ).assign(split="test")
    nodes = {
        "age": {}, "onset": {}, "sex": {}, "weight": {"formula": "sex", "family": "gamma"},
        "falls": {"formula": "sex", "family": "poisson"},
    }  # fmt: skip
    options = scm(nodes, "log(age - onset) + weight + falls")
    training = pd.concat([table, table.assign(split="train")])
    with pytest.raises(ConfigError, match=words) if words else contextlib.nullcontext():
        check_values(options, [query(**asked)], training)


def test_a_node_finds_its_column() -> None:
    nodes = {"ventricles": {}, "age": {"column": "age_at_scan"}, "site": {}}
    table = participants(ventricles_ml=[10.0, 20.0], age_at_scan=[30, 40], site=[1.0, 1.0])
    covariates = Covariates.learn(table, scm(nodes, "age + ventricles + C(site)"))
    assert covariates.columns == {"ventricles": "ventricles_ml", "age": "age_at_scan", "site": "site"}
    assert covariates.levels == {"ventricles": None, "age": None, "site": ("1",)}
    assert covariates.ranges == {"ventricles": (10.0, 20.0), "age": (30.0, 40.0)}


def test_every_reason_why_a_row_cannot_be_used_is_told() -> None:
    table = participants(age=[50.0, 60.0, None], sex=["F", "F", "M"])
    table.loc[3] = ["sub-3", "sub-3", 70.0, "M"]
    covariates = Covariates.learn(table, scm())
    asked = participants(age=[50.0, None, 40.0, None], sex=["F", "F", "X", None])
    assert covariates.problems(asked).tolist() == [
        "",
        "age is missing",
        "sex 'X' is not a training level",
        "age is missing; sex is missing",
    ]


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ({"scm": {"nodes": {"site": {}}, "image": {"formula": "site"}}}, "'site' holds only 1, 2, 3"),
        ({"counterfactuals": [{"name": "q", "do": {"sex": "X"}}]}, r"counterfactuals \(q\): sex"),
        ({"counterfactuals": [{"name": "q", "do": {"age": 80}, "scans": "gmm > 600"}]}, "'gmm'"),
        ({"scm": {"nodes": {"age": {}, "months": {}}, "image": {"formula": "age + months"}}}, "is already told by"),
        # Measures and volumes are waited for: preprocessing has yet to find them.
        ({"counterfactuals": [{"name": "q", "do": {"age": 80}, "scans": "gm_ml > 600"}]}, None),
        ({"counterfactuals": [{"name": "q", "do": {"age": 80}, "scans": "cnr > 2"}]}, None),
    ],
)
def test_what_a_study_has_wrong_is_found_once_its_cohort_is_indexed(study: dict[str, Any], words: str | None) -> None:
    age = [50.0 + 0.5 * i for i in range(40)]
    table = participants(age=age, months=[12 * each for each in age], sex=["F", "M"] * 20)
    config = Config.model_validate({"scm": scm().model_dump(), **study})
    given = table.assign(split="train", site=[1 + i % 3 for i in range(40)])
    with pytest.raises(ConfigError, match=words) if words else contextlib.nullcontext():
        check_cohort(config, given)


def test_collinear_covariates_are_found_before_anything_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    age = rng.uniform(40, 80, 60)
    table = participants(age=age.tolist(), months=(12 * age).tolist(), tenure=(age + rng.normal(0, 1, 60)).tolist())
    table["site"], table["split"] = np.where(age < 79, "A", "B"), "train"
    nodes = {"age": {}, "months": {}, "tenure": {}, "ventricles": {"formula": "age"}, "site": {}}
    with caplog.at_level(logging.WARNING, logger="brainscm"):
        check_designs(scm(nodes, "age + tenure"), table)
    assert "config: scm.image.formula: age and tenure: VIF" in caplog.text
    with pytest.raises(ConfigError, match=r"scm.image.formula: the column 'age' is already told by 'months'"):
        check_designs(scm(nodes, "months + age"), table)
    with pytest.raises(ConfigError, match=r"scm.nodes.x.formula: the column '\w+' is already told by"):
        check_designs(scm({**nodes, "x": {"formula": "months + age"}}, "age"), table)
    halves = {"age": {}, "age_baseline": {}, "years_since_baseline": {}}
    twice = pd.concat([table, table.assign(age=age + rng.uniform(1, 3, 60))], ignore_index=True)
    with pytest.raises(ConfigError, match="is already told by"):
        check_designs(scm(halves, "age_baseline + years_since_baseline + age"), twice)
    # What preprocessing has yet to measure is left for the fit.
    check_designs(scm(nodes, "months + age + ventricles"), table)
    table.loc[table["site"] == "B", "site"] = [*["A"] * (int((table["site"] == "B").sum()) - 1), "B"]
    with pytest.raises(ConfigError, match="level 'B' has 1 training participants"):
        check_designs(scm(nodes, "age + site"), table)


def test_adjustment_that_is_in_question_is_told_once_the_cohort_is_indexed(caplog: pytest.LogCaptureFixture) -> None:
    table = participants(age=[50.0 + i for i in range(40)], sex=["F", "M"] * 20).assign(split="train")
    nodes = {**NODES, "gm": {}, "ventricles": {"formula": "age + sex"}}
    config = Config.model_validate({"scm": scm(nodes, "age + gm + ventricles").model_dump()})
    with caplog.at_level(logging.WARNING, logger="brainscm"):
        check_cohort(config, table)
    told = [record.getMessage() for record in caplog.records]
    assert [message.partition(",")[0] for message in told] == [
        "config: scm.nodes.gm: it is measured on the scan and has no formula",
        "config: scm.image.formula: it holds ventricles and leaves out what ventricles depends on (sex); if that acts "
        "on the image by another way too",
    ]


def test_nodes_without_a_formula_that_go_together_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    age = rng.uniform(40, 80, 120)
    table = participants(age=age.tolist(), height=rng.normal(170, 9, 120).tolist(), sex=["F", "M"] * 60)
    table["diagnosis"], table["split"] = np.where(age + rng.normal(0, 9, 120) > 60, "AD", "CN"), "train"
    nodes: dict[str, Any] = {"age": {}, "height": {}, "sex": {}, "diagnosis": {}}
    with caplog.at_level(logging.WARNING, logger="brainscm"):
        check_designs(scm(nodes, "age + diagnosis"), table)
    (told,) = [record.getMessage() for record in caplog.records if "go together" in record.getMessage()]
    assert told.startswith("config: scm.nodes: age and diagnosis go together (p = ")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="brainscm"):
        check_designs(scm({**nodes, "diagnosis": {"formula": "age"}}, "age + diagnosis"), table)
    assert "go together" not in caplog.text


def test_p_of_nodes_that_go_together_is_uniform_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    p: dict[tuple[str, str], list[float]] = {}
    for _ in range(150):
        values = pd.DataFrame({"a": rng.normal(size=80), "b": rng.gamma(1, size=80)})
        values["c"], values["d"] = (pd.Categorical(rng.choice(["x", "y", "z"], 80)) for _ in range(2))
        values["e"] = 1.0
        for node, other, adjusted in associations(values, list("abcde")):
            p.setdefault((node, other), []).append(adjusted)
    assert set(p) == {("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")}
    for found in p.values():
        assert np.mean(np.array(found) < 0.3) == pytest.approx(0.05, abs=0.045)  # 0.3 / 6, adjusted
