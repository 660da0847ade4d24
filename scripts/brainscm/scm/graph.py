"""The declared graph: parents read from formulas, checked before anything is read or computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pandas as pd

from brainscm.config import FAMILY_VALUES, Levels, NodeOptions, Numbers, QueryOptions, Scalar, ScmOptions
from brainscm.errors import ConfigError
from brainscm.questions import check_scans, is_relative, query_label, question_of
from brainscm.scm.formula import EXAMPLE, MAX_NUMBER, OFFSET, Formula, is_name, nearest, parse_formula


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which parents come first, their formulas (None: exogenous), and the image's formula."""

    formulas: dict[str, Formula | None]
    image: Formula

    def parents(self, node: str) -> tuple[str, ...]:
        formula = self.formulas[node]
        return formula.names if formula else ()

    @property
    def exogenous(self) -> tuple[str, ...]:
        return tuple(node for node, formula in self.formulas.items() if formula is None)

    @property
    def modelled(self) -> tuple[str, ...]:
        return tuple(node for node, formula in self.formulas.items() if formula is not None)

    @property
    def written(self) -> dict[str, Formula]:
        """Every formula by its key in the config."""
        nodes = {f"scm.nodes.{node}.formula": formula for node, formula in self.formulas.items() if formula}
        return {**nodes, "scm.image.formula": self.image}

    @property
    def in_c(self) -> frozenset[str]:
        """Nodes that some formula wraps in `C()`: categorical, whatever their values look like."""
        return frozenset().union(*(formula.categorical for formula in self.written.values()))

    def descendants(self, nodes: Collection[str]) -> tuple[str, ...]:
        """Nodes that an intervention on `nodes` reaches, parents first, without `nodes` themselves."""
        reached = set(nodes)
        for node in self.formulas:
            if reached.intersection(self.parents(node)):
                reached.add(node)
        return tuple(node for node in self.formulas if node in reached and node not in nodes)

    def reaches_image(self, nodes: Collection[str]) -> bool:
        return self.reaches(nodes, "image")

    def reaches(self, nodes: Collection[str], outcome: str, past: Collection[str] = ()) -> bool:
        """Whether a way leads from `nodes` to another node, or to the image, that does not run through `past`."""
        names = self.image.names if outcome == "image" else self.parents(outcome)
        reached = set(nodes)
        for node in self.formulas:
            if node not in past and reached.intersection(self.parents(node)):
                reached.add(node)
        return bool(reached.difference(past).intersection(names))


def read_graph(options: ScmOptions) -> Graph:
    """Read the graph that `scm.nodes` and `scm.image` declare.

    Raises:
        ConfigError: a formula cannot be read or names no node, or the graph has a cycle (which is named).
    """
    formulas: dict[str, Formula | None] = {}
    for name, node in options.nodes.items():
        if not is_name(name):
            raise ConfigError(
                f"config: scm.nodes: '{name}' cannot stand in a formula; name it like 'head_size', and its column by "
                f'"{{column: {name}}}".'
            )
        formulas[name] = parse_formula(node.formula, f"config: scm.nodes.{name}.formula") if node.formula else None
    image = parse_formula(options.image.formula, "config: scm.image.formula")
    for where, formula in [*((f"nodes.{name}", formula) for name, formula in formulas.items()), ("image", image)]:
        for name in formula.names if formula else ():
            if name not in formulas:
                raise ConfigError(
                    f"config: scm.{where}.formula: '{name}' is not a node; {nearest(name, list(formulas))} "
                    f'Each name in a formula needs a line under scm.nodes, such as "{name}: {{}}".'
                )
    parents = {name: formula.names if formula else () for name, formula in formulas.items()}
    return Graph({name: formulas[name] for name in _sorted(parents)}, image)


def check_graph(
    options: ScmOptions, queries: Iterable[QueryOptions] = (), source: str = "config: counterfactuals"
) -> None:
    """Check all that can be checked before any data is read.

    Args:
        source: where the queries stand, for messages.

    Raises:
        ConfigError: one sentence: which key, what is wrong with it, what to do.
    """
    graph = read_graph(options)
    if not graph.image.names:
        raise ConfigError(
            f"config: scm.image.formula: '{options.image.formula}' names no node, so that no intervention could change "
            f"the image; write it like {EXAMPLE}."
        )
    for where, formula in graph.written.items():
        if formula is graph.image and any(str(term).startswith(f"{OFFSET}(") for term in formula.terms):
            raise ConfigError(
                f"config: {where}: '{formula.text}' has an offset, which a latent does not; write the node itself."
            )
        if not formula.names:
            raise ConfigError(
                f"config: {where}: '{formula.text}' names no node; leave the formula out, since a node without parents "
                "needs none."
            )
    for name, node in options.nodes.items():
        if isinstance(declared_values(node), Levels) and node.levels is not None and len(node.levels) < 2:
            raise ConfigError(
                f"config: scm.nodes.{name}.levels: a {node.family} node needs two levels or more, like [CN, AD]."
            )
        if node.levels is not None and (complaint := too_many_levels(node, len(node.levels))):
            raise ConfigError(f"config: scm.nodes.{name}.family: {complaint}")
        if node.levels is not None and len(set(node.levels)) < len(node.levels):
            raise ConfigError(f"config: scm.nodes.{name}.levels: a level stands twice in {node.levels}; give it once.")
    groups = options.image.variance_by
    if groups is not None and groups not in options.nodes:
        raise ConfigError(
            f"config: scm.image.variance_by: '{groups}' is not a node; {nearest(groups, list(options.nodes))}"
        )
    labels: dict[str, str] = {}
    for contrast, nodes in options.contrasts.items():
        other = labels.setdefault(query_label(contrast), contrast)
        if other != contrast:
            raise ConfigError(
                f"config: scm.contrasts.{contrast}: its maps would overwrite those of '{other}'; give it another name."
            )
        if not nodes:
            raise ConfigError(f"config: scm.contrasts.{contrast} is empty; write it like {{age: [50, 80]}}.")
        if all(low == high for low, high in nodes.values()):
            raise ConfigError(
                f"config: scm.contrasts.{contrast}: its two ends are the same; write it like {{age: [50, 80]}}."
            )
        for target, ends in nodes.items():
            for value in ends:
                _check_value(options, graph, f"config: scm.contrasts.{contrast}", target, value, relative=False)
    _check_queries(options, graph, queries, source)


def _check_queries(options: ScmOptions, graph: Graph, queries: Iterable[QueryOptions], source: str) -> None:
    labels: dict[str, str] = {}
    questions: dict[str, str] = {}
    for query in queries:
        where = f"{source} ({query.name})"
        for target, value in query.do.items():
            _check_value(options, graph, where, target, value, relative=True)
        check_scans(query, source)
        label = query_label(query.name)
        taken = next((labels[each] for each in (label, *_beside(label)) if each in labels), None)
        if taken is not None or questions.setdefault(
            query_label(question_of(query)), question_of(query)
        ) != question_of(query):
            other = taken or questions[query_label(question_of(query))]
            raise ConfigError(f"{where}: its files would overwrite those of '{other}'; give it another name.")
        labels |= dict.fromkeys((label, *_beside(label)), query.name)


def _beside(label: str) -> tuple[str, ...]:
    """The labels of the further files of a query."""
    return f"{label}Difference", f"{label}Uncertainty"


def declared_values(node: NodeOptions) -> Numbers | Levels | None:
    """What values a node's family takes; None where no family is declared."""
    return None if node.family is None else FAMILY_VALUES[node.family]


def too_many_levels(node: NodeOptions, count: int) -> str:
    """Say that a node's family does not take so many levels, and what does; "" if it does."""
    values = declared_values(node)
    if not isinstance(values, Levels) or values.most is None or count <= values.most:
        return ""
    return f"{node.family} takes {values.needed}, not {count}; write multinomial, or ordered."


def _check_value(options: ScmOptions, graph: Graph, where: str, node: str, value: Scalar, *, relative: bool) -> None:
    """Check one node's value in a query or a contrast, as far as the options alone can tell."""
    if node not in options.nodes:
        raise ConfigError(f"{where}: '{node}' is not a node; {nearest(node, list(options.nodes))}")
    levels = options.nodes[node].levels
    if levels is not None and str(value) not in levels:
        raise ConfigError(f"{where}: {node}: '{value}' is not one of its levels; {nearest(str(value), levels)}")
    if levels is None and is_relative(value) and not relative:
        raise ConfigError(f"{where}: {node}: '{value}' is a change; a contrast takes two values, like [50, 80].")
    family, wanted = options.nodes[node].family, declared_values(options.nodes[node])
    if isinstance(wanted, Numbers) and isinstance(value, str) and not is_relative(value):
        raise ConfigError(f"{where}: {node}: '{value}' is not a number; write it like {{{node}: 70}}.")
    is_number = levels is None and (not isinstance(value, str) or is_relative(value))
    if is_number and not abs(float(value)) <= MAX_NUMBER:
        raise ConfigError(f"{where}: {node}: {value!s:.20} is too large a number; they may go up to {MAX_NUMBER:g}.")
    if isinstance(value, str) or levels is not None:
        return
    if isinstance(wanted, Numbers) and (value <= wanted.above or (wanted.whole and value % 1)):
        raise ConfigError(f"{where}: {node}: a {family} node has {wanted.needed}, not {value:g}; ask for one of them.")
    for key, formula in graph.written.items():
        for expression, names in formula.transforms:
            if names == (node,) and not _has_value_at(expression, node, float(value)):
                raise ConfigError(
                    f"{where}: {node}: '{expression}' in {key} has no value at {value:g}; ask within its domain."
                )


def _has_value_at(expression: str, node: str, value: float) -> bool:
    # Every job of a cluster reads the Snakefile, hence this module; few load formulaic and SciPy, which takes as long.
    from brainscm.scm.design import has_value

    return bool(has_value(expression, pd.DataFrame({node: [value]})).all())


def _sorted(parents: dict[str, tuple[str, ...]]) -> list[str]:
    """Sort nodes so that parents come first, keeping the config's order where the graph leaves it open."""
    order: list[str] = []

    def visit(node: str, path: tuple[str, ...]) -> None:
        if node in path:
            cycle = " → ".join([*path[path.index(node) :], node][::-1])
            raise ConfigError(
                f"config: scm.nodes: the formulas go in a circle ({cycle}); "
                f"take '{node}' out of one of them, since a cause cannot be its own effect."
            )
        if node not in order:
            for parent in parents[node]:
                visit(parent, (*path, node))
            order.append(node)

    for node in parents:
        visit(node, ())
    return order
