"""The measured nodes: a generalised linear model each, fitted on the training scans, which keeps each scan's noise."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from brainscm.config import ScmOptions
from brainscm.errors import ConfigError
from brainscm.scm.covariates import Covariates
from brainscm.scm.design import Array, Design
from brainscm.scm.families import FAMILIES, Fit
from brainscm.scm.graph import Graph
from brainscm.scm.pooling import pool, pool_covariance
from brainscm.scm.sensitivity import e_value

logger = logging.getLogger("brainscm")

NODE_COLUMNS = [
    "node", "family", "formula", "term", "estimate", "standard_error", "t", "df", "p", "ci95_low", "ci95_high",
    "e_value", "dispersion", "missing_information", "note",
]  # fmt: skip


@dataclass(frozen=True)
class NodeModel:
    """One fitted node.

    Attributes:
        name, family: as declared (or defaulted).
        design: of its formula, learnt on the training scans.
        levels: of a discrete node, reference first.
        terms: name of each parameter.
        parameters: (k,); covariance: (k, k), robust to several scans a participant where there are such.
        freedom: (k,) degrees of freedom of each parameter's variance; NaN where one participant alone decides it.
        dispersion: residual variance (gaussian), squared coefficient of variation (gamma), Pearson's χ² over its
            degrees of freedom (poisson), α of the variance m + α m² (negbinomial), else 1.
        note: what the user should know about the fit; "" if nothing.
        missing_information: (k,) share of each parameter's variance that is there because covariates are missing; empty
            where they were not imputed several times.
    """

    name: str
    family: str
    design: Design
    levels: tuple[str, ...] | None
    terms: tuple[str, ...]
    parameters: Array
    covariance: Array
    freedom: Array
    dispersion: float
    note: str = ""
    missing_information: Array = field(default_factory=lambda: np.empty(0))

    def counterfactual(self, factual: pd.DataFrame, changed: pd.DataFrame, scans: pd.Series, seed: int) -> pd.Series:
        """The node's values under changed parents, each scan keeping its own noise.

        Args:
            factual: observed node values, with this node's own.
            changed: node values after the intervention (this node's own is not looked at).
            scans: scan ids; what is random in a discrete node's noise depends on (seed, node, scan) alone.
            seed: of the workflow.

        Returns:
            New values; exactly the factual one for a scan whose parents have not changed.
        """
        x, x_new = self.design.matrix(factual), self.design.matrix(changed)
        moved = (x != x_new).any(axis=1)
        result = factual[self.name].copy()
        if not moved.any():
            return result
        y = self.numbers(factual[moved])
        generators = (noise_generator(seed, self.name, scan) for scan in scans[moved])
        noise = FAMILIES[self.family].abduct(y, x[moved], self.parameters, generators)
        y_new = FAMILIES[self.family].generate(x_new[moved], noise, self.parameters)
        result[moved] = np.array(self.levels, dtype=object)[y_new] if self.levels is not None else y_new
        return result

    def numbers(self, values: pd.DataFrame) -> Any:
        """The node's own values as its family takes them, (n,): levels by their numbers."""
        column = values[self.name]
        return column.cat.codes.to_numpy() if self.levels is not None else column.to_numpy(dtype=float)

    def expected(self, values: pd.DataFrame) -> Any:
        """The mean of the node given its parents, or its most probable level; (n,), for scans that lack the node."""
        y = FAMILIES[self.family].expected(self.design.matrix(values), self.parameters)
        return np.array(self.levels, dtype=object)[y] if self.levels is not None else y

    def sample(self, values: pd.DataFrame, rng: np.random.Generator) -> Any:
        """Values of the node drawn given its parents, (n,); NaN, or no level, where the formula has no value."""
        x = self.design.evaluate(values)
        known = np.isfinite(x).all(axis=1)
        y = FAMILIES[self.family].sample(x[known], self.parameters, self.dispersion, rng)
        if self.levels is None:
            found = np.full(len(values), np.nan)
            found[known] = y
            return found
        codes = np.full(len(values), -1)
        codes[known] = y
        return pd.Categorical.from_codes(codes, pd.Index(self.levels))

    def log_likelihood(self, values: pd.DataFrame) -> Array:
        """How probable its parents make the node's values, (n,); NaN where the formula has no value."""
        x, found = self.design.evaluate(values), np.full(len(values), np.nan)
        known = np.isfinite(x).all(axis=1)
        y = self.numbers(values)[known]
        found[known] = FAMILIES[self.family].log_likelihood(x[known], y, self.parameters, self.dispersion)
        return found

    def arrays(self) -> dict[str, NDArray]:
        """What a file has to hold of the node beside the training scans, from which the rest is learnt again."""
        return {
            "family": np.array(self.family),
            "terms": np.array(self.terms),
            "parameters": self.parameters,
            "covariance": self.covariance,
            "freedom": self.freedom,
            "dispersion": np.array(self.dispersion),
            "note": np.array(self.note),
            "missing_information": self.missing_information,
        }

    def refitted(self, values: pd.DataFrame, participants: pd.Series) -> NodeModel:
        """The node fitted to these scans, with the design that it has.

        Raises:
            ConfigError: the fit does not converge.
        """
        found = fit_family(
            self.family, self.design, self.levels, self.design.matrix(values), self.numbers(values), participants
        )
        if not (np.isfinite(found.parameters).all() and np.isfinite(found.covariance).all()):
            raise ConfigError(
                f"config: scm.nodes.{self.name}.formula: the {self.family} model does not converge; take a term out or "
                "merge levels."
            )
        return replace(
            self,
            parameters=found.parameters,
            covariance=found.covariance,
            freedom=found.freedom,
            dispersion=found.dispersion,
            note=found.note,
        )

    def draw(self, normals: Array) -> NodeModel:
        """The same node with parameters drawn from their sampling distribution; `normals` is (k,) standard normal."""
        eigenvalues, vectors = np.linalg.eigh(self.covariance)
        step = vectors @ (np.sqrt(np.maximum(eigenvalues, 0)) * normals)
        step[np.diag(self.covariance) == 0] = 0.0  # an offset's, but for rounding
        return replace(self, parameters=self.parameters + step)

    def table(self, values: pd.DataFrame) -> pd.DataFrame:
        """The table that a statistician expects: estimate, standard error, t, p and 95 % interval of each parameter.

        Args:
            values: of the training scans, for `e_value` of a node with two levels: of a step of one in columns of 0 and
                1, of a standard deviation in others.
        """
        error = np.sqrt(np.diag(self.covariance))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(error > 0, self.parameters / error, np.nan)  # an offset's parameter is not estimated
        half = scipy.stats.t.ppf(0.975, self.freedom) * error
        return pd.DataFrame(
            {
                "node": self.name,
                "family": self.family,
                "formula": self.design.formula.text,
                "term": self.terms,
                "estimate": self.parameters,
                "standard_error": error,
                "t": t,
                "df": self.freedom,
                "p": 2 * scipy.stats.t.sf(np.abs(t), self.freedom),
                "ci95_low": self.parameters - half,
                "ci95_high": self.parameters + half,
                "e_value": self._e_values(values),
                "dispersion": self.dispersion,
                "missing_information": self.missing_information if len(self.missing_information) else np.nan,
                "note": self.note or None,
            },
            columns=NODE_COLUMNS,
        )

    def _e_values(self, values: pd.DataFrame) -> Array:
        if self.family != "binomial" or self.levels is None:
            return np.full(len(self.parameters), np.nan)
        x = self.design.matrix(values)
        steps = np.where(np.isin(x, (0, 1)).all(axis=0), 1.0, x.std(axis=0))
        found = e_value(np.exp(self.parameters * steps), float((values[self.name] == self.levels[1]).mean()))
        found[[0, *np.flatnonzero(self.design.is_offset)]] = np.nan  # the intercept and an offset are no effects
        return found


def fit_node(
    name: str, values: pd.DataFrame, participants: pd.Series, graph: Graph, covariates: Covariates, options: ScmOptions
) -> NodeModel:
    """Fit one node with parents by maximum likelihood.

    Args:
        name: of a node with a formula.
        values: training scans' node values (`Covariates.read`).
        participants: of the same rows; standard errors are cluster-robust where a participant has several.

    Raises:
        ConfigError: the design is unusable or the fit does not converge.
    """
    design = learn_design(name, values, graph)
    family, levels = _family(name, covariates, options), covariates.levels[name]
    terms = FAMILIES[family].terms(design.columns, levels or ())
    nothing = np.empty(0)
    node = NodeModel(name, family, design, levels, terms, nothing, nothing, nothing, np.nan).refitted(
        values, participants
    )
    if node.note:
        logger.warning("node %s: %s", name, node.note)
    return node


def pooled_node(models: Sequence[NodeModel]) -> NodeModel:
    """A node as several imputations have it, fitted to one design, by Rubin's rules."""
    estimates = [model.parameters for model in models]
    covariances = [model.covariance for model in models]
    complete = np.mean([model.freedom for model in models], axis=0)
    found = pool(estimates, [np.diag(each) for each in covariances], complete)
    return replace(
        models[0],
        parameters=found.estimate,
        covariance=pool_covariance(estimates, covariances),
        freedom=found.freedom,
        dispersion=float(np.mean([model.dispersion for model in models])),
        note=next((model.note for model in models if model.note), ""),
        missing_information=found.missing_information,
    )


def fit_family(
    family: str, design: Design, levels: Sequence[str] | None, x: Array, y: Any, participants: pd.Series
) -> Fit:
    """A family's fit to a design with offsets or without; x (n, p) are its rows, and an offset's parameter is 1."""
    kind, columns = FAMILIES[family], design.columns
    estimated = [column for column, fixed in zip(columns, design.is_offset, strict=True) if not fixed]
    fit = kind.fit(x[:, ~design.is_offset], y, participants, x[:, design.is_offset].sum(axis=1))
    free = np.isin(kind.terms(columns, levels or ()), kind.terms(estimated, levels or ()))
    return fit.with_fixed(free)


def load_node(
    name: str, stored: Mapping[str, NDArray], design: Design, covariates: Covariates, options: ScmOptions
) -> NodeModel | None:
    """The node of which `NodeModel.arrays` are stored; None if the graph is no longer what it was fitted under.

    Args:
        stored: those arrays. design: of its formula.
    """
    family, levels = _family(name, covariates, options), covariates.levels[name]
    terms = FAMILIES[family].terms(design.columns, levels or ())
    if str(stored["family"]) != family or tuple(stored["terms"]) != terms:
        return None
    return NodeModel(
        name=name,
        family=family,
        design=design,
        levels=levels,
        terms=terms,
        parameters=stored["parameters"],
        covariance=stored["covariance"],
        freedom=stored["freedom"],
        dispersion=float(stored["dispersion"]),
        note=str(stored["note"]),
        missing_information=stored["missing_information"],
    )


def _family(name: str, covariates: Covariates, options: ScmOptions) -> str:
    """As declared; else gaussian for numbers, binomial for two levels, multinomial for more."""
    levels = covariates.levels[name]
    by_default = "gaussian" if levels is None else "binomial" if len(levels) == 2 else "multinomial"
    return options.nodes[name].family or by_default


def learn_design(name: str, values: pd.DataFrame, graph: Graph) -> Design:
    """The design of a node with a formula, on the training scans."""
    formula = graph.formulas[name]
    assert formula is not None
    return Design.learn(formula, values, f"config: scm.nodes.{name}.formula")


def noise_generator(seed: int, node: str, scan: str) -> np.random.Generator:
    """What draws a scan's noise, the same whatever other scans there are."""
    digest = hashlib.sha256(f"{seed}/{node}/{scan}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
