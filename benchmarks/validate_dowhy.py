"""Counterfactuals of the nodes and falsification of graphs beside DoWhy's, on three graphs with gaussian nodes.

python -m venv work/dowhy && work/dowhy/bin/pip install dowhy==0.14
work/dowhy/bin/python benchmarks/validate_dowhy.py

This is DoWhy's half: it needs DoWhy (Sharma & Kiciman 2020; Blöbaum et al. 2024), which BrainSCM's lock file does not
have, and nothing of BrainSCM. Writes benchmarks/results/dowhy.json; tests/unit/test_scm_dowhy.py makes the other half
of the same numbers, and compares.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from record import RESULTS, circumstances, write

SCANS = 200
SHOWN = 10  # whose counterfactuals are kept
DO = {"age": 75.0}
TRUE = {"age": [], "sex": [], "school": [], "ventricles": ["age", "sex"], "gm": ["age"], "score": ["gm", "school"]}
# What each graph declares, of the same participants: what made them, an arrow too few, and an arrow turned round.
GRAPHS: dict[str, dict[str, list[str]]] = {
    "right": TRUE,
    "an arrow missing": {**TRUE, "ventricles": ["age"]},
    "an arrow reversed": {
        "age": [], "sex": [], "school": [], "ventricles": ["age", "sex"], "score": ["school"], "gm": ["age", "score"],
    },
}  # fmt: skip


def participants() -> pd.DataFrame:
    """The nodes' values, drawn from `TRUE`; sex is 0 or 1."""
    rng = np.random.default_rng(11)
    age, sex = rng.uniform(40, 80, SCANS), rng.integers(0, 2, SCANS).astype(float)
    school = rng.normal(12, 3, SCANS)
    ventricles = 0.6 * age + 8 * sex + rng.normal(0, 6, SCANS)
    gm = 800 - 2.0 * age + rng.normal(0, 15, SCANS)
    score = 10 + 0.05 * gm + 0.5 * school + rng.normal(0, 1, SCANS)
    columns = {"age": age, "sex": sex, "school": school, "ventricles": ventricles, "gm": gm, "score": score}
    return pd.DataFrame(columns)


def partial_correlation(x: np.ndarray, y: np.ndarray, z: np.ndarray | None = None) -> float:
    """p of x ⟂ y | z where all is linear and normal, (n, k) arrays of one column each but z."""
    q = np.linalg.qr(np.column_stack([np.ones(len(x)), *([] if z is None else [z])]))[0]
    left = [each - q @ (q.T @ each) for each in (x.reshape(len(x)), y.reshape(len(y)))]
    r = float(np.corrcoef(*left)[0, 1])
    freedom = len(x) - q.shape[1] - 1
    return float(2 * scipy.stats.t.sf(abs(r) * np.sqrt(freedom / (1 - r**2)), freedom))


def main() -> None:
    import networkx as nx
    from dowhy import gcm
    from dowhy.gcm.falsify import FalsifyConst, falsify_graph, validate_lmc

    table, found = participants(), {}
    for name, parents in GRAPHS.items():
        graph = nx.DiGraph([(parent, node) for node, above in parents.items() for parent in above])
        graph.add_nodes_from(parents)
        model = gcm.InvertibleStructuralCausalModel(graph)
        for node, above in parents.items():
            linear = gcm.AdditiveNoiseModel(gcm.ml.create_linear_regressor())
            model.set_causal_mechanism(node, linear if above else gcm.EmpiricalDistribution())
        gcm.fit(model, table)
        asked = table.head(SHOWN)
        set_to = {node: lambda _, value=value: value for node, value in DO.items()}
        answered = gcm.counterfactual_samples(model, set_to, observed_data=asked)[list(table)]
        local = validate_lmc(
            graph, table, conditional_independence_test=partial_correlation, include_unconditional=False, n_jobs=1
        )
        falsified = falsify_graph(
            graph, table, independence_test=partial_correlation,
            conditional_independence_test=partial_correlation, n_permutations=-1, n_jobs=1, show_progress_bar=False,
            suggestions=False,
        )  # fmt: skip
        violated, separated = (
            falsified.summary[method] for method in (FalsifyConst.VALIDATE_LMC, FalsifyConst.VALIDATE_TPA)
        )
        claims = [
            {"node": node, "other": other, "p": float(told[0] if isinstance(told, tuple) else told)}
            for (node, other), told in local[FalsifyConst.P_VALUES].items()
        ]
        found[name] = {
            "parents": parents,
            "counterfactuals": {node: answered[node].tolist() for node in table},
            "local_markov_conditions": claims,
            "beside_all_permuted_graphs": {
                "conditions": violated[FalsifyConst.N_TESTS],
                "violated": violated[FalsifyConst.GIVEN_VIOLATIONS],
                "permuted_graphs": len(violated[FalsifyConst.PERM_VIOLATIONS]),
                "share_that_violates_as_few": violated[FalsifyConst.P_VALUE],
                "share_that_claims_the_same": separated[FalsifyConst.P_VALUE],
                "falsifiable": bool(falsified.falsifiable),
                "falsified": bool(falsified.falsified),
            },
        }
    figures: dict[str, Any] = {
        "graphs": found,
        "do": DO,
        "dowhy": importlib.metadata.version("dowhy"),
        **circumstances("not timed"),
    }
    print(write(figures, RESULTS / "dowhy.json"))


if __name__ == "__main__":
    main()
