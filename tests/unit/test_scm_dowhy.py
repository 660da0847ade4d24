"""Counterfactuals of the nodes, and what the graph implies, are DoWhy's on three graphs.

DoWhy's half is in benchmarks/results/dowhy.json; benchmarks/validate_dowhy.py says how it was made.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from validate_dowhy import GRAPHS, SHOWN, participants

from brainscm.config import ScmOptions
from brainscm.scm.implications import implications
from brainscm.scm.model import Scm

RECORDED = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "dowhy.json").read_text())


def fitted(graph: str) -> tuple[Scm, pd.DataFrame]:
    table = participants()
    ids = [f"s{i}" for i in range(len(table))]
    table = table.assign(scan=ids, participant=ids, split="train")
    nodes: dict[str, Any] = {
        node: {"formula": " + ".join(above)} if above else {} for node, above in GRAPHS[graph].items()
    }
    image = {"formula": " + ".join(GRAPHS[graph]), "shrinkage": "none"}
    options = ScmOptions.model_validate({"nodes": nodes, "image": image, "permutations": 0})
    return Scm.fit(table, np.random.default_rng(0).normal(size=(len(table), 2)), options, seed=1), table


@pytest.mark.parametrize("graph", GRAPHS)
def test_counterfactuals_and_local_markov_conditions_are_dowhys(graph: str) -> None:
    scm, table = fitted(graph)
    recorded = RECORDED["graphs"][graph]
    assert recorded["parents"] == GRAPHS[graph]
    ours = scm.values(scm.intervene(table.head(SHOWN), RECORDED["do"]))
    for node, values in recorded["counterfactuals"].items():
        np.testing.assert_allclose(ours[node], values, rtol=1e-9)
    implied = implications(scm, scm.sample(np.zeros((len(table), 2)), range(len(table))))
    theirs = {(claim["node"], claim["other"]): claim["p"] for claim in recorded["local_markov_conditions"]}
    single = implied[implied["node"].isin(GRAPHS[graph])]
    assert len(single)
    for _, row in single.iterrows():
        assert row["p"] == pytest.approx(theirs[row["node"], row["other"]], rel=1e-6, abs=1e-15)
    # DoWhy also lists what is not between a node and an earlier one, which follows from these.
    assert {(row["node"], row["other"]) for _, row in single.iterrows()} <= set(theirs)
    # Both find something against the two false graphs, and nothing against the right one.
    assert bool(implied["conflict"].iloc[-1]) == (graph != "right")
    assert (min(theirs.values()) < 0.05 / len(theirs)) == (graph != "right")
