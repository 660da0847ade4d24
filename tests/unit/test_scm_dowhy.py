"""Counterfactuals of the nodes, and what the graph implies, are DoWhy's on three graphs.

DoWhy's half is in benchmarks/results/dowhy.json; benchmarks/validate_dowhy.py says how it was made.
"""

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from validate_dowhy import GRAPHS, SHOWN, participants

from brainscm.config import ScmOptions
from brainscm.scm.comparison import first_scans, fit_formula
from brainscm.scm.implications import implications
from brainscm.scm.model import Scm

RECORDED = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "dowhy.json").read_text())


Claim = tuple[str, str, tuple[str, ...]]  # two nodes that are independent given others


def fitted(parents: dict[str, list[str]]) -> tuple[Scm, pd.DataFrame]:
    table = participants()
    ids = [f"s{i}" for i in range(len(table))]
    table = table.assign(scan=ids, participant=ids, split="train")
    nodes: dict[str, Any] = {node: {"formula": " + ".join(above)} if above else {} for node, above in parents.items()}
    image = {"formula": " + ".join(parents), "shrinkage": "none"}
    options = ScmOptions.model_validate({"nodes": nodes, "image": image, "permutations": 0})
    return Scm.fit(table, np.random.default_rng(0).normal(size=(len(table), 2)), options, seed=1), table


@pytest.mark.parametrize("graph", GRAPHS)
def test_counterfactuals_and_local_markov_conditions_are_dowhys(graph: str) -> None:
    scm, table = fitted(GRAPHS[graph])
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


@cache
def every_node_modelled() -> Scm:
    nodes = list(GRAPHS["right"])
    return fitted({node: nodes[:place] for place, node in enumerate(nodes)})[0]


@cache
def p_of(claim: Claim) -> float:
    """By the test of a missing arrow."""
    scm, (node, other, given) = every_node_modelled(), claim
    if node not in scm.nodes:
        node, other = other, node
    values, text = first_scans(scm, (node, other, *given)), " + ".join(["1", *given])
    declared, larger = (fit_formula(scm, scm.nodes[node], each, values) for each in (text, f"{text} + {other}"))
    return float(str(declared.tested_against(larger)["p"]))


def local_markov_conditions(graph: Any) -> list[Claim]:
    """Each with its two nodes in one order: the test is the same the other way round."""
    return [
        (min(node, other), max(node, other), tuple(sorted(graph.predecessors(node))))
        for node in graph
        for other in sorted(set(graph) - {node} - nx.descendants(graph, node) - set(graph.predecessors(node)))
    ]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_verdict_by_permuted_graphs_is_dowhys(name: str) -> None:
    """DoWhy's `falsify_graph`, made anew with our tests: does a graph violate fewer conditions than permuted ones?"""
    graph = nx.DiGraph([(parent, node) for node, above in GRAPHS[name].items() for parent in above])
    graph.add_nodes_from(GRAPHS[name])
    separated = cache(lambda claim: nx.is_d_separator(graph, {claim[0]}, {claim[1]}, set(claim[2])))

    def violated(conditions: list[Claim]) -> float:
        return float(np.mean([p_of(claim) <= 0.05 for claim in conditions]))

    own = local_markov_conditions(graph)
    permuted = [
        local_markov_conditions(nx.relabel_nodes(graph, dict(zip(graph, order, strict=True))))
        for order in itertools.permutations(graph)
    ]
    as_few = np.mean([violated(conditions) <= violated(own) for conditions in permuted])
    the_same = np.mean([all(separated(claim) for claim in conditions) for conditions in permuted])
    assert RECORDED["graphs"][name]["beside_all_permuted_graphs"] == {
        "conditions": len(own),
        "violated": sum(p_of(claim) <= 0.05 for claim in own),
        "permuted_graphs": len(permuted),
        "share_that_violates_as_few": pytest.approx(as_few),
        "share_that_claims_the_same": pytest.approx(the_same),
        "falsifiable": bool(the_same < 0.05),
        "falsified": bool(the_same < 0.05 < as_few),
    }
