"""Before anything is measured or trained: can the formulas be told apart on the participants that the cohort has?"""

from __future__ import annotations

import logging

import pandas as pd

from brainscm.config import ImageOptions, ScmOptions
from brainscm.scm.collinearity import collinearity
from brainscm.scm.covariates import Covariates, node_column
from brainscm.scm.design import Design
from brainscm.scm.graph import read_graph
from brainscm.visits import add_years_since_baseline

logger = logging.getLogger("brainscm")


def check_designs(options: ScmOptions, scans: pd.DataFrame) -> None:
    """Learn each formula on the training scans of the cohort's index, and log what is nearly collinear.

    A formula that names something preprocessing has yet to measure is left for `Scm.fit`, which checks all again.

    Args:
        options: the graph.
        scans: the index: scan, participant, split, and the users' columns.

    Raises:
        ConfigError: a level with too few participants, a design that is collinear or outnumbers the scans.
    """
    graph = read_graph(options)
    table = add_years_since_baseline(scans)
    training = table[table["split"] == "train"]
    for where, formula in graph.written.items():
        if any(node_column(name, options, table) not in table for name in formula.names):
            continue
        alone = ScmOptions(
            nodes={name: options.nodes[name].model_copy(update={"formula": None}) for name in formula.names},
            image=ImageOptions(formula=formula.text),
        )
        covariates = Covariates.learn(training, alone)
        values = covariates.read(training[covariates.problems(training) == ""])
        design = Design.learn(formula, values, f"config: {where}")
        for *_, warning in collinearity(where, design, design.matrix(values)):
            if warning:
                logger.warning("config: %s: %s", where, warning)
