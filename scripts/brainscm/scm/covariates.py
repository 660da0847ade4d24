"""The nodes' values of each scan: which column holds them, their kind, and what training taught about them."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import Levels, NodeOptions, Numbers, QueryOptions, Scalar, ScmOptions
from brainscm.errors import ConfigError
from brainscm.questions import check_scans, is_relative, select_scans
from brainscm.scm.design import has_value
from brainscm.scm.formula import nearest
from brainscm.scm.graph import declared_values, read_graph, too_many_levels
from brainscm.tables import LEFT_OUT_OF_SCM

MIN_PARTICIPANTS = 2  # a level with one participant in it has no noise to learn from
MANY_LEVELS = 10  # text in more kinds than this, most of it beginning with a number, was meant as numbers

Names = tuple[str, ...]  # of a categorical node's levels, reference first


@dataclass(frozen=True)
class Covariates:
    """What the training scans teach about the nodes.

    Attributes:
        columns: node → table column.
        levels: node → levels, reference first, or None for a number.
        ranges: numeric node → (smallest, largest) training value.
        units: node → unit, for messages.
    """

    columns: dict[str, str]
    levels: dict[str, Names | None]
    ranges: dict[str, tuple[float, float]]
    units: dict[str, str]

    @classmethod
    def learn(cls, table: pd.DataFrame, options: ScmOptions) -> Covariates:
        """Learn kinds, levels and ranges from a table of training scans (scan, participant, node columns)."""
        check_table(options, table)
        columns = {name: node_column(name, options, table) for name in options.nodes}
        levels = {name: _levels(name, options, table[column]) for name, column in columns.items()}
        numeric = [name for name, names in levels.items() if names is None]
        ranges = {name: (float(table[columns[name]].min()), float(table[columns[name]].max())) for name in numeric}
        return cls(columns, levels, ranges, {name: node.unit for name, node in options.nodes.items() if node.unit})

    def problems(self, table: pd.DataFrame, imputed: Collection[str] = ()) -> pd.Series:
        """Say for each row why it cannot be used: left out by a rating, a missing covariate, an unseen level; or "".

        A value of the nodes in `imputed` may be missing.
        """
        reasons = pd.Series("", index=table.index)
        if LEFT_OUT_OF_SCM in table:
            reasons += table[LEFT_OUT_OF_SCM].map(lambda reason: f"{reason}; " if isinstance(reason, str) else "")
        for name, column in self.columns.items():
            if column not in table:
                reasons += f"no column '{column}' for {name}; "
                continue
            levels = self.levels[name]
            if levels is None:
                missing = pd.to_numeric(table[column], errors="coerce").astype(float).abs().lt(np.inf).eq(False)
            else:
                text = _as_text(table[column])
                missing = text.isna()
                unseen = ~missing & ~text.isin(levels)
                note = name + " '" + text.fillna("").astype(str) + "' is not a training level; "
                reasons = reasons.where(~unseen, reasons + note)
            if name not in imputed:
                reasons = reasons.where(~missing, reasons + f"{name} is missing; ")
        return reasons.str.removesuffix("; ")

    def read(self, table: pd.DataFrame) -> pd.DataFrame:
        """Take the nodes out of a table: one typed column a node (float64, or categorical with the training levels)."""
        values = {}
        for name, column in self.columns.items():
            levels = self.levels[name]
            if levels is None:
                values[name] = table[column].astype(np.float64)
            else:
                values[name] = pd.Series(pd.Categorical(_as_text(table[column]), categories=levels), index=table.index)
        return pd.DataFrame(values, index=table.index)

    def outside(self, node: str, value: float) -> str:
        """Say that a number lies outside the training range of its node; "" if it does not."""
        low, high = self.ranges[node]
        if low <= value <= high:
            return ""
        unit = f" {self.units[node]}" if node in self.units else ""
        return f"{node} {value:.4g}{unit} lies outside the training range {low:.4g}–{high:.4g}"

    def typed(self, node: str, value: Scalar) -> Scalar:
        """Check a new value of a node against its kind; a relative change ("+10") of a number passes as it is."""
        return _typed(f"config: {node}", value, self.levels[node])


def node_column(name: str, options: ScmOptions, table: pd.DataFrame) -> str:
    """The column that holds a node: as configured, else of the same name, else as preprocessing measured it (`_ml`)."""
    wanted = options.nodes[name].column or name
    return f"{wanted}_ml" if wanted not in table and f"{wanted}_ml" in table else wanted


def check_table(options: ScmOptions, table: pd.DataFrame, nodes: Collection[str] | None = None) -> None:
    """Check the graph, or some `nodes` of it, against the table of training scans (scan, participant, node columns).

    Raises:
        ConfigError: a node has no column or no value, a number is text, or a level has too few participants.
    """
    for name, node in options.nodes.items():
        if nodes is not None and name not in nodes:
            continue
        where = f"config: scm.nodes.{name}"
        column = node_column(name, options, table)
        if column not in table:
            raise ConfigError(
                f"{where}: no column '{column}' in participants.tsv, sessions.tsv or the measures of preprocessing; "
                f"{nearest(column, [str(c) for c in table.columns])} Its column can be named: "
                f'"{name}: {{column: my_column}}".'
            )
        values = table[column].dropna()
        if values.empty:
            raise ConfigError(f"{where}: no training scan has a value of '{column}'; fill it in, or drop the node.")
        if isinstance(wanted := declared_values(node), Numbers):
            _check_numbers(where, node.family, wanted, values)
        levels = _levels(name, options, table[column])
        if levels is not None and node.levels is None and node.family is None and _seem_numbers(levels, node.unit):
            raise ConfigError(
                f"{where}: '{column}' holds text such as '{_no_number(levels)}' where numbers seem to be meant; "
                "write numbers alone, with a point for decimals, or list the levels if it has levels."
            )
        if name == options.image.variance_by and levels is None:
            raise ConfigError(
                f"config: scm.image.variance_by: '{name}' holds numbers and groups need levels; "
                f"name a node with levels."
            )
        if levels is not None:
            counts = table["participant"].groupby(_as_text(table[column])).nunique()
            _check_levels(where, node, levels, counts)


def check_values(
    options: ScmOptions,
    queries: Iterable[QueryOptions],
    table: pd.DataFrame,
    measured: Collection[str] = (),
    source: str = "config: counterfactuals",
) -> None:
    """Check nodes, contrasts and queries against a cohort's table, before anything is measured or trained.

    Nodes and filters whose column is not in the table yet (preprocessing will measure it) are left for later.

    Args:
        measured: columns that preprocessing will add to the table.
        source: where the queries stand, for messages.

    Raises:
        ConfigError: see `check_table`; a level that no participant has, text for a number, a scan that is not there, or
            a filter that takes none.
    """
    training = table[table["split"] == "train"] if "split" in table else table
    check_table(options, training, [name for name in options.nodes if node_column(name, options, table) in table])
    queries = list(queries)
    put_to = _put_to(queries, table, measured, source)
    asked = [
        (f"config: scm.contrasts.{name}: {node}", node, value)
        for name, contrast in options.contrasts.items()
        for node, ends in contrast.items()
        for value in ends
    ]
    asked += [
        (f"{source} ({query.name}): {node}", node, value) for query in queries for node, value in query.do.items()
    ]
    for where, node, value in asked:
        column = node_column(node, options, table)
        if column in table and table[column].notna().any():
            _typed(where, value, _levels(node, options, table[column]))
        elif column in measured and options.nodes[node].levels is None:
            _typed(where, value, None)
    for query, rows in put_to:
        _check_domain(f"{source} ({query.name})", options, query, rows)


def check_new_values(
    options: ScmOptions,
    fitted: Covariates,
    queries: Iterable[QueryOptions],
    table: pd.DataFrame,
    measured: Collection[str] = (),
    source: str = "config: counterfactuals",
    estimated: Mapping[str, Names] | None = None,
) -> list[tuple[str, str]]:
    """Check new scans, and queries to them, against what the training scans taught, before anything is measured.

    Args:
        options: the graph that was fitted, and `fitted` what it has learnt.
        table, measured, source: see `check_values`.
        estimated: further levels by node, which will be estimated from the new scans.

    Returns:
        (node, note): levels that nothing is known of, with the scans that have them.

    Raises:
        ConfigError: a level of a query, or of all scans, was not in training; or see `check_values`.
    """
    queries = list(queries)
    known = {
        name: None if levels is None else (*levels, *(estimated or {}).get(name, ()))
        for name, levels in fitted.levels.items()
    }
    for query in queries:
        for node, value in query.do.items():
            _typed(f"{source} ({query.name}): {node}", value, known[node])
    for query, rows in _put_to(queries, table, measured, source):
        _check_domain(f"{source} ({query.name})", options, query, rows)
    notes = []
    for name, levels in known.items():
        if levels is None or fitted.columns[name] not in table:
            continue
        text = _as_text(table[fitted.columns[name]])
        unseen = text.notna() & ~text.isin(levels)
        listed = ", ".join(levels)
        if len(table) and unseen.all():
            raise ConfigError(
                f"config: bundle: {name} is '{text.iloc[0]}' in the new scans, and the fitted study knows {listed} "
                "alone; write them as that study did, or fit a study that has such scans."
            )
        for level, scans in table["scan"][unseen].groupby(text[unseen]):
            told = f"{scans.iloc[0]}{', …' if len(scans) > 1 else ''}"
            notes.append(
                (
                    name,
                    f"'{level}' ({len(scans)} scans: {told}) was not in the fitted study, which knows {listed}; these "
                    "scans are preprocessed and encoded, but no question can be put to them",
                )
            )
    return notes


def _put_to(
    queries: Iterable[QueryOptions], table: pd.DataFrame, measured: Collection[str], source: str
) -> list[tuple[QueryOptions, pd.DataFrame]]:
    """The scans that each query is put to, as far as the table tells."""
    put_to = []
    for query in queries:
        chosen = check_scans(query, source)
        wait = chosen is not None and not set(chosen.columns).isdisjoint(set(measured) - set(table))
        if not wait and ("split" in table or chosen is not None or isinstance(query.scans, list)):
            put_to.append((query, select_scans(table, query, source)))
    return put_to


def check_change(where: str, node: NodeOptions, name: str, change: Scalar, changed: pd.Series) -> None:
    """Check that a relative change leaves every scan a value that the node's family takes. changed: by scan.

    Raises:
        ConfigError: it gives some scan another, such as a negative volume.
    """
    wanted = declared_values(node)
    if not isinstance(wanted, Numbers):
        return
    refused = changed[(changed <= wanted.above) | (wanted.whole & (changed % 1 != 0) & changed.notna())]
    if len(refused):
        raise ConfigError(
            f"{where}: {name}: '{change}' gives {refused.index[0]} {refused.iloc[0]:.4g}, and a {node.family} node has "
            f"{wanted.needed}; ask for a smaller change, or of fewer scans."
        )


def _check_domain(where: str, options: ScmOptions, query: QueryOptions, asked: pd.DataFrame) -> None:
    """Check that each scan that a query asks keeps a value in every formula, as far as the table tells."""
    graph = read_graph(options)
    if asked.empty:
        return
    columns = {name: node_column(name, options, asked) for name in options.nodes}
    numeric = [name for name, c in columns.items() if c in asked and _levels(name, options, asked[c]) is None]
    values = pd.DataFrame({name: pd.to_numeric(asked[columns[name]], errors="coerce") for name in numeric}, dtype=float)
    values.index = pd.Index(asked["scan"])
    changed = values.copy()
    for name, value in query.do.items():
        if name in numeric:
            changed[name] = values[name] + float(value) if is_relative(value) else float(value)
            if is_relative(value):
                check_change(where, options.nodes[name], name, value, changed[name])
    moved = set() if query.effect == "direct" else set(graph.descendants(tuple(query.do)))
    for key, formula in graph.written.items():
        for expression, names in formula.transforms:
            if not set(query.do).intersection(names) or not set(numeric).difference(moved).issuperset(names):
                continue
            lost = has_value(expression, values) & ~has_value(expression, changed)
            if lost.any():
                raise ConfigError(
                    f"{where}: '{expression}' in {key} would have no value for {values.index[int(np.argmax(lost))]}; "
                    "ask for a smaller change, or of fewer scans."
                )


def _levels(name: str, options: ScmOptions, column: pd.Series) -> Names | None:
    """The levels of a categorical node, reference first; None for a number."""
    node = options.nodes[name]
    if node.levels is not None:
        return tuple(node.levels)
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if numeric and not isinstance(declared_values(node), Levels) and name not in read_graph(options).in_c:
        return None
    return tuple(sorted(_as_text(column).dropna().unique()))


def _seem_numbers(levels: Names, unit: str | None) -> bool:
    begin_so = sum(re.match(r"[+-]?\d", level) is not None for level in levels)
    return unit is not None or (len(levels) > MANY_LEVELS and 2 * begin_so > len(levels))


def _no_number(values: Iterable[Any]) -> Any:
    """The first value that is not a number, to be shown; if all could be read as numbers, the first."""
    first, *others = values
    return next((value for value in (first, *others) if pd.isna(pd.to_numeric(value, errors="coerce"))), first)


def _typed(where: str, value: Scalar, levels: Names | None) -> Scalar:
    if levels is not None:
        if str(value) not in levels:
            raise ConfigError(f"{where}: '{value}' is not one of its levels; {nearest(str(value), levels)}")
        return str(value)
    if is_relative(value):
        return value
    with contextlib.suppress(ValueError):
        if math.isfinite(float(value)):
            return float(value)
    raise ConfigError(f"{where}: '{value}' is not a number; write it like 70, or \"+10\" for a change.")


def _check_numbers(where: str, family: str | None, wanted: Numbers, values: pd.Series) -> None:
    """Check that a column (without what is missing) holds the numbers that a node's family takes."""
    if not pd.api.types.is_numeric_dtype(values):
        raise ConfigError(
            f"{where}: a {family} node needs numbers, but '{values.name}' holds '{_no_number(values)}'; mend it."
        )
    refused = values[(values <= wanted.above) | (wanted.whole & (values % 1 != 0))]
    if len(refused):
        raise ConfigError(
            f"{where}: {family} needs {wanted.needed}, not {refused.iloc[0]:g} in '{values.name}'; try gaussian."
        )


def _check_levels(where: str, node: NodeOptions, levels: Names, participants: pd.Series) -> None:
    """Check that each level has enough participants, who are counted by level."""
    for level in levels:
        count = int(participants.get(level, 0))
        if count < MIN_PARTICIPANTS:
            enough = ", ".join(str(other) for other in levels if participants.get(other, 0) >= MIN_PARTICIPANTS)
            raise ConfigError(
                f"{where}: level '{level}' has {count} training participants and needs {MIN_PARTICIPANTS}; merge it "
                f'with another in the table, or list only the levels to use: "levels: [{enough}]".'
            )
    if node.formula is None:
        return
    if len(levels) < 2:
        raise ConfigError(f"{where}: every training scan has the value '{levels[0]}'; drop the node or its formula.")
    if complaint := too_many_levels(node, len(levels)):
        raise ConfigError(f"{where}: {complaint}")
    if isinstance(declared_values(node), Numbers):
        raise ConfigError(f"{where}: a {node.family} node holds numbers, not levels; write multinomial or ordered.")


def _as_text(column: pd.Series) -> pd.Series:
    """Levels as text; a whole number loses the `.0` that a missing value elsewhere in its column gave it."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    text = column.map(lambda v: f"{v:.0f}" if numeric and v % 1 == 0 else str(v), na_action="ignore").astype(object)
    return text.where(column.notna(), None)
