"""The declared graph against its data: what each missing arrow implies, tested."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.stats
import torch

from brainscm.errors import ConfigError
from brainscm.parallel import CPU
from brainscm.scm.claims import ALL, missing_arrows
from brainscm.scm.comparison import first_scans, fit_formula
from brainscm.scm.design import Array, Design
from brainscm.scm.formula import parse_formula
from brainscm.scm.model import Scm
from brainscm.scm.permutation import Basis, family_wise_p, max_statistics, permuted_maxima, tiles
from brainscm.scm.sample import Sample

COLUMNS = ["node", "other", "given", "statistic", "value", "df1", "df2", "p", "p_holm", "conflict", "reason"]
LEVEL = 0.05


def implications(scm: Scm, sample: Sample, device: torch.device = CPU) -> pd.DataFrame:
    """Test every arrow that the graph leaves out: a node does not depend on an earlier one, given its parents.

    These independences, each of a node and one that it does not cause, given the node's parents, imply all others of
    the graph (Pearl, 1988). Of a node the generalised linear model is compared with that of its formula and the other
    node: an F test of the deviances where the family has a dispersion, else the likelihood ratio's χ². Of the image it
    is the permutation test over the whole latent of the other node's columns. Where participants have several scans
    the nodes' tests take the first of each. Whether exogenous nodes depend on each other is no claim of the graph.

    Args:
        scm: the fitted model. sample: its training scans, as `Scm.sample` gives them.

    Returns:
        One row an independence: `node` ⟂ `other` | `given`, `statistic` (F, chi2 or permutation) with its `value` and
        degrees of freedom, `p`, `p_holm` (adjusted for all of them; Holm, 1979), `conflict` (p_holm < 0.05) and
        `reason` why it could not be tested. The row of `all together` is Fisher's combination of the nodes' p
        (Shipley, 2000).
    """
    rows = []
    for node, other in missing_arrows(scm.graph):
        given = scm.graph.image.names if node == "image" else scm.graph.parents(node)
        row: dict[str, object] = {"node": node, "other": other, "given": ", ".join(given)}
        try:
            found = _test_image(scm, sample, other, device) if node == "image" else _test_node(scm, node, other)
        except ConfigError as error:
            found = {"reason": str(error)}
        rows.append(row | found)
    table = pd.DataFrame(rows, columns=COLUMNS)
    tested = table["p"].notna()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(dtype=float))
    table["conflict"] = table["p_holm"].astype(float) < LEVEL
    of_nodes = table.loc[tested & (table["node"] != "image"), "p"].to_numpy(dtype=float)
    if len(of_nodes):
        value = float(-2 * np.log(np.maximum(of_nodes, np.finfo(float).tiny)).sum())
        p = float(scipy.stats.chi2.sf(value, 2 * len(of_nodes)))
        whole = {
            "node": ALL,
            "statistic": "chi2",
            "value": value,
            "df1": 2 * len(of_nodes),
            "p": p,
            "conflict": p < LEVEL,
        }
        table = pd.DataFrame([*table.to_dict("records"), whole], columns=COLUMNS)
    return table


def holm(p: Array) -> Array:
    """Adjusted p that control the family-wise error whatever their dependence (Holm, 1979)."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def _test_node(scm: Scm, node: str, other: str) -> dict[str, object]:
    """The node's model against that with `other` in its formula, too."""
    model = scm.nodes[node]
    values, text = first_scans(scm, (node, other)), model.design.formula.text
    declared, larger = (fit_formula(scm, model, each, values) for each in (text, f"{text} + {other}"))
    return declared.tested_against(larger)


def _test_image(scm: Scm, sample: Sample, other: str, device: torch.device) -> dict[str, object]:
    """The largest partial R² of the other node's columns over the latent, against its permutations."""
    if not scm.options.permutations:
        raise ConfigError("no permutations are asked for (scm.permutations)")
    design = Design.learn(
        parse_formula(f"{scm.graph.image.text} + {other}", "the image"), scm.training_values, f"the image and {other}"
    )
    x = scm.weighted(design.matrix(scm.training_values))
    held = [design.columns.index(column) for column in scm.design.columns]
    added = [i for i in range(len(design.columns)) if i not in held]
    contrast = np.eye(len(design.columns))[added]
    augmented = replace(sample, x=x, columns=design.columns, imputed=())
    basis = Basis.of(x, contrast)
    found = max(
        float(permuted_maxima(basis, basis.unit_residuals(tile, device), iter([np.arange(len(x))]))[0])
        for tile in tiles(augmented)
    )
    largest = max_statistics(augmented, [contrast], scm.options.permutations, scm.seed, device)[0]
    p = float(family_wise_p(np.array([found]), largest)[0])
    return {"statistic": "permutation", "value": found, "df1": len(added), "p": p}
