import copy

import pytest

from brainscm.config import ScmOptions
from brainscm.report import words

OPTIONS = ScmOptions.model_validate(
    {"nodes": {"age": {"unit": "years"}, "diagnosis": {"levels": ["CN", "AD"]}}, "image": {"formula": "age"}}
)


def method(psnr=29.0, correlation=0.7, slope=0.6, coverage=0.95, why_null=None):
    return {
        "psnr_brain_db": psnr,
        "change_correlation": correlation,
        "change_slope": slope,
        "region_volume_mae_ml": 3.0,
        "interval_coverage_95": coverage,
        "why_null": why_null or {},
    }


SUMMARY = {"methods": {"persistence": method(26.0, None, 0.0), "voxel_glm": method(28.0), "latent_glm": method()}}


def findings(**changed):
    summary = copy.deepcopy(SUMMARY)
    summary["methods"]["latent_glm"].update(changed)
    return " ".join(words.findings(summary))


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


def test_findings_say_when_too_little_moves_and_who_is_beaten():
    said = findings()
    assert "correlates 0.70" in said
    assert "too small: 0.60" in said
    assert "1.0 dB nearer to the truth than the best baseline (Voxelwise GLM)" in said
    assert "95 % of cases: as they should" in said


def test_findings_do_not_hide_a_loss():
    assert "0.5 dB further from the truth" in findings(psnr_brain_db=27.5)
    assert "as near to the truth as" in findings(psnr_brain_db=28.01)
    assert "wrong direction" in findings(change_slope=-0.2)
    assert "too large: 1.30" in findings(change_slope=1.3)
    assert "too narrow" in findings(interval_coverage_95=0.5)


def test_findings_give_the_reason_where_there_is_no_truth():
    said = findings(change_correlation=None, why_null={"change_correlation": "no follow-up scan"})
    assert said == "Whether the counterfactuals are right could not be measured: no follow-up scan."


def test_findings_give_the_reason_where_intervals_were_not_evaluated():
    said = findings(interval_coverage_95=None, why_null={"interval_coverage_95": "no repeated scan"})
    assert said.endswith("Intervals were not evaluated: no repeated scan.")


@pytest.mark.parametrize(
    ("participants", "said"),
    [(1, "rests on 1 participant:"), (19, "rests on 19 participants:"), (20, None), (400, None)],
)
def test_findings_of_few_participants_say_so(participants, said):
    last = words.findings({**SUMMARY, "truth": {"participants": participants}})[-1]
    assert said in last if said else "rests on" not in last


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


def test_lists():
    assert [words.listed(list(items)) for items in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
