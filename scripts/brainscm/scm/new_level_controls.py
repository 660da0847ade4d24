"""Which new levels of a node can be estimated, and from whom; imports nothing that an index does not need."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from brainscm.config import ScmOptions
from brainscm.errors import ConfigError
from brainscm.filters import Filter
from brainscm.scm.covariates import Covariates, Names
from brainscm.scm.graph import read_graph

NEEDED = 10  # controls of a level: of fewer, half of what is estimated is these people and not their scanner


def check_new_levels(options: ScmOptions, covariates: Covariates, controls: Mapping[str, str]) -> None:
    """Make sure that new levels of these nodes can be estimated.

    Raises:
        ConfigError: a node is not one, holds numbers, or is in a formula other than the image's.
    """
    graph = read_graph(options)
    for node in controls:
        where = f"config: new_levels: {node}"
        if covariates.levels.get(node) is None:
            raise ConfigError(f"{where}: is not a node with levels of the fitted study; take it out.")
        formulas = {name: formula for name, formula in graph.formulas.items() if formula}
        models = [name for name, formula in formulas.items() if name == node or node in formula.names]
        if models:
            raise ConfigError(
                f"{where}: the fitted study has a formula of {models[0]} with it, and of the image alone can a new "
                "level be estimated; take it out, or fit a study that has such scans."
            )


def controls_of(covariates: Covariates, node: str, words: str, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The controls among some rows by level of a node that training has not seen: those that the filter `words` takes.

    Raises:
        ConfigError: the filter does not fit the table, or takes none of it.
    """
    chosen = rows[Filter.parse(words, f"config: new_levels: {node}").matches(rows)]
    levels = chosen[covariates.columns[node]].dropna().astype(str)
    unseen = levels[~levels.isin(covariates.levels[node] or ())]
    return {str(level): chosen.loc[index] for level, index in unseen.groupby(unseen).groups.items()}


def foreseen(
    covariates: Covariates, controls: Mapping[str, str], table: pd.DataFrame
) -> tuple[dict[str, Names], list[tuple[str, str]]]:
    """The new levels by node that the cohort's table has controls for, and (node, note) of each.

    A filter that names what preprocessing has yet to measure is taken to find enough.

    Raises:
        ConfigError: see `controls_of`.
    """
    levels, notes = {}, []
    for node, words in controls.items():
        seen = table[covariates.columns[node]].dropna().astype(str)
        new = sorted(set(seen) - set(covariates.levels[node] or ()))
        if set(Filter.parse(words, f"config: new_levels: {node}").columns) <= set(table):
            found = controls_of(covariates, node, words, table)
            counts = {level: found[level]["participant"].nunique() if level in found else 0 for level in new}
            new = [level for level in new if counts[level] >= NEEDED]
            notes += [(node, f"'{level}' is estimated from {counts[level]} controls") for level in new]
        levels[node] = tuple(new)
    return levels, notes
