"""Filters in words of the cohort's table: what they take, what they refuse, and that none of them can run code."""

import os

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainscm.errors import ConfigError
from brainscm.filters import Filter

ROWS = pd.DataFrame(
    {
        "scan": [f"sub-{i}" for i in range(6)],
        "split": ["train", "train", "train", "test", "test", "test"],
        "diagnosis": ["CN", "AD", None, "AD", "CN", "AD"],
        "age": [50.0, 61.0, 70.0, 72.0, None, 58.0],
        "age_baseline": [50.0, 60.0, 70.0, 70.0, 40.0, 58.0],
    }
)


def taken(text: str) -> list[int]:
    chosen = Filter.parse(text, "config: counterfactuals (q).scans").matches(ROWS)
    return ROWS.index[chosen].tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("split == 'test' and diagnosis == 'AD' and age > 60", [3]),
        ("split == 'test' and (diagnosis == 'CN' or age <= 58)", [4, 5]),
        ("60 < age <= 72", [1, 2, 3]),
        ("diagnosis in ['CN', 'MCI']", [0, 4]),
        ("diagnosis not in ('CN',)", [1, 3, 5]),
        ("diagnosis != 'AD'", [0, 4]),
        ("age >= -1", [0, 1, 2, 3, 5]),
        ("not age > 60", [0, 4, 5]),
        ("age > age_baseline", [1, 3]),
        ("'AD' == diagnosis", [1, 3, 5]),
    ],
)
def test_rows_are_taken(text: str, rows: list[int]) -> None:
    assert taken(text) == rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("age = 60", "write == for"),
        ("age > 60 & split == 'test'", "write 'and' and 'or'"),
        ("sub-01", "scan or participant ids are a list"),
        ("agee > 60", "no column 'agee'; did you mean 'age'"),
        ("age > '60'", "'age' holds numbers; write it without quotes"),
        ("diagnosis == 1", "'diagnosis' holds text; write text in quotes, like 'CN'"),
        ("diagnosis > 'AD'", "holds text without an order"),
        ("diagnosis == 'ad'", "no scan has diagnosis == 'ad'; did you mean 'AD'"),
        ("split == 'test' and age > 90", "no scan has age > 90: it is 50 to 72"),
        ("diagnosis == 'AD' and age < 55", "no scan meets all of it at once"),
        ("age is None", "write == or !="),
        ("'a' == 'a'", "each comparison names a column"),
        ("diagnosis in 'AD'", "write a list behind 'in'"),
        ("age > True", "compare columns with numbers"),
        ("(age\n> 90)", "'(age > 90)' takes no scan"),
        ("age >\n", "'age >' cannot be read"),
        ("age > 1" + "0" * 400, "compare columns with numbers up to 1e+18"),
        ("age in [60, 1e999]", "compare columns with numbers up to 1e+18"),
        ("age > 60 " + "and age > 60 " * 400, "characters"),
        ("not " * 450 + "age > 60", "more than 50 things within one another"),
        ("age > " + "-" * 900 + "60", "more than 50 things within one another"),
        ("(" * 900 + "age > 1" + ")" * 900, "cannot be read"),
    ],
)
def test_what_takes_no_scan_is_refused_in_one_sentence(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        taken(text)
    assert told in str(caught.value)
    assert str(caught.value).startswith("config: counterfactuals (q).scans: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') == 0",
        "age > age.mean()",
        "scan.str.len() > 3",
        "[scan for scan in [1]] == 1",
        "age > 1 if split else 2",
        "(lambda: 1) == age",
        "f'{age}' == '1'",
        "age ** 999999 > 1",
        "(age := 3) > 1",
        "rows['age'] > 1",
        "age",
    ],
)
def test_nothing_but_comparisons_can_stand_in_a_filter(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a filter"):
        Filter.parse(text, "here")


# Fuzzing. Whatever the string: it takes some rows, or is refused in one sentence.
COMPARED = [
    *("age", "age_baseline", "split", "diagnosis", "absent", "60", "-1.5", "1e3", "1e999", "9" * 400, "0x1F", "1j"),
    *(
        "'AD'",
        "'test'",
        "''",
        "'\\x00'",
        "['AD', 'CN']",
        "[]",
        "(60, 70)",
        "[age]",
        "{60}",
        "f'{age}'",
        "b'AD'",
        "None",
        "True",
    ),
    *("age.mean()", "age[0]", "__import__('os')", "(age := 3)", "[x for x in [1]]", "lambda: age", "...", "*[age]"),
]
SIGNS = ["==", "!=", "<", "<=", ">", ">=", " in ", " not in ", " is ", " and ", " or ", "+", "**", "=", "~", "&"]
COMPARISON = st.builds("{}{}{}".format, st.sampled_from(COMPARED), st.sampled_from(SIGNS), st.sampled_from(COMPARED))
FILTERS = st.recursive(
    COMPARISON,
    lambda inner: (
        st.builds("{} and {}".format, inner, inner)
        | st.builds("{} or ({})".format, inner, inner)
        | st.builds("not {}".format, inner)
        | st.builds("{}{}{}".format, inner, st.sampled_from(SIGNS), st.sampled_from(COMPARED))
    ),
    max_leaves=4,
)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(FILTERS | st.text(max_size=60))
def test_any_string_takes_rows_or_is_refused_in_one_sentence(text: str) -> None:
    try:
        rows = taken(text)
    except ConfigError as refused:
        sentence = str(refused)
    else:
        assert rows
        return
    assert "\n" not in sentence
