"""Before anything is measured or trained: can the formulas be told apart on the participants that the cohort has?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from brainscm.bundle import Bundle
from brainscm.cohort.index import Cohort, index_cohort
from brainscm.config import Config, ImageOptions, ScmOptions
from brainscm.qc.measures import MEASURES
from brainscm.questions import read_queries, source_of
from brainscm.regions import measured_names
from brainscm.scm.claims import adjustment_warnings
from brainscm.scm.codes import check_codes
from brainscm.scm.collinearity import collinearity
from brainscm.scm.covariates import Covariates, check_new_values, check_values, node_column
from brainscm.scm.design import Design
from brainscm.scm.exogenous import association_warning, associations
from brainscm.scm.graph import read_graph
from brainscm.scm.learnt import Learnt
from brainscm.scm.new_level_controls import check_new_levels, foreseen
from brainscm.visits import add_years_since_baseline

logger = logging.getLogger("brainscm")

HEAD_SIZE = "head_size"  # measured on the scan, too, but no part of the brain that it is a picture of


def index_study(config: Config, bids_dir: Path, drawn_before: Mapping[str, str]) -> Cohort:
    """Index a study's scans and check what it asks of them; new scans are checked against the bundle that they are for.

    Args:
        drawn_before: see `index_cohort`.

    Raises:
        BrainSCMError: see `index_cohort`, and `Bundle.verify`.
        ConfigError: see `check_cohort` and `check_new_cohort`.
    """
    measured = measured_names(config.preprocess.atlas)
    if config.bundle is None:
        nodes = {options.column or node: options.levels for node, options in config.scm.nodes.items()}
        levels = {column: named for column, named in nodes.items() if named}
        cohort = index_cohort(
            bids_dir, config.cohort, list(nodes), config.seed, measured, levels, drawn_before=drawn_before
        )
        check_cohort(config, cohort.scans)
        return cohort
    bundle = Bundle.open(config.bundle)
    bundle.verify()
    fitted = Learnt.read(config.bundle / "scm").covariates
    known = {column: names for node, column in fitted.columns.items() if (names := fitted.levels[node])}
    columns = list(fitted.columns.values())
    cohort = index_cohort(bids_dir, config.cohort, columns, config.seed, measured, known, are_new=True)
    found = [*bundle.notes(), *check_new_cohort(config, fitted, cohort.scans)]
    for about, note in found:
        logger.warning("%s: %s", about, note)
    notes = pd.concat([cohort.notes, pd.DataFrame(found, columns=list(cohort.notes))])
    return replace(cohort, notes=notes)


def check_cohort(config: Config, scans: pd.DataFrame) -> None:
    """Find in the first seconds, not after a night of preprocessing, what a study's graph or queries have wrong.

    Args:
        scans: the index: scan, participant, split, and the users' columns.

    Raises:
        ConfigError: a node that may be codes, a level or scan that is not there, or a design that cannot be fitted.
    """
    check_codes(config.scm, scans)
    queries, source = read_queries(config.counterfactuals), source_of(config.counterfactuals)
    check_values(config.scm, queries, scans, _measured(config), source)
    check_designs(config.scm, scans)


def check_new_cohort(config: Config, fitted: Covariates, scans: pd.DataFrame) -> list[tuple[str, str]]:
    """As `check_cohort`, of new scans that are put to a fitted study; notes on levels that it has not seen.

    Raises:
        ConfigError: see `check_new_values`.
    """
    queries, source = read_queries(config.counterfactuals), source_of(config.counterfactuals)
    table = add_years_since_baseline(scans)
    check_new_levels(config.scm, fitted, config.new_levels)
    estimated, notes = foreseen(fitted, config.new_levels, table)
    return notes + check_new_values(config.scm, fitted, queries, table, _measured(config), source, estimated)


def _measured(config: Config) -> set[str]:
    """Columns that preprocessing will add to the cohort's table."""
    regions = measured_names(config.preprocess.atlas)
    return {*regions, *(f"{region}_ml" for region in regions), *MEASURES}


def check_designs(options: ScmOptions, scans: pd.DataFrame) -> None:
    """Learn each formula on the training scans of the cohort's index; log what is nearly collinear or ill adjusted.

    A formula that names something preprocessing has yet to measure is left for `Scm.fit`, which checks all again.

    Args:
        options: the graph.
        scans: the index: scan, participant, split, and the users' columns.

    Raises:
        ConfigError: a level with too few participants, a design that is collinear or outnumbers the scans.
    """
    graph = read_graph(options)
    table = add_years_since_baseline(scans)
    columns = {name: node_column(name, options, table) for name in options.nodes}
    measured = [name for name, column in columns.items() if column not in table and column != HEAD_SIZE]
    for warning in adjustment_warnings(graph, measured):
        logger.warning("config: %s", warning)
    training = table[table["split"] == "train"]
    _tell_associations(options, [name for name in graph.exogenous if columns[name] in table], training)
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


def _tell_associations(options: ScmOptions, exogenous: Sequence[str], training: pd.DataFrame) -> None:
    """Log which nodes without a formula go together in the first scan of each participant."""
    if len(exogenous) < 2:
        return
    nodes = {name: options.nodes[name] for name in exogenous}
    alone = ScmOptions(nodes=nodes, image=ImageOptions(formula=" + ".join(exogenous)))
    values = Covariates.learn(training, alone).read(training[~training["participant"].duplicated()])
    for found in associations(values, exogenous):
        if warning := association_warning(*found):
            logger.warning("config: scm.nodes: %s", warning)
