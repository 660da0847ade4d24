import pandas as pd
import pytest

from brainscm.evaluation.measurements import table_of
from brainscm.evaluation.minimality import minimality_table
from brainscm.evaluation.repeats import Repeats

TABLE = pd.DataFrame({"gm_ml": [600.0, 640.0], "csf_ml": [250.0, 250.0]})


def row(method, scan, region, value, **other):
    about = {"source": "simulated", "method": method, "decode": "none" if method in ("scm", "truth") else "residual"}
    about |= {"query": "older", "effect": "total", "scan": scan, "participant": scan, "region": region}
    return {**about, "metric": "region_change_ml", "value": value, **other}


@pytest.fixture
def rows():
    """Four participants: grey matter should lose 20 ml and loses 8; CSF should stay and gains 30."""
    found = []
    for number in range(4):
        scan, own = f"s{number}", 0.5 * number
        found += [row("scm", scan, "gm", -20.0 - own), row("truth", scan, "gm", -22.0 - own)]
        found += [row("latent_glm", scan, "gm", -8.0 - own), row("scm", scan, "csf", 0.0)]
        found += [row("truth", scan, "csf", 1.0), row("latent_glm", scan, "csf", 30.0 + own)]
    found.append(row("latent_glm", "s0", "gm", 500.0, source="follow-up"))
    return found


def matrix(rows, repeats):
    table = minimality_table(table_of(rows), TABLE, ["gm", "csf"], repeats, seed=0)
    return table.set_index("region")


def test_the_excess_is_what_the_model_did_not_ask_for(rows):
    found = matrix(rows, Repeats({"gm": 15.0, "csf": 5.0}, "9 repeated scans"))
    assert list(found.index) == ["gm", "csf"]
    assert found["excess_ml"].tolist() == pytest.approx([12.0, 30.75])
    assert found.loc["gm", "measured_ml"] == pytest.approx(-8.75)
    assert found.loc["gm", "true_ml"] == pytest.approx(-22.75)
    assert found.loc["gm", "excess_percent"] == pytest.approx(100 * 12 / 620)
    assert found["noise_ml"].tolist() == [15.0, 5.0]
    assert found["beyond_noise"].tolist() == [False, True]


def test_without_repeats_the_reconstruction_is_the_floor_and_is_named(rows):
    for number in range(3):
        error = row("latent_glm", f"s{number}", "gm", 2.0 * number, source="reconstruction", decode="none")
        rows.append({**error, "metric": "region_volume_error_ml"})
    found = matrix(rows, Repeats({}, "nobody was scanned twice"))
    assert found.loc["gm", "noise_ml"] == pytest.approx(2.0)
    assert found.loc["gm", "noise_source"] == "reconstruction alone (nobody was scanned twice)"


def test_without_any_question_the_matrix_is_empty():
    assert minimality_table(table_of([]), TABLE, ["gm"], Repeats({}, ""), seed=0).empty
