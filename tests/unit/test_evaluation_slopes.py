from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainscm.config import QueryOptions, ScmOptions
from brainscm.errors import ScanError
from brainscm.evaluation.scan import Counterfactual, Scan
from brainscm.evaluation.slopes import counterfactual_changes, regional_slopes
from brainscm.regions import COMPARED, Geometry
from brainscm.scm.model import Scm
from made_up_measure import MadeUpMeasure

OPTIONS = {
    "nodes": {
        "age": {"unit": "years"},
        "sex": {"levels": ["F", "M"]},
        "ventricles": {"unit": "ml", "formula": "age"},
    },
    "image": {"formula": "age + sex + ventricles"},
}
TRUE_SLOPE = -2.0  # ml of grey matter a year


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """60 participants, every other one scanned twice; ventricles widen with age, and both cost grey matter."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        age, sex, own = rng.uniform(20, 80), "FM"[number % 2], rng.normal(0, 10)
        for years in (0, 3) if number % 2 else (0,):
            ventricles = 10 + 0.3 * (age + years) + rng.normal(0, 1)
            gm = 900 + 40 * (sex == "M") + own - 1.4 * (age + years) - 2 * ventricles + rng.normal(0, 1)
            mask = 1300 - 0.5 * age + rng.normal(0, 20)
            row = {"scan": f"{number}_{years}", "participant": str(number), "split": "train", "age": age + years}
            row |= {"sex": sex, "mask_volume_ml": mask, "ventricles_ml": ventricles, "gm_ml": gm, "csf_ml": mask - gm}
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def scm(table) -> Scm:
    latents = table[["gm_ml"]].to_numpy().reshape(-1, 1, 1, 1, 1)
    return Scm.fit(table, latents, ScmOptions.model_validate(OPTIONS), seed=0)


def asked(effect: str, slope: float) -> pd.DataFrame:
    rows = [
        {"scan": str(n), "participant": str(n), "query": "q", "node": "age", "effect": effect, "step": step}
        for n, step in enumerate((20.0, -10.0, 5.0, 20.0))
    ]
    table = pd.DataFrame(rows)
    return table.assign(gm_ml=slope * table["step"] + [2, -1, 0.5, -2], ventricles_ml=0.3 * table["step"])


def slope_of(scm, table, effect, region, **changes):
    slopes = regional_slopes(scm, table.assign(**changes), asked(effect, -1.0), ["gm", "ventricles"])
    return slopes.set_index("region").loc[region]


def test_total_effect_keeps_what_the_mediator_passes_on(scm, table):
    row = slope_of(scm, table, "total", "gm")
    assert row["participants_slope_ml"] == pytest.approx(TRUE_SLOPE, abs=0.15)
    assert row["participants_low_ml"] < TRUE_SLOPE < row["participants_high_ml"]
    assert row["participants_slope_percent"] == pytest.approx(
        100 * row["participants_slope_ml"] / table["gm_ml"].mean()
    )


def test_participants_of_one_mask_do_not_count_what_masks_leave_out(scm, table):
    queries = asked("total", -1.0).assign(csf_ml=0.0)
    slopes = regional_slopes(scm, table, queries, ["gm", "csf"]).set_index("region")
    assert slopes["participants_slope_ml"].sum() == pytest.approx(-0.5, abs=0.3)
    assert slopes["same_mask_slope_ml"].sum() == pytest.approx(0, abs=1e-9)
    row = slopes.loc["gm"]
    assert row["same_mask_low_ml"] < TRUE_SLOPE < row["same_mask_high_ml"]


def test_direct_effect_holds_the_mediator(scm, table):
    assert slope_of(scm, table, "direct", "gm")["participants_slope_ml"] == pytest.approx(-1.4, abs=0.5)


def test_a_region_that_the_graph_holds_has_no_slope(scm, table):
    row = slope_of(scm, table, "direct", "ventricles")
    assert np.isnan(row["participants_slope_ml"])
    assert "node ventricles" in row["why_null"]
    assert row["counterfactual_slope_ml"] == pytest.approx(0.3)


def test_counterfactual_slope_is_the_mean_over_scans_of_change_by_step(scm, table):
    row = slope_of(scm, table, "total", "gm")
    assert row["counterfactual_slope_ml"] == pytest.approx(-1 + (0.1 + 0.1 + 0.1 - 0.1) / 4)
    assert row["counterfactual_low_ml"] < row["counterfactual_slope_ml"] < row["counterfactual_high_ml"]


def test_a_covariate_that_does_not_vary_gives_a_reason_not_a_number(scm, table):
    row = slope_of(scm, table, "total", "gm", age=50.0)
    assert np.isnan(row["participants_slope_ml"])
    assert row["why_null"] == "age does not vary across these participants"
    assert np.isfinite(row["counterfactual_slope_ml"])


def test_too_few_participants_give_a_reason(scm, table):
    row = slope_of(scm, table.head(3), "total", "gm")
    assert "too few participants" in row["why_null"]


SHAPE = (2, 2, 2)  # 8 voxels


def written(scan: str, query: str, before: float, after: float) -> dict[str, object]:
    row = {"scan": scan, "participant": scan, "query": query, "effect": "total", "path": f"{scan}.nii.gz"}
    return {**row, "factual_age": before, "counterfactual_age": after, "factual_sex": "F", "counterfactual_sex": "M"}


def changes_of(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Each counterfactual has 5 in every voxel and was raised by 2; `s9` cannot be read, and `s7` is not usable."""

    def read(row):
        if row["scan"] == "s9":
            raise ScanError("cut short")
        return Counterfactual(np.full(SHAPE, 5, np.float32), np.full(SHAPE, 2, np.float32))

    def sums(volume, mask, head_size):
        return dict.fromkeys(COMPARED, float(volume[mask].sum()) / head_size)

    mask = np.ones(SHAPE, bool)
    inputs = SimpleNamespace(
        queries=[
            QueryOptions(name="older", do={"age": "+20"}),
            QueryOptions(name="man", do={"sex": "M"}),
            QueryOptions(name="both", do={"age": "+20", "sex": "M"}),
        ],
        scm=SimpleNamespace(covariates=SimpleNamespace(ranges={"age": (20, 80)})),
        scans=SimpleNamespace(usable=pd.DataFrame({"scan": ["s1", "s2", "s9"]})),
        written=SimpleNamespace(made=pd.DataFrame(rows), read=read),
        read_scan=lambda scan: Scan(
            np.zeros(SHAPE, np.float32), mask, np.zeros(1), MadeUpMeasure(sums, Geometry(mask, 2.0))
        ),
    )
    return counterfactual_changes(inputs)


def test_changes_are_those_of_the_written_volumes_of_queries_on_one_number():
    rows = [written(scan, query, 60, 80) for scan in ("s1", "s7", "s9") for query in ("older", "man", "both")]
    found = changes_of([*rows, written("s2", "older", 60, 60)])
    assert found[["scan", "query", "node"]].to_numpy().tolist() == [["s1", "older", "age"]]
    assert found["step"].tolist() == [20.0]
    assert [found[f"{region}_ml"].iloc[0] for region in COMPARED] == [8 * 2 / 2] * len(COMPARED)


def test_without_any_change_there_are_no_slopes(scm, table):
    none = changes_of([written("s1", "man", 60, 60)])
    assert none.empty
    assert regional_slopes(scm, table, none, ["gm"]).empty
