"""Filters in words of a table, such as "split == 'test' and age > 60".

A filter comes from a study file, which may come from anybody. So it is read against a list of what is allowed and
worked out here, comparison by comparison: nothing in it is ever run.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from brainscm.errors import ConfigError

EXAMPLE = "\"split == 'test' and diagnosis == 'AD' and age > 60\""
MAX_LENGTH = 2000  # characters
MAX_NUMBER = 1e18  # a long serial number
MAX_DEPTH = 50  # brackets and signs within one another
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


@dataclass(frozen=True)
class Filter:
    """A filter that was read. `where` is its place, for messages."""

    text: str
    where: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str, where: str) -> Filter:
        """Read a filter.

        Args:
            text: comparisons (`==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not in`) of columns with numbers, text in quotes
                or lists of them, joined by `and`, `or`, `not` and brackets.

        Raises:
            ConfigError: it is anything else.
        """
        shown = " ".join(text.split())  # a message is one line
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"{where}: the filter has {len(text)} characters, of which {MAX_LENGTH} are allowed.")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f"{where}: '{shown}' cannot be read; {_hint(text)}") from error
        if _is_deep(tree):
            raise ConfigError(f"{where}: '{shown}' has more than {MAX_DEPTH} things within one another; write fewer.")
        found = cls(shown, where, tree)
        found._check(tree)
        return found

    @property
    def columns(self) -> list[str]:
        """The columns that it names, in order of appearance."""
        return list(dict.fromkeys(node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)))

    def matches(self, rows: pd.DataFrame) -> pd.Series:
        """Which rows it takes; a row that lacks a value meets no comparison with it.

        Raises:
            ConfigError: a column is not there, holds numbers where text is asked for or the other way round, or no row
                is left.
        """
        for name in self.columns:
            if name not in rows:
                nearest = difflib.get_close_matches(name, list(map(str, rows)), n=1, cutoff=0.5)
                hint = f"did you mean '{nearest[0]}'?" if nearest else f"there are {', '.join(map(str, rows))}."
                raise ConfigError(f"{self.where}: '{self.text}': the cohort has no column '{name}'; {hint}")
        taken = self._apply(self.tree, rows)
        if len(rows) and not taken.any():
            raise ConfigError(f"{self.where}: '{self.text}' takes no scan; {self._why_empty(rows)}")
        return taken

    def _refuse(self, node: ast.AST, hint: str) -> ConfigError:
        hint = _hint(self.text) if re.search("[&|]", self.text) else hint
        return ConfigError(f"{self.where}: '{ast.unparse(node)}' cannot stand in a filter; {hint}")

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.BoolOp(values=parts):
                for part in parts:
                    self._check(part)
            case ast.UnaryOp(op=ast.Not(), operand=part):
                self._check(part)
            case ast.Compare(left=left, ops=signs, comparators=others):
                for sign, first, second in zip(signs, [left, *others], others, strict=False):
                    self._check_pair(node, sign, first, second)
            case _:
                raise self._refuse(node, _hint(self.text))

    def _check_pair(self, node: ast.expr, sign: ast.cmpop, left: ast.expr, right: ast.expr) -> None:
        listed = isinstance(sign, ast.In | ast.NotIn)
        if not listed and type(sign) not in COMPARISONS:
            raise self._refuse(node, "write == or !=.")
        if not isinstance(left, ast.Name) and (listed or not isinstance(right, ast.Name)):
            raise self._refuse(node, "each comparison names a column, like age > 60.")
        if listed and not isinstance(right, ast.List | ast.Tuple):
            raise self._refuse(node, "write a list behind 'in', like sex in ['F', 'M'].")
        for operand in (left, *(right.elts if isinstance(right, ast.List | ast.Tuple) and listed else [right])):
            if not isinstance(operand, ast.Name) and _constant(operand) is None:
                raise self._refuse(
                    operand, f"compare columns with numbers up to {MAX_NUMBER:g}, or with text in quotes."
                )

    def _apply(self, node: ast.expr, rows: pd.DataFrame) -> pd.Series:
        match node:
            case ast.BoolOp(op=op, values=parts):
                taken = self._apply(parts[0], rows)
                for part in parts[1:]:
                    other = self._apply(part, rows)
                    taken = taken & other if isinstance(op, ast.And) else taken | other
                return taken
            case ast.UnaryOp(operand=part):
                return ~self._apply(part, rows)
            case ast.Compare(left=left, ops=signs, comparators=others):
                taken = pd.Series(True, index=rows.index)
                for sign, first, second in zip(signs, [left, *others], others, strict=False):
                    taken &= self._compare(node, sign, first, second, rows)
                return taken
        raise AssertionError  # `_check` lets nothing else pass

    def _compare(
        self, node: ast.expr, sign: ast.cmpop, left: ast.expr, right: ast.expr, rows: pd.DataFrame
    ) -> pd.Series:
        columns = [rows[each.id] for each in (left, right) if isinstance(each, ast.Name)]
        there = pd.concat(columns, axis=1).notna().all(axis=1)
        values = [_value(each, rows) for each in (left, right)]
        ordered = not isinstance(sign, ast.Eq | ast.NotEq | ast.In | ast.NotIn)
        self._check_kinds(node, columns, values, ordered)
        if isinstance(sign, ast.In | ast.NotIn):
            return there & (values[0].isin(values[1]) ^ isinstance(sign, ast.NotIn))
        taken = pd.Series(False, index=rows.index)
        a, b = (value[there] if isinstance(value, pd.Series) else value for value in values)
        taken[there] = COMPARISONS[type(sign)](a, b)
        return taken

    def _check_kinds(self, node: ast.expr, columns: list[pd.Series], values: list[Any], ordered: bool) -> None:
        """Refuse comparisons that no scan could meet: numbers with text, and text by its order."""
        constants = [each for value in values if not isinstance(value, pd.Series) for each in _listed(value)]
        for column in columns:
            if column.isna().all():
                continue
            numeric = pd.api.types.is_numeric_dtype(column)
            for constant in constants:
                if numeric == isinstance(constant, str):
                    hint = (
                        "write it without quotes"
                        if numeric
                        else f"write text in quotes, like '{column.dropna().iloc[0]}'"
                    )
                    kind = "numbers" if numeric else "text"
                    raise ConfigError(f"{self.where}: '{ast.unparse(node)}': '{column.name}' holds {kind}; {hint}.")
            if ordered and not numeric:
                raise ConfigError(
                    f"{self.where}: '{ast.unparse(node)}': '{column.name}' holds text without an order; write == or in."
                )

    def _why_empty(self, rows: pd.DataFrame) -> str:
        """The first comparison that no row meets, with what the column has instead."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Compare) or self._apply(node, rows).any():
                continue
            names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
            column = rows[names[0]].dropna()
            told = f"no scan has {ast.unparse(node)}"
            if column.empty:
                return f"no scan has a value of {names[0]}."
            if pd.api.types.is_numeric_dtype(column):
                return f"{told}: it is {column.min():g} to {column.max():g}."
            known = sorted(column.astype(str).unique())
            wanted = [c for each in ast.walk(node) if isinstance(c := _constant(each), str)]
            # Case is what people get wrong most often.
            folded = {value.casefold(): value for value in reversed(known)}
            meant = [value for c in wanted for value in difflib.get_close_matches(c.casefold(), folded, n=1)]
            return (
                f"{told}; did you mean '{folded[meant[0]]}'?" if meant else f"{told}; there are {', '.join(known[:5])}."
            )
        return "no scan meets all of it at once."


def _is_deep(tree: ast.AST) -> bool:
    """Whether what walks the tree could run out of Python's stack."""
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return bool(level)


def _hint(text: str) -> str:
    if "=" in text.replace("==", "").replace("!=", "").replace("<=", "").replace(">=", ""):
        return "write == for 'is equal to'."
    if re.search("[&|]", text):
        return "write 'and' and 'or'."
    return f"write it like {EXAMPLE}; scan or participant ids are a list, like [sub-01, sub-02]."


def _constant(node: ast.AST) -> float | int | str | None:
    """A number that a float holds, with or without its sign, or a text; None for anything else."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, str):
        return value if sign == 1 else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not value <= MAX_NUMBER:
        return None
    return sign * value


def _value(node: ast.expr, rows: pd.DataFrame) -> Any:
    if isinstance(node, ast.Name):
        return rows[node.id]
    return [_constant(each) for each in node.elts] if isinstance(node, ast.List | ast.Tuple) else _constant(node)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
