"""The plan of a study's questions: how many, what they cost, and which the data cannot answer."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from brainscm.config import QueryOptions, ScmOptions
from brainscm.counterfactuals.cost import Cost, recorded_cost
from brainscm.counterfactuals.plan import by_model, by_table, plan_questions, told
from brainscm.scm.model import Scm
from brainscm.tables import write_table

N = 40
OPTIONS = ScmOptions.model_validate(
    {
        "nodes": {"age": {"unit": "years"}, "sex": {"levels": ["F", "M"]}, "csf": {"formula": "age"}},
        "image": {"formula": "age + csf", "shrinkage": "none"},
    }
)


@pytest.fixture
def cohort() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    ids = [f"sub-{i:02d}" for i in range(N)]
    split = np.where(np.arange(N) < 30, "train", "test")
    ages = np.linspace(20, 80, N)[rng.permutation(N)]
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": split, "age": ages, "sex": ["F", "M"] * 20})
    table.loc[N - 1, "age"] = None
    return table.set_index("scan", drop=False).rename_axis(None)


def query(**fields: Any) -> QueryOptions:
    return QueryOptions.model_validate({"name": "older", "do": {"age": 60}} | fields)


QUERIES = [
    query(scans="all"),
    query(name="ageing-age70", trajectory="ageing", do={"age": 70}),
    query(name="ageing-age120", trajectory="ageing", do={"age": 120}),
    query(name="men", do={"sex": "M"}, effect="direct", native="head"),
    query(name="nobody", scans="sex == 'X'"),
    query(name="unknown", scans=["sub-0"]),
    query(name="level", do={"sex": "W"}),
]


@pytest.mark.parametrize("fitted", [True, False])
def test_what_cannot_be_answered_is_told_before_and_after_the_fit(cohort: pd.DataFrame, fitted: bool) -> None:
    support_of = by_table(OPTIONS, cohort)
    if fitted:
        cohort["csf_ml"] = 10 + 0.5 * cohort["age"].fillna(50) + np.random.default_rng(1).normal(size=N)
        noise = np.random.default_rng(2).normal(size=(N, 1, 2, 2, 2))
        latents = noise + cohort["csf_ml"].to_numpy()[:, None, None, None, None]
        support_of = by_model(Scm.fit(cohort, latents, OPTIONS, seed=0))
    planned, problems = plan_questions(cohort, QUERIES, support_of, "config: counterfactuals")
    rows = planned.set_index("query")
    assert rows["scans"].to_dict() == {"older": N, "ageing-age70": 10, "ageing-age120": 10, "men": 10}
    assert rows["usable"].to_dict() == {"older": N - 1, "ageing-age70": 9, "ageing-age120": 9, "men": 9}
    assert rows.loc["ageing-age120", ["extrapolations", "nobody_near"]].tolist() == [9, 9]
    assert rows["volumes"].to_dict() == {"older": 3 * (N - 1), "ageing-age70": 27, "ageing-age120": 27, "men": 54}
    assert rows.loc["older", "nobody_near"] == 0
    assert rows.loc["older", "extrapolations"] < 3
    assert "age 120 years lies outside the training range" in rows.loc["ageing-age120", "warning"]
    assert "nothing leads from sex to the image" in rows.loc["men", "warning"]
    assert len(problems) == 3
    for words in ("takes no scan; no scan has sex == 'X'", "'sub-0' is neither a scan nor a participant", "'W'"):
        assert any(words in problem for problem in problems)


def test_the_plan_says_hours_and_gigabytes() -> None:
    rows = {
        "question": ["a", "b", "b"],
        "query": ["a", "b-1", "b-2"],
        "scans": [10, 5, 5],
        "usable": [9, 5, 5],
        "volumes": [27, 30, 15],
    }
    planned = pd.DataFrame(
        rows | {"extrapolations": [0, 0, 2], "nobody_near": 0, "warning": [None, None, "sub-1: far"]}
    )
    first, second, total = told(planned, Cost(seconds=360, megabytes=4))
    assert first == "a: 9 counterfactuals; 1 cannot be answered (a covariate is missing, or preprocessing failed)"
    assert second == "b (2 members): 10 counterfactuals; 2 extrapolate; for example sub-1: far"
    assert total == "In all 19 counterfactuals, 72 volumes: about 1.9 h, 0.29 GB."
    assert told(planned, Cost(None, None))[-1].endswith("no time is recorded yet.")


def test_cost_is_that_of_the_volumes_that_a_job_made_itself(tmp_path: Path) -> None:
    folder = tmp_path / "counterfactuals"
    paths = [f"sub-{i}_desc-x_T1w.nii.gz" for i in range(20)]
    part = folder / "questions" / "x" / "1-of-1.tsv"
    write_table(pd.DataFrame({"scan": range(20), "path": paths}), part)
    write_table(pd.DataFrame({"s": [30.0]}), tmp_path / "benchmarks" / "synthesize_counterfactuals" / "x" / part.name)
    now = part.stat().st_mtime
    for i, path in enumerate(paths):
        (folder / path).write_bytes(b"x" * 1_000_000)
        when = now - 5 if i < 15 else now - 500  # five were there before
        os.utime(folder / path, (when, when))
    assert recorded_cost(tmp_path) == Cost(seconds=2.0, megabytes=1.0)
    assert recorded_cost(tmp_path / "nowhere") == Cost(None, None)
