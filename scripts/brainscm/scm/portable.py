"""A causal model without its training participants: all that questions need, and nobody's values or ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import ScmOptions
from brainscm.errors import BrainSCMError
from brainscm.identity import Identity
from brainscm.scm.covariates import Covariates
from brainscm.scm.design import Design
from brainscm.scm.graph import read_graph
from brainscm.scm.image import ImageModel
from brainscm.scm.learnt import LEARNT, Learnt
from brainscm.scm.model import CHANGED, Scm, load_scm, read_node_models, write_node_models
from brainscm.scm.nodes import load_node

FILES = (LEARNT, "node_models.npz", "image_model.npz")


def save_portable(scm: Scm, folder: Path) -> None:
    """Write `learnt.json`, `node_models.npz` and `image_model.npz`: what `load_portable` makes the same model of.

    Raises:
        BrainSCMError: a formula's state does not survive being written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    designs = {"image": scm.design, **{f"node {name}": node.design for name, node in scm.nodes.items()}}
    Learnt(scm.covariates, scm.neighbours, {name: design.state for name, design in designs.items()}).write(folder)
    write_node_models(replace(scm, imputed=()), folder)
    # How single training scans were weighed is theirs.
    replace(scm.image, row_scale=np.empty(0), row_demean=np.empty(0)).save(folder / "image_model.npz")
    values, restored = scm.training_values, load_portable(folder, scm.options)
    again = {"image": restored.design, **{f"node {name}": node.design for name, node in restored.nodes.items()}}
    for name, design in designs.items():
        known = values[values[list(design.formula.names)].notna().all(axis=1)]
        if not np.array_equal(design.matrix(known), again[name].matrix(known)):
            raise BrainSCMError(
                f"bundle: '{design.formula.text}' is not the same once it is read from a file; simplify the formula."
            )


def load_portable(folder: Path, options: ScmOptions) -> Scm:
    """Load what `save_portable` wrote; `training` has no rows.

    Raises:
        ConfigError: the graph is not the one that was fitted.
        BrainSCMError: the files are of another version.
    """
    graph = read_graph(options)
    learnt = Learnt.read(folder)
    covariates, states = learnt.covariates, learnt.designs
    if set(covariates.columns) != set(options.nodes) or set(states) != {
        "image",
        *(f"node {n}" for n in graph.modelled),
    }:
        raise CHANGED
    kinds = _two_rows(covariates)
    arrays, nodes = read_node_models(folder), {}
    for name in graph.modelled:
        formula = graph.formulas[name]
        assert formula is not None
        own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
        design = Design.restore(formula, states[f"node {name}"], kinds)
        node = load_node(name, own, design, covariates, options) if own else None
        if node is None:
            raise CHANGED
        nodes[name] = node
    design, image = Design.restore(graph.image, states["image"], kinds), ImageModel.load(folder / "image_model.npz")
    if tuple(image.columns) != design.columns:
        raise CHANGED
    return Scm(
        options=options,
        graph=graph,
        training=pd.DataFrame(columns=["scan", "participant", *dict.fromkeys(covariates.columns.values())]),
        covariates=covariates,
        design=design,
        nodes=nodes,
        image=image,
        neighbours=learnt.neighbours,
        seed=int(arrays["seed"]),
        identity=Identity.model_validate_json(str(arrays["identity"])) if arrays["identity"] else None,
    )


def load_fitted(folder: Path, options: ScmOptions) -> Scm:
    """Load a causal model from a study's own folder or from a bundle's.

    Raises: see `load_portable`.
    """
    return load_portable(folder, options) if (folder / LEARNT).exists() else load_scm(folder, options)


def _two_rows(covariates: Covariates) -> pd.DataFrame:
    """Node values of the training scans' kinds: both ends of each range, and the first and the last level."""
    values: dict[str, Any] = {}
    for name, levels in covariates.levels.items():
        values[name] = (
            covariates.ranges[name] if levels is None else pd.Categorical([levels[0], levels[-1]], categories=levels)
        )
    return pd.DataFrame(values)
