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
