"""Design matrices: what they learn from training scans, and which designs are refused."""

import numpy as np
import pandas as pd
import pytest

from brainscm.errors import ConfigError
from brainscm.scm.design import Design
from brainscm.scm.formula import parse_formula


def values(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, n)
    return pd.DataFrame(
        {
            "age": age,
            "months": 12 * age,
            "one": np.ones(n),
            "sex": pd.Categorical(rng.choice(["F", "M"], n), categories=["F", "M"]),
            "site": pd.Categorical(rng.choice(["A", "B", "C"], n), categories=["A", "B", "C"]),
        }
    )


def design(formula: str, table: pd.DataFrame) -> Design:
    return Design.learn(parse_formula(formula, "here"), table, "here")


def test_splines_stand_beside_an_intercept() -> None:
    table = values()
    for formula, columns in [("cr(age, df=4) + sex", 6), ("bs(age, df=4) * sex", 10)]:
        x = design(formula, table).matrix(table)
        assert x.shape[1] == columns
        assert np.linalg.matrix_rank(x) == columns


def test_first_level_is_the_reference_and_columns_know_their_nodes() -> None:
    learnt = design("sex * age + site", values())
    assert learnt.columns == ("Intercept", "sex[T.M]", "age", "site[T.B]", "site[T.C]", "sex[T.M]:age")
    assert [set(nodes) for nodes in learnt.nodes] == [set(), {"sex"}, {"age"}, {"site"}, {"site"}, {"sex", "age"}]


def test_knots_and_means_come_from_training_alone() -> None:
    table = values()
    learnt = design("cr(age, df=4) * sex + site", table)
    x = learnt.matrix(table)
    others = values(30, seed=1).assign(age=lambda t: t["age"] + 40)
    mixed = learnt.matrix(pd.concat([others, table], ignore_index=True))
    np.testing.assert_allclose(mixed[30:], x, rtol=1e-12)
    for row in (0, 17, 59):
        np.testing.assert_allclose(learnt.matrix(table.iloc[[row]]), x[[row]], rtol=1e-12)


def test_natural_spline_is_linear_and_b_spline_constant_outside_the_training_range() -> None:
    table = values()
    outside = table.iloc[:3].assign(age=[90.0, 95.0, 100.0])
    natural = design("cr(age, df=4)", table).matrix(outside)
    np.testing.assert_allclose(natural[1] - natural[0], natural[2] - natural[1], atol=1e-9)
    assert np.abs(natural[1] - natural[0]).max() > 0.01
    held = design("bs(age, df=4)", table).matrix(outside)
    np.testing.assert_allclose(held[0], held[2])


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("age + months", "the column 'months' is already told by 'age'"),
        ("age + one", "the column 'one' is the same for every training scan"),
        ("sex + C(sex)", "already told by"),
        ("np.log(age - 50)", "not finite"),
        ("site:cr(age, df=20)", "60 training scans"),
        ("C(site, contr.treatment('D'))", "'D'"),
        ("exp(sex)", "cannot be computed"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_unusable_design_is_refused(formula: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        design(formula, values())
    assert str(caught.value).startswith("here: ")
    assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_question_outside_a_formulas_domain_is_refused() -> None:
    table = values()
    learnt = design("np.log(age - 19)", table)
    asked = table.iloc[:2].assign(age=[30.0, 10.0])
    assert learnt.is_defined(asked).tolist() == [True, False]
    with pytest.raises(ConfigError, match=r"has no value at age 10"):
        learnt.matrix(asked)


def test_a_nearly_but_not_quite_collinear_design_is_allowed() -> None:
    table = values()
    table["months"] += np.random.default_rng(3).normal(0, 1e-3, len(table))
    assert len(design("age + months", table).columns) == 3


def test_an_offset_needs_numbers_and_may_tell_what_a_column_tells() -> None:
    found = design("log(age) + offset(log(age))", values())
    assert found.is_offset.tolist() == [False, False, True]
    with pytest.raises(ConfigError, match=r"here: 'offset\(sex\)' holds levels, and an offset needs numbers"):
        design("age + offset(sex)", values())
