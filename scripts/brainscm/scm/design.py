"""Design matrices: a formula's columns, with knots and means learnt from the training scans alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg
from formulaic import Formula as FormulaicFormula
from formulaic import ModelSpec
from formulaic.parser.types import Factor, Term
from formulaic.transforms.basis_spline import basis_spline
from formulaic.transforms.cubic_spline import cyclic_cubic_spline, natural_cubic_spline
from formulaic.utils.stateful_transforms import stateful_transform
from numpy.typing import NDArray

from brainscm.errors import ConfigError
from brainscm.scm.formula import ELEMENTWISE, OFFSET, Formula

Array = NDArray[np.float64]

# A column is taken for a combination of others when less than this share of its length is its own.
RANK_TOLERANCE = 1e-9


@stateful_transform
def _cr(x: Any, df: int | None = None, knots: Iterable[float] | None = None, _state: Any = None) -> Any:
    """Natural cubic spline, centred (formulaic's default is collinear with an intercept), linear outside its range."""
    return natural_cubic_spline(x, df=df, knots=knots, constraints="center", _state=_state)


@stateful_transform
def _cc(x: Any, df: int | None = None, knots: Iterable[float] | None = None, _state: Any = None) -> Any:
    """Cyclic cubic spline, centred; its period is the training range."""
    return cyclic_cubic_spline(x, df=df, knots=knots, constraints="center", _state=_state)


@stateful_transform
def _bs(
    x: Any, df: int | None = None, knots: Iterable[float] | None = None, degree: int = 3, _state: Any = None
) -> Any:
    """B-spline, held at its end value outside the training range, where its polynomials would run away."""
    return basis_spline(x, df=df, knots=knots, degree=degree, extrapolation="clip", _state=_state)


def _number(x: Any) -> Any:
    """What an offset holds."""
    return np.asarray(x, dtype=np.float64)


# What a formula's functions are; those that stand in its `FUNCTIONS` but not here are formulaic's own.
_ELEMENTWISE = {name: getattr(np, name) for name in ELEMENTWISE}
_CONTEXT = {OFFSET: _number, "cr": _cr, "cc": _cc, "bs": _bs, "np": SimpleNamespace(**_ELEMENTWISE), **_ELEMENTWISE}


@dataclass(frozen=True)
class Design:
    """The design matrix of one formula.

    Attributes:
        formula: as parsed.
        columns: names of the matrix's columns; the first is the intercept.
        nodes: for each column, the nodes that it depends on.
    """

    formula: Formula
    columns: tuple[str, ...]
    nodes: tuple[frozenset[str], ...]
    _spec: ModelSpec

    @classmethod
    def learn(cls, formula: Formula, values: pd.DataFrame, where: str) -> Design:
        """Learn the state of a formula from the training scans' node values (as `Covariates.read` gives them).

        Raises:
            ConfigError: the formula cannot be evaluated, its columns are collinear (they are named) or outnumber the
                scans.
        """
        for term in map(str, formula.terms):
            held = [name for name in formula.names if term.startswith(f"{OFFSET}(") and re.search(rf"\b{name}\b", term)]
            if any(isinstance(values[name].dtype, pd.CategoricalDtype) for name in held):
                raise ConfigError(f"{where}: '{term}' holds levels, and an offset needs numbers; write the node alone.")
        try:
            matrix = ModelSpec(formula=FormulaicFormula(list(formula.terms)), na_action="ignore").get_model_matrix(
                values, context=_CONTEXT
            )
        except Exception as error:  # formulaic passes on whatever the formula's functions raise
            reason = str(error).partition("\n")[0].rstrip(". ")
            raise ConfigError(
                f"{where}: '{formula.text}' cannot be computed on the {len(values)} training scans ({reason}); "
                f"simplify it, for example with fewer degrees of freedom."
            ) from error
        design = cls._of(formula, matrix.model_spec)
        x = np.asarray(matrix, dtype=np.float64)
        if not np.isfinite(x).all():
            name = design.columns[int(np.argmin(np.isfinite(x).all(axis=0)))]
            raise ConfigError(f"{where}: the column '{name}' is not finite for some training scan; check its function.")
        if len(x) <= np.count_nonzero(~design.is_offset):
            raise ConfigError(
                f"{where}: {len(x)} training scans are too few for {len(design.columns)} coefficients; "
                f"shorten '{formula.text}'."
            )
        free = ~design.is_offset
        _check_rank(x[:, free], tuple(np.array(design.columns)[free]), where)
        return design

    @classmethod
    def restore(cls, formula: Formula, state: Any, values: pd.DataFrame) -> Design:
        """The design of which `state` was kept.

        Args:
            values: a few rows of node values of the training scans' kinds and levels; nothing is learnt from them.
        """
        spec = ModelSpec(
            formula=FormulaicFormula(list(formula.terms)), na_action="ignore", transform_state=_unpacked(state)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return cls._of(formula, spec.get_model_matrix(values, context=_CONTEXT).model_spec)

    @classmethod
    def _of(cls, formula: Formula, spec: ModelSpec) -> Design:
        nodes: list[frozenset[str]] = []
        for term in spec.terms:
            names = frozenset(str(v) for v in spec.term_variables[term]).intersection(formula.names)
            nodes += [names] * len(range(*spec.term_slices[term].indices(len(spec.column_names))))
        return cls(formula, tuple(spec.column_names), tuple(nodes), spec)

    @property
    def terms(self) -> list[tuple[str, list[int]]]:
        """Each term with an effect of its own and where its columns stand; without the intercept and offsets."""
        free, found = ~self.is_offset, []
        for term in self._spec.terms:
            columns = range(*self._spec.term_slices[term].indices(len(self.columns)))
            if str(term) != "1" and free[list(columns)].all():
                found.append((str(term), list(columns)))
        return found

    @property
    def is_offset(self) -> NDArray[np.bool_]:
        """Which columns have a coefficient of 1, (p,)."""
        return np.array([column.startswith(f"{OFFSET}(") for column in self.columns])

    @property
    def state(self) -> Any:
        """What was learnt, the knots of splines and the means that are taken off, as JSON can hold it."""
        return _packed(self._spec.transform_state)

    def matrix(self, values: pd.DataFrame) -> Array:
        """Design matrix (n, p) of any scans; a row depends on its own scan only.

        Raises:
            ConfigError: a value outside the formula's domain, such as the logarithm of a negative number.
        """
        x = self.evaluate(values)
        bad = ~np.isfinite(x).all(axis=1)
        if bad.any():
            asked = ", ".join(f"{name} {values[name].iloc[int(np.argmax(bad))]}" for name in self.formula.names)
            raise ConfigError(f"config: scm: '{self.formula.text}' has no value at {asked}; ask within its domain.")
        return x

    def is_defined(self, values: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether the formula has a value for each scan, (n,)."""
        return np.asarray(np.isfinite(self.evaluate(values)).all(axis=1))

    def evaluate(self, values: pd.DataFrame) -> Array:
        """As `matrix`, with numbers that are not finite where the formula has no value."""
        if values.empty:
            return np.empty((0, len(self.columns)))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.ascontiguousarray(self._spec.get_model_matrix(values, context=_CONTEXT), dtype=np.float64)


def _packed(state: Any) -> Any:
    """Numbers, lists, arrays and dictionaries (some with numbers for keys) as plain values, to the last digit."""
    if isinstance(state, dict):
        return {"pairs": [[key, _packed(value)] for key, value in state.items()]}
    if isinstance(state, np.ndarray):
        return {"array": state.tolist()}
    if isinstance(state, list | tuple):
        return [_packed(value) for value in state]
    return state.item() if isinstance(state, np.generic) else state


def _unpacked(state: Any) -> Any:
    if isinstance(state, dict):
        if "array" in state:
            return np.array(state["array"])
        return {key: _unpacked(value) for key, value in state["pairs"]}
    return [_unpacked(value) for value in state] if isinstance(state, list) else state


def has_value(expression: str, values: pd.DataFrame) -> NDArray[np.bool_]:
    """For which rows one of a formula's `transforms` has a value, (n,): `log(age)` has none at 0."""
    factor = FormulaicFormula([Term([Factor(expression, eval_method="python")])])
    with np.errstate(all="ignore"):
        column = ModelSpec(formula=factor, na_action="ignore").get_model_matrix(values, context=_CONTEXT)
    return np.asarray(np.isfinite(np.asarray(column, dtype=np.float64)).all(axis=1))


def _check_rank(x: Array, columns: tuple[str, ...], where: str) -> None:
    """Refuse a collinear design and name the columns that tell the same thing."""
    centred = x[:, 1:] - x[:, 1:].mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    constant = length <= RANK_TOLERANCE * np.linalg.norm(x[:, 1:], axis=0)
    if constant.any():
        name = columns[1 + int(np.argmax(constant))]
        raise ConfigError(f"{where}: the column '{name}' is the same for every training scan; take its term out.")
    if not length.size:
        return
    _, r, pivots = scipy.linalg.qr(centred / length, mode="economic", pivoting=True)
    own = np.abs(np.diag(r))
    if own.min() > RANK_TOLERANCE:
        return
    rank = int(np.argmax(own <= RANK_TOLERANCE))
    weights = scipy.linalg.solve_triangular(r[:rank, :rank], r[:rank, rank])
    others = [columns[1 + pivots[i]] for i in range(rank) if abs(weights[i]) > 1e-6]
    named = ", ".join(f"'{name}'" for name in others)
    raise ConfigError(
        f"{where}: the column '{columns[1 + pivots[rank]]}' is already told by {named}, so that their effects "
        f"cannot be told apart; take one of them out."
    )
