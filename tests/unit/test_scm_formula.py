"""Formulas: what they may hold, what it means, and that a string in a config can do nothing but arithmetic."""

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import pandas as pd
import patsy
import pytest
from formulaic.parser import DefaultFormulaParser
from formulaic.parser.types import Factor, Term
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from brainscm.errors import ConfigError
from brainscm.scm.design import Design, has_value
from brainscm.scm.formula import CONTRASTS, FUNCTIONS, MAX_LENGTH, Formula, parse_formula


@cache
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.uniform(20, 80, 50),
            "tiv": rng.uniform(1100, 1800, 50),
            "change": rng.normal(0, 1, 50),
            "visits": rng.integers(0, 4, 50).astype(float),
            "sex": pd.Categorical(rng.choice(["F", "M"], 50), categories=["F", "M"]),
            "site": pd.Categorical(rng.choice(["A", "B", "C"], 50), categories=["A", "B", "C"]),
        }
    )


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_formula(text, "config: here")
    message = str(caught.value)
    assert message.startswith("config: here: ")
    assert message.endswith((".", "?"))
    assert "\n" not in message
    return message


def test_names_are_found_wherever_a_formula_uses_them_in_order_of_appearance() -> None:
    formula = parse_formula("cr(age, df=4):C(site) + I((tiv - v) / 1000) + log(w) * I(log(a) + b)", "here")
    assert formula.names == ("age", "site", "tiv", "v", "w", "a", "b")
    assert formula.categorical == {"site"}
    assert parse_formula("sex\n+ größe", "here").names == ("sex", "größe")
    assert parse_formula("1", "here").names == ()


def test_the_documentation_names_what_is_allowed() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/study.md").read_text()
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", page.partition("## Formulas")[2].partition("\n## ")[0], re.MULTILINE)
    for formula in [text for written, _ in rows for text in re.findall("`([^`]*)`", written)]:
        parse_formula(formula, "study.md")
    words = set(re.findall(r"\w+", str(rows)))
    assert words >= {*FUNCTIONS, *CONTRASTS}


# Each ran code, or read or wrote a file, when the cohort was indexed.
REPORTED = [
    """I(age**2 + np.__builtins__["eval"]("__import__('os').system('touch {canary}')"))""",
    "np.load('{canary}', allow_pickle=True)",
    "np.savetxt('{canary}', age)",
]
# These would run while formulaic only splits the formula, as soon as it has two sides.
EARLY = [
    """__import__('os').system('touch {canary}')(age) ~ age""",
    """open('{canary}', 'w').write(age) ~ age""",
    """[open('{canary}', 'w')(age) ~ age]""",
    """age + {{open('{canary}', 'w')(age)}} ~ 1""",
]


@pytest.mark.parametrize("attack", REPORTED + EARLY)
def test_no_code_runs(attack: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    refusal(attack.format(canary=canary))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # Not arithmetic.
        ("np.cumsum(age)", "'np.cumsum' cannot stand in a formula; known are: np.log, "),
        ("np.mean(age)", "'np.mean' cannot stand"),
        ("np.pi * age", "'np.pi' cannot stand"),
        ("I(age - age.mean())", "'age.mean' may look at other scans"),
        ("age.__class__", "'age.__class__' may look at other scans"),
        ("np . log(age)", "'np' can be neither"),
        ("np.log", "'np.log' cannot be a term"),
        ("contr.sum", "'contr.sum' cannot be a term"),
        ("__import__('os')", "'__import__' can be neither"),
        ("_age", "'_age' can be neither"),
        ("eval(age)", "unknown function 'eval'"),
        ("print(age)", "unknown function 'print'"),
        ("lag(age)", "unknown function 'lag' in 'lag(age)'; did you mean 'log'?"),
        ("hashed(site, 3)", "unknown function 'hashed'"),
        ("Q('age')", "unknown function 'Q'"),
        ("age[0]", "'age[0]' cannot be a term"),
        ("I(age[0])", "'age[0]' cannot stand"),
        ("log(age)(age)", "'log(age)(age)' cannot stand"),
        ("(lambda: age)()", "'lambda' can be neither"),
        ("I([x for x in age])", "'for' can be neither"),
        ("I(age if sex else 1)", "'if' can be neither"),
        ("I(age and sex)", "'and' can be neither"),
        ("I(age in sex)", "'in' can be neither"),
        ("I(True)", "'True' can be neither"),
        ("I(age := 2)", "'(age := 2)' cannot stand"),
        ("I(age & 1)", "'&' cannot be read"),
        ("I(age @ age)", "'@' cannot be read"),
        ("I(age % 2)", "'%' cannot be read"),
        ("I(age // 2)", "'age // 2' cannot stand"),
        ("I(1 < age < 2)", "'1 < age < 2' cannot stand"),
        ("log(*age)", "'*age' cannot stand"),
        ("log(**age)", "should hold one value"),
        ("log(x=age)", "should hold one value"),
        ("log(age, sex)", "should hold one value"),
        ("log()", "should hold one value"),
        ("I(f'{age}')", "cannot be read"),
        ("I(age) # comment", "'#' cannot be read"),
        ("age; sex", "';' cannot be read"),
        ("age\\", "cannot be read"),
        ("age\0", "cannot be read"),
        # What formulaic would read in its own ways.
        ("age ~ sex", "right-hand side alone"),
        ("~ age", "right-hand side alone"),
        ("age | sex", "right-hand side alone"),
        ("[age ~ sex]", "right-hand side alone"),
        ("[age]", "'[' cannot be a term"),
        ("`age`", "'`' cannot be read"),
        ("I(`age`)", "'`' cannot be read"),
        ("{age + 1}", "'{' cannot be read"),
        (".", "'.' cannot be read"),
        ("age + .", "'.' cannot be read"),
        ("age %in% sex", "'%' cannot be read"),
        ("age in sex", "'in' can be neither"),
        ("age^2", "write a square as I(age**2)"),
        ("age +- sex", "'+-' cannot stand between terms"),
        ("age *** sex", "'***' cannot stand between terms"),
        ("age > 50", "write a comparison as I(age > 50)"),
        ("age = 50", "'=' cannot stand between terms"),
        ("age sex", "not a formula"),
        ("age + (", "not a formula"),
        ("log (age)", "'log' is a function; write what it takes in brackets right behind it"),
        ("ａge", "can be neither"),  # Python would read it as age
        ("a²", "can be neither"),
        # Text anywhere but in contrasts.
        ("'age'", "''age'' cannot be a term"),
        ("age:'age'", "''age'' cannot be a term"),
        ("I(site == 'A')", "''A'' cannot stand"),
        ("C('site')", "should hold a node"),
        ("C(site, 'A')", "nothing but contrasts"),
        ("C(site, levels=['A', 'B'])", "nothing but contrasts"),
        ("C(site, contr.sum('A'))", "nothing but contrasts"),
        ("C(site, contr.treatment(2))", "nothing but contrasts"),
        ("C(site, contr.treatment('A', 'B'))", "nothing but contrasts"),
        ("C(site, contr.custom([1]))", "'contr.custom' cannot stand in a formula; known are: contr.treatment, "),
        ("C(site, contr.treatment('a)b'))", "cannot be read"),
        ("C(age + 1)", "should hold a node"),
        ("C(site, C(site))", "nothing but contrasts"),
        ("C(site, contr.sum, contr.sum)", "nothing but contrasts"),
        ("C(site, contr.sum()())", "nothing but contrasts"),
        ("cr(age, df='4')", "df should be a whole number"),
        # Numbers.
        ("I(age * 1e10)", "numbers may go up to 1e+09"),
        ("I(age * 1e999)", "numbers may go up to 1e+09"),
        ("I(age * 1j)", "'1j' cannot be read"),
        ("I(age * 0x10)", "'0x10' cannot be read"),
        ("4age", "'4age' cannot be read"),
        ("I(9**9**9)", "a power is a node to a number"),
        ("I(age**11)", "a power is a node to a number"),
        ("I(age**age)", "a power is a node to a number"),
        ("I(2**age)", "a power is a node to a number"),
        ("2:age", "multiplies a term by a number"),
        ("2 * age", "not a formula"),
        ("age + 2.5", "'2.5' cannot be a term"),
        ("log(3)", "'log(3)' names no node"),
        ("age**2", "write a square as I(age**2)"),
        ("(age + sex)**(site)", "'**' between terms is for interactions"),
        ("a*b*c*d*e*f*g*h*i", "stands for more than 500 terms"),
        ("(a + b + c + d)**9", "stands for more than 500 terms"),
        ("(" * 100 + "a + b" + ")**9" * 100, "stands for more than 500 terms"),
        (" + ".join(["age"] * 400), "characters, of which 2000 are allowed"),
        ("I(" + "(" * 300 + "age" + ")" * 300 + ")", "not a formula"),
        ("I(" + "-" * 1900 + "age)", "not a formula"),
        ("+".join("a" * 990), "not a formula"),
        # Splines and polynomials.
        ("cr(age, df=1)", "df should be a whole number from 2 to 20"),
        ("cr(age, df=21)", "df should be a whole number from 2 to 20"),
        ("cr(age, 2.5)", "df should be a whole number from 2 to 20"),
        ("cr(age, df=sex)", "df should be a whole number from 2 to 20"),
        ("cc(age, df=1)", "df should be a whole number from 2 to 20"),
        ("bs(age, df=2)", "df should be a whole number from 3 to 20"),
        ("bs(age, df=1, degree=2)", "df should be a whole number from 2 to 20"),
        ("cr(age)", "does not say how flexible the curve is; add df"),
        ("cr(age, df=4, knots=[50])", "gives df and knots; give one of them"),
        ("cr(age, 4, df=4)", "gives df twice"),
        ("cr(age, dff=4)", "cr has no 'dff'; did you mean 'df'?"),
        ("cr(age, **df)", "cr has no 'None'"),
        ("cr(age, knots=[])", "knots 1 to 19 ascending numbers"),
        ("cr(age, knots=[60, 40])", "knots 1 to 19 ascending numbers"),
        ("cr(age, knots=[40, sex])", "knots 1 to 19 ascending numbers"),
        ("cr(age, knots=40)", "knots 1 to 19 ascending numbers"),
        ("bs(age, degree=6)", "degree should be a whole number from 1 to 5"),
        ("poly(age, 6)", "degree should be a whole number from 1 to 5"),
        ("poly(age, 2, 3)", "should hold a node and degree"),
        ("cr(df=4)", "should hold a node and df, knots"),
        ("log(cr(age, df=4))", "'cr(age, df=4)' should be a term of its own"),
        ("cr(C(age), df=4)", "'C(age)' should be a term of its own"),
        # Offsets.
        ("log(offset(age))", "'offset(age)' should be a term of its own"),
        ("offset(cr(age, df=4))", "'cr(age, df=4)' should be a term of its own"),
        ("sex:offset(age)", "multiplies an offset"),
        ("sex * offset(age)", "multiplies an offset"),
        ("offset(age, 2)", "should hold one value"),
        ("offset(x=age)", "should hold one value"),
        ("offset", "'offset' is a function"),
        ("offset(3)", "'offset(3)' names no node"),
        # One of the two would be centred on the scans at hand.
        ("I(center(age) * center( age ))", "holds 'center(age)' twice"),
        ("cr(log(scale(age)) + scale(age), df=3)", "holds 'scale(age)' twice"),
        # The intercept, and what is taken out.
        ("0 + age", "drops the intercept"),
        ("age - 1", "drops the intercept"),
        ("age * sex - age:sx", "takes 'sx' out"),
        ("age - np.load(sex)", "'np.load' cannot stand"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_sentence(text: str, words: str) -> None:
    assert words in refusal(text)


def test_nothing_is_evaluated_that_was_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should formulaic make a term of something else than the pieces it was given, the formula is refused."""
    smuggled = [Term([Factor("1", eval_method="literal")]), Term([Factor("open('x')", eval_method="python")])]
    monkeypatch.setattr(DefaultFormulaParser, "get_terms_from_ast", lambda *_, **__: smuggled)
    assert "open" in refusal("age")


SAME = {
    "age + sex": "age + sex",
    "(age + sex) * site": "(age + sex) * site",
    "age / site": "age / site",
    "(age + sex + site)**2 - sex:site": "(age + sex + site)**2 - sex:site",
    "+ age - 1 + 1": "age",
    "I(age**2)": "I(age**2)",
    "I(-age + 2.5 * tiv / 1e2 - .5)": "I(-age + 2.5 * tiv / 100 - .5)",
    "I(age > 50) + I(visits != 2)": "I(1. * (age > 50)) + I(1. * (visits != 2))",
    "I((age >= 50) * (age - 50))": "I((age >= 50) * (age - 50))",
    "log(age) + np.log2(tiv) + log10(visits + 1)": "np.log(age) + np.log2(tiv) + np.log10(visits + 1)",
    "log1p(age) + exp(change) + sqrt(age)": "np.log1p(age) + np.exp(change) + np.sqrt(age)",
    "np.abs(change) + abs(change / age)": "np.abs(change) + np.abs(change / age)",
    "center(age)": "center(age)",
    "standardize(age)": "standardize(age)",
    "scale(log(age))": "standardize(np.log(age), ddof=1)",
    "cr(age, df=4)": "cr(age, df=4, constraints='center')",
    "cr(log(age), 3)": "cr(np.log(age), 3, constraints='center')",
    "cr(age, knots=[40, 60])": "cr(age, knots=[40, 60], constraints='center')",
    "cc(age, df=4)": "cc(age, df=4, constraints='center')",
    "cc(change, knots=(-1, 0.5))": "cc(change, knots=(-1, 0.5), constraints='center')",
    "bs(age, df=5)": "bs(age, df=5)",
    "bs(age)": "bs(age, df=3)",
    "bs(age, knots=[40, 60], degree=2)": "bs(age, knots=[40, 60], degree=2)",
    "C(site):age": "C(site):age",
    "C(site, contr.treatment)": "C(site, Treatment)",
    'C(site, contr.treatment("B"))': "C(site, Treatment('B'))",
    "C(site, contr.treatment(base='C'))": "C(site, Treatment('C'))",
    "C(site, contr.SAS())": "C(site, Treatment('C'))",
    "C(site, contr.sum)": "C(site, Sum)",
    "C(site, contr.helmert)": "C(site, Helmert)",
    "C(site, contr.diff)": "C(site, Diff)",
    "C(site, contr.poly)": "C(site, Poly)",
}


@pytest.mark.parametrize(("ours", "theirs"), SAME.items())
def test_what_is_allowed_means_the_same_as_in_statsmodels(ours: str, theirs: str) -> None:
    """Their order of columns differs; a Helmert column may be scaled otherwise."""
    assert check_rows(parse_formula(ours, "here"), [7, 31, 2])
    x = Design.learn(parse_formula(ours, "here"), table(), "here").matrix(table())
    y = np.asarray(patsy.dmatrix(theirs, table()))
    assert x.shape == y.shape
    if "helmert" in ours:
        x, y = x / np.abs(x).max(axis=0), y / np.abs(y).max(axis=0)
    distance = np.abs(x[:, :, None] - y[:, None, :]).max(axis=0) / np.abs(y).max(axis=0)
    assert distance.min(axis=0).max() < 1e-10
    assert distance.min(axis=1).max() < 1e-10


def test_a_polynomial_is_orthonormal_and_spans_the_powers() -> None:
    x = Design.learn(parse_formula("poly(age, 3)", "here"), table(), "here").matrix(table())
    powers = np.vander(table()["age"] / 50, 4, increasing=True)
    np.testing.assert_allclose(x[:, 1:].T @ x, [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-9)
    np.testing.assert_allclose(x @ np.linalg.lstsq(x, powers, rcond=None)[0], powers, atol=1e-9)


def test_a_formula_tells_where_it_has_no_value() -> None:
    formula = parse_formula("cr(log(age), df=3) + I(1 / (tiv - 5)) * scale(sqrt(v) + w) + exp(-1 / a) + log(b + c)", "")
    assert formula.transforms == (
        ("log(age)", ("age",)),
        ("I(1 / (tiv - 5))", ("tiv",)),
        ("sqrt(v) + w", ("v", "w")),
        ("sqrt(v)", ("v",)),
        ("exp(-1 / a)", ("a",)),
        ("log(b + c)", ("b", "c")),
        ("b + c", ("b", "c")),
    )
    assert has_value("log(age)", pd.DataFrame({"age": [1.0, 0.0]})).tolist() == [True, False]
    assert has_value("I(1 / (tiv - 5))", pd.DataFrame({"tiv": [5.0, 6.0]})).tolist() == [False, True]
    assert has_value("exp(-1 / a)", pd.DataFrame({"a": [0.0]})).all()
    pair = pd.DataFrame({"age": [60.0, 40.0], "onset": [50.0, 50.0]})
    assert has_value("log(age - onset)", pair).tolist() == [True, False]


# Fuzzing. Whatever the string: nothing runs, and either it is refused, or a scan's row does not depend on other scans.


class Ran(BaseException):
    """Something was called that no formula may call."""


def _alarm(*_: Any, **__: Any) -> NoReturn:
    raise Ran


_import = builtins.__import__


def _guarded_import(*args: Any, **kwargs: Any) -> Any:
    if not sys._getframe(1).f_code.co_filename.endswith(".py"):
        raise Ran
    return _import(*args, **kwargs)


@contextmanager
def alarms(*more: tuple[Any, str]) -> Iterator[None]:
    """Raise `Ran` where anything is imported by evaluated text, opened, started or run."""
    forbidden = [(builtins, name) for name in ("exec", "open", "print", "input", "breakpoint")]
    forbidden += [(os, name) for name in ("system", "popen", "remove", "open", "getenv", "listdir")]
    forbidden += [(np, name) for name in ("load", "save", "savetxt", "fromfile", "loadtxt", "genfromtxt")]
    forbidden += [(subprocess, "Popen"), *more]
    with ExitStack() as stack:
        for owner, name in forbidden:
            stack.enter_context(mock.patch.object(owner, name, _alarm))
        stack.enter_context(mock.patch.object(builtins, "__import__", _guarded_import))
        yield


def parsed(text: str) -> Formula | None:
    try:
        with alarms((builtins, "eval")):
            return parse_formula(text, "here")
    except ConfigError as refused:
        sentence = str(refused)
    assert "\n" not in sentence
    return None


def check_rows(formula: Formula, rows: list[int]) -> bool:
    """Check that the rows of some scans are the same alone and among all; False if no design can be learnt.

    They may differ by what rounding makes of a formula such as `cr(exp(age), df=4)`, whose values span 26 orders of
    magnitude: as much as when every value is the next number.
    """
    values = table()
    if not set(formula.names) <= set(values):
        return False
    measured = ["age", "tiv", "change"]
    with alarms():
        try:
            design = Design.learn(formula, values, "here")
            x = design.matrix(values)
            rounding = np.abs(design.matrix(values.assign(**np.nextafter(values[measured], np.inf))) - x)
        except ConfigError:
            return False
        allowed = 1e-9 * np.abs(x).max(axis=0) + 100 * rounding.max(axis=0)
        for some in (rows, *([row] for row in rows[:2])):
            assert (np.abs(design.matrix(values.iloc[some]) - x[some]) <= allowed).all()
    assert set().union(*design.nodes) <= set(formula.names)
    return True


def check(text: str, rows: list[int]) -> None:
    formula = parsed(text)
    if formula is None:
        event("refused")
    else:
        event("computed" if check_rows(formula, rows) else "read, but not computed")


# What runs code or looks at other scans, and where it could stand.
ATTACKS = [
    *("open('x')", "eval('1')", "exec('1')", "print(age)", "sorted(age)", "getattr(age, 'to_csv')('x')"),
    *("__import__('os')", "__import__('os').system('true')", "os.system('true')", "__builtins__", "'text'"),
    *("np.load('x')", "np.lib.format.open_memmap('x')", "np.__builtins__['open']('x')", "np.cumsum(age)", "np.e"),
    *("age.__class__", "age.to_csv('x')", "age.mean()", "age[0]", "[age]", "{age}", "[open('x')]", "{open('x')}"),
    *("(lambda: open('x'))()", "lambda: age", "[open(x) for x in 'x']", "{1: open('x')}", "f'{open(1)}'", "`age`"),
    *(
        "open if age else age",
        "(age := open)",
        "age or open",
        "not age",
        "await age",
        "*[age]",
        "**{'x': age}",
        "...",
        "1j",
    ),
    *("Q('age')", "lag(age)", "hashed(age, 2, hash_func=open)", "contr.custom(age)", "contr.poly(scores=age)"),
]
PLACES = [
    *("{}", "{} + age", "age:{}", "age * {}", "(age + {})**2", "(age + sex)**{}", "age - {}", "{}(age)", "({})(age)"),
    *("I({})", "log({})", "np.log({})", "scale({})", "I(age + {})", "I({} / age)", "I(age**{})", "I(age < {})"),
    *("I(age, {})", "I(age){}", "log(x={})", "cr({}, df=3)", "cr(age, df={})", "cr(age, {})", "cr(age, knots=[{}])"),
    *("cr(age, df=3, x={})", "bs(age, degree={})", "poly(age, {})", "C({})", "C(site, {})", "C(site, contr.sum({}))"),
    *("C(site, contr.treatment({}, {}))", "C(site, levels={})", "age ~ {}", "{} ~ age", "age | {}", "[{} ~ age]"),
]


@pytest.mark.parametrize("place", PLACES)
def test_no_code_stands_anywhere(place: str) -> None:
    for attack in ATTACKS:
        text = place.replace("{}", attack)
        assert parsed(text) is None, text


NAMES = ["age", "tiv", "change", "visits", "sex", "site"]


def words(text: str) -> list[str]:
    return text.split(" ")


ALLOWED = [
    *NAMES,
    *words("0 1 2 3 0.5 1e3 + - * / : ** ( ) , = < > == != [ ]"),
    *words("I C offset cr cc bs poly log log2 log10 log1p exp sqrt abs np.log np.exp center scale standardize"),
    *words("df=4 knots=[40,60] degree=2 contr.sum contr.treatment('B') contr.poly() base='A' 'A' \"B\""),
    *words("I( log( cr( C( np.sqrt( age) age,df=3) site) +age *sex :site"),
    " ",
]
FORBIDDEN = [
    *words("np np.load np.savetxt np.cumsum np.mean np.__builtins__ np.lib np.f2py np.ctypeslib contr contr.custom"),
    *words("age.mean age.values age.__class__ .__class__ .__globals__ .mean() __import__ __builtins__ _state"),
    *words("eval exec open print getattr input breakpoint compile globals os sys Q lag hashed exp10 agge"),
    *words("lambda for in if else and or not is None True await yield import"),
    *words("~ | ^ % %in% ` { } . ... @ & ; # \\ \\\\ := -> ' \" ''' 9 99999 1e999 1j 0x1 \n \t \0 é ａge ² \u2028"),
    *words('"eval" ("__import__(\'os\').system(\'true\')") [0] ["eval"] (0) **{} *[] f"{age}" b"x"'),
]
PIECES = st.sampled_from(ALLOWED) | st.sampled_from(ALLOWED) | st.sampled_from(FORBIDDEN)
ROWS = st.lists(st.integers(0, 49), min_size=1, max_size=5)


ONE_VALUE = ["I", "log", "np.log2", "log10", "np.log1p", "exp", "sqrt", "np.abs", "center", "scale", "standardize"]


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = ["+", "-", "*", "/", " > ", "<=", " == "]
    called = st.builds("{}({})".format, st.sampled_from([*ONE_VALUE, "", "-"]), inner)
    joined = st.builds("({}{}{})".format, inner, st.sampled_from(signs), inner)
    powers = st.builds("({} + change)**{}".format, inner, st.sampled_from(["2", "3", "-1", "0.5"]))
    return called | joined | powers


NUMBERS = st.sampled_from(["1", "2", "0.5", "50", "1e3", ".1"])
VALUES = st.recursive(st.sampled_from(NAMES[:4]) | st.sampled_from(NAMES[:4]) | NUMBERS, _nested, max_leaves=6)
BASES = st.sampled_from(
    ["cr({},df=4)", "cr({},3)", "cr({},knots=[40,50])", "cc({},df=3)", "bs({},df=5)", "bs({},degree=1)", "poly({},2)"]
)
CODINGS = st.sampled_from(["", ",contr.sum", ",contr.treatment('B')", ",contr.poly()", ",contr.helmert"])
TERMS = (
    st.sampled_from(NAMES)
    | st.builds("{}({})".format, st.sampled_from(ONE_VALUE), st.sampled_from(NAMES[:4]))
    | st.builds("I({})".format, VALUES)
    | st.builds(lambda basis, value: basis.format(value), BASES, VALUES)
    | st.builds("offset({})".format, VALUES)
    | st.builds("C({}{})".format, st.sampled_from(NAMES[4:]), CODINGS)
)
FORMULAS = st.recursive(
    TERMS,
    lambda inner: (
        st.builds("{}{}{}".format, inner, st.sampled_from(["+", " + ", ":", "*", "/", " - "]), inner)
        | st.builds("({})".format, inner)
        | st.builds("({})**2".format, inner)
    ),
    max_leaves=4,
)
FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
QUIET = pytest.mark.filterwarnings("ignore")


@QUIET
@FUZZ
@given(st.lists(PIECES, min_size=1, max_size=14), st.sampled_from(["", " "]), ROWS)
def test_strings_of_pieces(pieces: list[str], between: str, rows: list[int]) -> None:
    check(between.join(pieces), rows)


@QUIET
@FUZZ
@given(FORMULAS, ROWS)
def test_formulas(text: str, rows: list[int]) -> None:
    check(text, rows)


@QUIET
@FUZZ
@given(FORMULAS, PIECES | st.sampled_from(ATTACKS), st.floats(0, 1), ROWS)
def test_formulas_with_something_in_them(text: str, piece: str, where: float, rows: list[int]) -> None:
    place = round(where * len(text))
    check(text[:place] + piece + text[place:], rows)


@FUZZ
@given(st.text(max_size=MAX_LENGTH))
def test_any_text(text: str) -> None:
    formula = parsed(text)
    assert formula is None or all(name.isidentifier() for name in formula.names)
