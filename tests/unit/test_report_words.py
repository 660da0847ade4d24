import pytest

from brainscm.config import ScmOptions
from brainscm.report import words

OPTIONS = ScmOptions.model_validate(
    {"nodes": {"age": {"unit": "years"}, "diagnosis": {"levels": ["CN", "AD"]}}, "image": {"formula": "age"}}
)


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ({"age": 80}, "age 80 years"),
        ({"age": "+20"}, "age 20 years higher"),
        ({"age": "-5.5", "diagnosis": "CN"}, "age 5.5 years lower, diagnosis CN"),
    ],
)
def test_interventions_in_words(do, said):
    assert words.intervention(do, OPTIONS) == said


@pytest.mark.parametrize(
    ("slope", "said"),
    [(0.09, "hardly there"), (-0.09, "hardly there"), (0.89, "too small"), (0.9, "right size"), (1.1, "right size"),
     (1.11, "too large"), (-0.1, "wrong direction")],
)  # fmt: skip
def test_size_of_a_change_in_words(slope, said):
    assert said in words.size_of_change(slope)


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (float("nan"), "–"), (0.123456, "0.123"), (-2.5, "−2.5"), (1234567.8, "1,234,568"), ("F", "F")],
)
def test_numbers(value, said):
    assert words.number(value) == said


def test_thousands_are_set_apart_whatever_the_digits():
    assert [words.number(value, 4) for value in (1129.4, 1129.0, -11294.0)] == ["1,129", "1,129", "−11,294"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [((30.44, 29.97, 30.93), "30.4 (30.0–30.9)"), ((0.98412, 0.98, 0.985), "0.984 (0.980–0.985)"),
     ((57.0, 25.0, 85.0), "57 (25–85)"), ((1204.5, 980.0, 1500.0), "1,204 (980–1,500)"),
     ((float("nan"), 0.0, 1.0), "–")],
)  # fmt: skip
def test_a_number_and_its_range_have_as_many_decimals(numbers, said):
    assert words.with_range(*numbers) == said


def test_what_would_undo_an_effect_is_told_of_effects_that_there_are():
    assert words.undone_by(0.69, 0.02, "age", "ventricles") == "69 % of what is left of age and of ventricles"
    assert words.undone_by(0.996, 0.02, "age", "CSF").startswith("100 % of")
    assert words.undone_by(0.69, 0.5, "age", "CSF") == "nothing: it may be chance (p 0.500)"
    assert words.undone_by(0.99, float("nan"), "diagnosis", "CSF") == ""  # none by the graph: nothing to undo
