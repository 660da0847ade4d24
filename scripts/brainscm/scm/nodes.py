"""The measured nodes: a generalised linear model each, and the noise that makes a person differ from its prediction.

A counterfactual needs more of a GLM than its mean: the scan's own noise is inferred from its observed value
(abduction) and put through the model again under new parents. Each family here says how.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats

from brainscm.config import ScmOptions
from brainscm.errors import ConfigError
from brainscm.scm.covariates import Covariates
from brainscm.scm.design import Array, Design
from brainscm.scm.graph import Graph

logger = logging.getLogger("brainscm")

# Standard deviation, in logits per standard deviation of a column, of the prior that holds a separated logit model.
PRIOR_SD = 2.5
# No real cohort moves a logit by this much within one standard deviation: the levels are separated.
SEPARATED = 10.0


@dataclass(frozen=True)
class NodeModel:
    """One fitted node.

    Attributes:
        name, family: as declared (or defaulted).
        design: of its formula, learnt on the training scans.
        levels: of a discrete node, reference first.
        terms: name of each parameter.
        parameters: (k,); covariance: (k, k), robust to several scans a person where there are such.
        dispersion: residual variance (gaussian), squared coefficient of variation (gamma), else 1.
        note: what the user should know about the fit; "" if nothing.
    """

    name: str
    family: str
    design: Design
    levels: tuple[str, ...] | None
    terms: tuple[str, ...]
    parameters: Array
    covariance: Array
    dispersion: float
    note: str = ""

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
        observed = factual[self.name][moved]
        y = observed.cat.codes.to_numpy() if self.levels is not None else observed.to_numpy(dtype=float)
        family, index = FAMILIES[self.family], scans[moved]
        noise = family.abduct(y, x[moved], self, (_generator(seed, self.name, scan) for scan in index))
        y_new = family.generate(x_new[moved], noise, self)
        result[moved] = np.array(self.levels, dtype=object)[y_new] if self.levels is not None else y_new
        return result

    def expected(self, values: pd.DataFrame) -> Any:
        """The mean of the node given its parents, or its most probable level; (n,), for scans that lack the node."""
        y = FAMILIES[self.family].expected(self.design.matrix(values), self)
        return np.array(self.levels, dtype=object)[y] if self.levels is not None else y

    def draw(self, normals: Array) -> NodeModel:
        """The same node with parameters drawn from their sampling distribution; `normals` is (k,) standard normal."""
        eigenvalues, vectors = np.linalg.eigh(self.covariance)
        step = vectors @ (np.sqrt(np.maximum(eigenvalues, 0)) * normals)
        return replace(self, parameters=self.parameters + step)

    def table(self) -> pd.DataFrame:
        """The table that a statistician expects: estimate, standard error, z, p and 95 % interval of each parameter."""
        error = np.sqrt(np.diag(self.covariance))
        with np.errstate(divide="ignore", invalid="ignore"):
            z = self.parameters / error
        return pd.DataFrame(
            {
                "node": self.name,
                "family": self.family,
                "formula": self.design.formula.text,
                "term": self.terms,
                "estimate": self.parameters,
                "standard_error": error,
                "z": z,
                "p": 2 * scipy.stats.norm.sf(np.abs(z)),
                "ci95_low": self.parameters - 1.959963984540054 * error,
                "ci95_high": self.parameters + 1.959963984540054 * error,
                "dispersion": self.dispersion,
                "note": self.note or None,
            }
        )


class Family(Protocol):
    """How one kind of node is fitted, abducted and generated (docs/explanation/method.md, "Measured nodes")."""

    def abduct(self, y: Any, x: Array, node: NodeModel, rng: Iterable[np.random.Generator]) -> Array:
        """Noise (n, ...) that explains the observed y under the design rows x; what it leaves open comes from rng."""

    def generate(self, x: Array, noise: Array, node: NodeModel) -> Any:
        """Values (n,) that the design rows x give with that noise."""

    def expected(self, x: Array, node: NodeModel) -> Any:
        """The mean (n,) at the design rows x; of a discrete family the most probable value."""


class Gaussian:
    """y = x·b + e; the noise is the residual e."""

    def abduct(self, y: Array, x: Array, node: NodeModel, rng: Iterable[np.random.Generator]) -> Array:
        return y - _linear(x, node.parameters)

    def generate(self, x: Array, noise: Array, node: NodeModel) -> Array:
        return _linear(x, node.parameters) + noise

    def expected(self, x: Array, node: NodeModel) -> Array:
        return _linear(x, node.parameters)


class Gamma:
    """y = exp(x·b) e with E(e) = 1; the noise is the ratio e."""

    def abduct(self, y: Array, x: Array, node: NodeModel, rng: Iterable[np.random.Generator]) -> Array:
        return y / np.exp(_linear(x, node.parameters))

    def generate(self, x: Array, noise: Array, node: NodeModel) -> Array:
        return np.exp(_linear(x, node.parameters)) * noise

    def expected(self, x: Array, node: NodeModel) -> Array:
        return np.exp(_linear(x, node.parameters))


class Poisson:
    """y = F⁻¹(u; exp(x·b)); the noise is the quantile u, uniform between F(y - 1) and F(y)."""

    def abduct(self, y: Array, x: Array, node: NodeModel, rng: Iterable[np.random.Generator]) -> Array:
        mean = np.exp(_linear(x, node.parameters))
        low, high = scipy.stats.poisson.cdf(y - 1, mean), scipy.stats.poisson.cdf(y, mean)
        return low + (high - low) * np.array([r.uniform() for r in rng])

    def generate(self, x: Array, noise: Array, node: NodeModel) -> Array:
        return scipy.stats.poisson.ppf(noise, np.exp(_linear(x, node.parameters)))

    def expected(self, x: Array, node: NodeModel) -> Array:
        return np.floor(np.exp(_linear(x, node.parameters)))


class Logit:
    """y = argmax_j (x·b_j + g_j) with Gumbel noise g and b_0 = 0; two levels or more.

    The noise is drawn from its posterior given y: the largest of the sums is Gumbel about the log-sum-exp of the
    logits, the others are Gumbel cut off below it (Oberst & Sontag, 2019, Gumbel-max SCM).
    """

    def abduct(self, y: Any, x: Array, node: NodeModel, rng: Iterable[np.random.Generator]) -> Array:
        logits = self._logits(x, node)
        u = np.array([r.uniform(1e-12, 1, size=logits.shape[1]) for r in rng])
        rows = np.arange(len(y))
        top = scipy.special.logsumexp(logits, axis=1) - np.log(-np.log(u[rows, y]))
        sums = logits - np.log(np.exp(logits - top[:, None]) - np.log(u))
        sums[rows, y] = top
        return sums - logits

    def generate(self, x: Array, noise: Array, node: NodeModel) -> Any:
        return np.argmax(self._logits(x, node) + noise, axis=1)

    def expected(self, x: Array, node: NodeModel) -> Any:
        return np.argmax(self._logits(x, node), axis=1)

    def _logits(self, x: Array, node: NodeModel) -> Array:
        blocks = node.parameters.reshape(-1, x.shape[1])
        return np.column_stack([np.zeros(len(x)), *(_linear(x, block) for block in blocks)])


class Ordered:
    """y counts the thresholds below x·b + e with logistic e, drawn from its posterior: cut off between thresholds."""

    def abduct(self, y: Any, x: Array, node: NodeModel, rng: Iterable[np.random.Generator]) -> Array:
        linear, thresholds = self._parts(x, node)
        edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
        low, high = scipy.special.expit(edges[y] - linear), scipy.special.expit(edges[y + 1] - linear)
        u = low + (high - low) * np.array([r.uniform(1e-12, 1 - 1e-12) for r in rng])
        return scipy.special.logit(u)

    def generate(self, x: Array, noise: Array, node: NodeModel) -> Any:
        linear, thresholds = self._parts(x, node)
        return np.searchsorted(thresholds, linear + noise, side="left")

    def expected(self, x: Array, node: NodeModel) -> Any:
        linear, thresholds = self._parts(x, node)
        below = scipy.special.expit(thresholds - linear[:, None])
        return np.argmax(np.diff(below, axis=1, prepend=0, append=1), axis=1)

    def _parts(self, x: Array, node: NodeModel) -> tuple[Array, Array]:
        p = x.shape[1] - 1
        first, *steps = node.parameters[p:]
        return _linear(x[:, 1:], node.parameters[:p]), first + np.concatenate([[0.0], np.cumsum(np.exp(steps))])


FAMILIES: dict[str, Family] = {
    "gaussian": Gaussian(),
    "gamma": Gamma(),
    "poisson": Poisson(),
    "binomial": Logit(),
    "multinomial": Logit(),
    "ordered": Ordered(),
}


def fit_node(
    name: str, values: pd.DataFrame, participants: pd.Series, graph: Graph, covariates: Covariates, options: ScmOptions
) -> NodeModel:
    """Fit one node with parents by maximum likelihood (statsmodels).

    Args:
        name: of a node with a formula.
        values: training scans' node values (`Covariates.read`).
        participants: of the same rows; standard errors are cluster-robust where a participant has several.

    Raises:
        ConfigError: the design is unusable or the fit does not converge.
    """
    where = f"config: scm.nodes.{name}.formula"
    formula = graph.formulas[name]
    assert formula is not None
    design = Design.learn(formula, values, where)
    levels = covariates.levels[name]
    family = options.nodes[name].family or (
        "gaussian" if levels is None else "binomial" if len(levels) == 2 else "multinomial"
    )
    x = design.matrix(values)
    y = values[name].cat.codes.to_numpy() if levels is not None else values[name].to_numpy()
    # Orthonormal columns make the fit the same for age in years or days; `back` returns to the user's columns.
    fitted = _fit_ordered(x, y, participants) if family == "ordered" else _fit_glm(family, x, y, participants)
    if not (np.isfinite(fitted.parameters).all() and np.isfinite(fitted.covariance).all()):
        raise ConfigError(f"{where}: the {family} model does not converge; take a term out or merge levels.")
    if fitted.note:
        logger.warning("node %s: %s", name, fitted.note)
    terms = parameter_names(family, design, levels)
    return NodeModel(
        name, family, design, levels, terms, fitted.parameters, fitted.covariance, fitted.dispersion, fitted.note
    )


def parameter_names(family: str, design: Design, levels: tuple[str, ...] | None) -> tuple[str, ...]:
    """Name a node's parameters in the order in which `NodeModel.parameters` holds them."""
    if levels is None:
        return design.columns
    if family == "ordered":
        steps = [f"log step to threshold {a}|{b}" for a, b in itertools.pairwise(levels[1:])]
        return (*design.columns[1:], f"threshold {levels[0]}|{levels[1]}", *steps)
    return tuple(f"{level}: {column}" for level in levels[1:] for column in design.columns)


@dataclass(frozen=True)
class _Fit:
    parameters: Array
    covariance: Array
    dispersion: float = 1.0
    note: str = ""

    def mapped(self, back: Array) -> _Fit:
        return replace(self, parameters=back @ self.parameters, covariance=back @ self.covariance @ back.T)


def _fit_glm(family: str, x: Array, y: Any, participants: pd.Series) -> _Fit:
    import statsmodels.api as sm

    q, r = np.linalg.qr(x)
    z, back = q * np.sqrt(len(x)), np.linalg.inv(r) * np.sqrt(len(x))
    if family in ("binomial", "multinomial"):
        model = sm.MNLogit(y, z)
        count = model.J - 1
        return _maximise(model, participants, method="newton").mapped(scipy.linalg.block_diag(*[back] * count))
    kinds = {
        "gaussian": sm.families.Gaussian(),
        "gamma": sm.families.Gamma(sm.families.links.Log()),
        "poisson": sm.families.Poisson(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sm.GLM(y, z, family=kinds[family]).fit(maxiter=200, tol=1e-12, **_errors(participants))
    parameters = result.params if result.converged else np.full(z.shape[1], np.nan)
    dispersion = float(result.scale) if family != "poisson" else 1.0
    return _Fit(parameters, result.cov_params(), dispersion).mapped(back)


def _fit_ordered(x: Array, y: Any, participants: pd.Series) -> _Fit:
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    mean = x[:, 1:].mean(axis=0)
    q, r = np.linalg.qr(x[:, 1:] - mean)
    z, inverse = q * np.sqrt(len(x)), np.linalg.inv(r) * np.sqrt(len(x))
    fit = _maximise(OrderedModel(y, z, distr="logit"), participants, method="bfgs")
    back = scipy.linalg.block_diag(inverse, np.eye(len(fit.parameters) - len(inverse)))
    back[len(inverse), : len(inverse)] = mean @ inverse  # thresholds of x, not of x - mean
    return fit.mapped(back)


def _maximise(model: Any, participants: pd.Series, method: str) -> _Fit:
    """Maximum likelihood; where the levels are separated, so that there is none, a normal prior holds the slopes."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            result = model.fit(method=method, maxiter=500, disp=False, **_errors(participants))
            parameters = np.asarray(result.params).ravel(order="F")
            covariance = np.asarray(result.cov_params())
            converged = bool(result.mle_retvals["converged"]) and np.isfinite(covariance).all()
        except Exception:  # statsmodels: perfect separation or a singular Hessian, by several exception types
            converged = False
        if converged and np.abs(parameters).max() < SEPARATED:
            return _Fit(parameters, covariance)
    parameters, covariance = _posterior_mode(model)
    note = "its parents separate some levels almost perfectly; a weak normal prior holds the coefficients"
    return _Fit(parameters, covariance, note=note)


def _posterior_mode(model: Any) -> tuple[Array, Array]:
    """Mode and curvature of the likelihood times a normal prior on every coefficient."""
    start = np.asarray(getattr(model, "start_params", np.zeros(model.exog.shape[1] * (getattr(model, "J", 2) - 1))))
    start = np.where(np.isfinite(start), start, 0.0).ravel()

    def loss(b: Array) -> float:
        return float(-model.loglike(b) + 0.5 * b @ b / PRIOR_SD**2)

    def slope(b: Array) -> Array:
        return -np.asarray(model.score(b)).ravel(order="F") + b / PRIOR_SD**2

    with np.errstate(all="ignore"):
        mode = scipy.optimize.minimize(loss, start, jac=slope, method="BFGS", options={"gtol": 1e-7, "maxiter": 1000}).x
        curvature = -np.asarray(model.hessian(mode)) + np.eye(len(mode)) / PRIOR_SD**2
    return np.asarray(mode), np.asarray(np.linalg.pinv(curvature), dtype=np.float64)


def _errors(participants: pd.Series) -> dict[str, Any]:
    if participants.nunique() == len(participants):
        return {}
    return {"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(participants)[0]}}


def _linear(x: Array, parameters: Array) -> Array:
    """x·b row by row, the same to the last bit for one row as for many (a BLAS product is not)."""
    return (x * parameters).sum(axis=1)


def _generator(seed: int, node: str, scan: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{node}/{scan}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
