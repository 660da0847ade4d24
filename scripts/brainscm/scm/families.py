"""Families of the measured nodes: how each is fitted, and the noise that makes a participant differ from its mean.

A counterfactual needs more of a generalised linear model than its mean: the scan's own noise is inferred from its
observed value (abduction) and put through the model again under new parents. Each family here says how. What values a
family takes stands in `brainscm.config.FAMILY_VALUES`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats

from brainscm.scm.design import Array
from brainscm.scm.robust import CR2, Sandwich, directions

# Standard deviation, in logits per standard deviation of a column, of the prior that holds a separated logit model.
PRIOR_SD = 2.5
# No real cohort moves a logit by this much within one standard deviation: the levels are separated.
SEPARATED = 10.0

Generators = Iterable[np.random.Generator]  # one a scan


@dataclass(frozen=True)
class Fit:
    """Parameters (k,), their covariance (k, k), its degrees of freedom (k,) and more: see `NodeModel`."""

    parameters: Array
    covariance: Array
    freedom: Array
    dispersion: float = 1.0
    note: str = ""

    def mapped(self, back: Array) -> Fit:
        return replace(self, parameters=back @ self.parameters, covariance=back @ self.covariance @ back.T)


class Family(Protocol):
    """One kind of node (docs/explanation/method.md, "Measured nodes").

    x (n, p) are design rows, y (n,) numbers or levels' numbers.

    Each method treats a scan alone as among others.
    """

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        """Names of the parameters (k,), for a design with these columns; `levels` is empty for numbers."""

    def fit(self, x: Array, y: Any, participants: pd.Series) -> Fit:
        """Maximum likelihood; not finite where it does not converge. `participants`: (n,) whose scan each row is."""

    def abduct(self, y: Any, x: Array, parameters: Array, rng: Generators) -> Array:
        """Noise (n, ...) that explains the observed y under the design rows x; what it leaves open comes from rng."""

    def generate(self, x: Array, noise: Array, parameters: Array) -> Any:
        """Values (n,) that the design rows x give with that noise."""

    def expected(self, x: Array, parameters: Array) -> Any:
        """The mean (n,) at the design rows x; of a discrete family the most probable value."""


class Gaussian:
    """y = x·b + e; the noise is the residual e."""

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def fit(self, x: Array, y: Array, participants: pd.Series) -> Fit:
        from statsmodels.genmod import families

        return _fit_glm(families.Gaussian(), x, y, participants)

    def abduct(self, y: Array, x: Array, parameters: Array, rng: Generators) -> Array:
        return y - _linear(x, parameters)

    def generate(self, x: Array, noise: Array, parameters: Array) -> Array:
        return _linear(x, parameters) + noise

    def expected(self, x: Array, parameters: Array) -> Array:
        return _linear(x, parameters)


class Gamma:
    """y = exp(x·b) e with E(e) = 1; the noise is the ratio e."""

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def fit(self, x: Array, y: Array, participants: pd.Series) -> Fit:
        from statsmodels.genmod import families

        return _fit_glm(families.Gamma(families.links.Log()), x, y, participants)

    def abduct(self, y: Array, x: Array, parameters: Array, rng: Generators) -> Array:
        return y / np.exp(_linear(x, parameters))

    def generate(self, x: Array, noise: Array, parameters: Array) -> Array:
        return np.exp(_linear(x, parameters)) * noise

    def expected(self, x: Array, parameters: Array) -> Array:
        return np.exp(_linear(x, parameters))


class Poisson:
    """y = F⁻¹(u; exp(x·b)); the noise is the quantile u, uniform between F(y - 1) and F(y)."""

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def fit(self, x: Array, y: Array, participants: pd.Series) -> Fit:
        from statsmodels.genmod import families

        return _fit_glm(families.Poisson(), x, y, participants)

    def abduct(self, y: Array, x: Array, parameters: Array, rng: Generators) -> Array:
        mean = np.exp(_linear(x, parameters))
        low, high = scipy.stats.poisson.cdf(y - 1, mean), scipy.stats.poisson.cdf(y, mean)
        return low + (high - low) * np.array([r.uniform() for r in rng])

    def generate(self, x: Array, noise: Array, parameters: Array) -> Array:
        return scipy.stats.poisson.ppf(noise, np.exp(_linear(x, parameters)))

    def expected(self, x: Array, parameters: Array) -> Array:
        return np.floor(np.exp(_linear(x, parameters)))


class Logit:
    """y = argmax_j (x·b_j + g_j) with Gumbel noise g and b_0 = 0; two levels or more.

    The noise is drawn from its posterior given y: the largest of the sums is Gumbel about the log-sum-exp of the
    logits, the others are Gumbel cut off below it (Oberst & Sontag, 2019, Gumbel-max SCM).
    """

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{level}: {column}" for level in levels[1:] for column in columns)

    def fit(self, x: Array, y: Any, participants: pd.Series) -> Fit:
        from statsmodels.discrete.discrete_model import MNLogit

        z, back = _orthonormal(x)
        model = MNLogit(y, z)
        count = model.J - 1
        return _maximise(model, participants, method="newton").mapped(scipy.linalg.block_diag(*[back] * count))

    def abduct(self, y: Any, x: Array, parameters: Array, rng: Generators) -> Array:
        logits = self._logits(x, parameters)
        u = np.array([r.uniform(1e-12, 1, size=logits.shape[1]) for r in rng])
        rows = np.arange(len(y))
        top = scipy.special.logsumexp(logits, axis=1) - np.log(-np.log(u[rows, y]))
        sums = logits - np.log(np.exp(logits - top[:, None]) - np.log(u))
        sums[rows, y] = top
        return sums - logits

    def generate(self, x: Array, noise: Array, parameters: Array) -> Any:
        return np.argmax(self._logits(x, parameters) + noise, axis=1)

    def expected(self, x: Array, parameters: Array) -> Any:
        return np.argmax(self._logits(x, parameters), axis=1)

    def _logits(self, x: Array, parameters: Array) -> Array:
        blocks = parameters.reshape(-1, x.shape[1])
        return np.column_stack([np.zeros(len(x)), *(_linear(x, block) for block in blocks)])


class Ordered:
    """y counts the thresholds below x·b + e with logistic e, drawn from its posterior: cut off between thresholds."""

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        steps = [f"log step to threshold {a}|{b}" for a, b in itertools.pairwise(levels[1:])]
        return (*columns[1:], f"threshold {levels[0]}|{levels[1]}", *steps)

    def fit(self, x: Array, y: Any, participants: pd.Series) -> Fit:
        from statsmodels.miscmodels.ordinal_model import OrderedModel

        mean = x[:, 1:].mean(axis=0)
        z, inverse = _orthonormal(x[:, 1:] - mean)
        fit = _maximise(OrderedModel(y, z, distr="logit"), participants, method="bfgs")
        back = scipy.linalg.block_diag(inverse, np.eye(len(fit.parameters) - len(inverse)))
        back[len(inverse), : len(inverse)] = mean @ inverse  # thresholds of x, not of x - mean
        return fit.mapped(back)

    def abduct(self, y: Any, x: Array, parameters: Array, rng: Generators) -> Array:
        linear, thresholds = self._parts(x, parameters)
        edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
        low, high = scipy.special.expit(edges[y] - linear), scipy.special.expit(edges[y + 1] - linear)
        u = low + (high - low) * np.array([r.uniform(1e-12, 1 - 1e-12) for r in rng])
        return scipy.special.logit(u)

    def generate(self, x: Array, noise: Array, parameters: Array) -> Any:
        linear, thresholds = self._parts(x, parameters)
        return np.searchsorted(thresholds, linear + noise, side="left")

    def expected(self, x: Array, parameters: Array) -> Any:
        linear, thresholds = self._parts(x, parameters)
        below = scipy.special.expit(thresholds - linear[:, None])
        return np.argmax(np.diff(below, axis=1, prepend=0, append=1), axis=1)

    def _parts(self, x: Array, parameters: Array) -> tuple[Array, Array]:
        p = x.shape[1] - 1
        first, *steps = parameters[p:]
        return _linear(x[:, 1:], parameters[:p]), first + np.concatenate([[0.0], np.cumsum(np.exp(steps))])


FAMILIES: dict[str, Family] = {
    "gaussian": Gaussian(),
    "gamma": Gamma(),
    "poisson": Poisson(),
    "binomial": Logit(),
    "multinomial": Logit(),
    "ordered": Ordered(),
}


def _orthonormal(x: Array) -> tuple[Array, Array]:
    """Columns z (n, p) that make a fit the same for age in years or days, and `back` from their parameters to x's."""
    q, r = np.linalg.qr(x)
    return q * np.sqrt(len(x)), np.linalg.inv(r) * np.sqrt(len(x))


def _fit_glm(family: Any, x: Array, y: Array, participants: pd.Series) -> Fit:
    """One of statsmodels' families of generalised linear models."""
    from statsmodels.genmod.generalized_linear_model import GLM

    z, back = _orthonormal(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = GLM(y, z, family=family).fit(maxiter=200, tol=1e-12)
    parameters = result.params if result.converged else np.full(z.shape[1], np.nan)
    covariance, freedom = result.cov_params(), np.full(z.shape[1], float(result.df_resid))
    if result.converged and participants.nunique() < len(participants):
        root = np.sqrt(family.weights(result.mu))
        residual = root * (y - result.mu) * family.link.deriv(result.mu)
        covariance, freedom = _clustered(root[:, None] * z, residual, back, participants, float(result.scale))
    return Fit(parameters, covariance, freedom, float(result.scale)).mapped(back)


def _clustered(z: Array, residual: Array, back: Array, participants: pd.Series, scale: float) -> tuple[Array, Array]:
    """Covariance (p, p) of the coefficients of z, and degrees of freedom of each parameter that `back` makes of them.

    CR2 by participant, at the last step of iteratively reweighted least squares (Pustejovsky & Tipton, 2018).

    Args:
        z: (n, p) weighted rows. residual: (n,) weighted. scale: variance of a residual.
    """
    q, r = np.linalg.qr(z)
    sandwich = Sandwich.of(q, participants.astype(str).tolist(), CR2)
    scores = np.zeros((sandwich.codes.max() + 1, q.shape[1]))
    np.add.at(scores, sandwich.codes, sandwich.weights(q) * residual[:, None])
    fitted = sandwich.fitted.T @ q  # what a participant decides alone has the variance of the other scans
    inverse = scipy.linalg.solve_triangular(r, np.eye(len(r)))
    covariance = inverse @ (scores.T @ scores + scale * fitted.T @ fitted) @ inverse.T
    tested = [q @ directions(r, row[None])[0] for row in back]
    freedom = [np.nan if sandwich.decider(each) is not None else sandwich.freedom(each) for each in tested]
    return covariance, np.array(freedom)


def _maximise(model: Any, participants: pd.Series, method: str) -> Fit:
    """Maximum likelihood; where the levels are separated, so that there is none, a normal prior holds the slopes."""
    freedom = float(max(participants.nunique() - model.exog.shape[1], 1))
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
            return Fit(parameters, covariance, np.full(len(parameters), freedom))
    parameters, covariance = _posterior_mode(model)
    note = "its parents separate some levels almost perfectly; a weak normal prior holds the coefficients"
    return Fit(parameters, covariance, np.full(len(parameters), freedom), note=note)


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
