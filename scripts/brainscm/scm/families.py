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
from numpy.typing import NDArray

from brainscm.scm.design import Array
from brainscm.scm.robust import CR2, Sandwich, directions

# Standard deviation, in logits per standard deviation of a column, of the prior that holds a separated logit model.
PRIOR_SD = 2.5
# No real cohort moves a logit by this much within one standard deviation: the levels are separated.
SEPARATED = 10.0
# Counts that vary by this factor more, or less, than a poisson node's are told of.
OVERDISPERSED = 1.5
LEAST_ALPHA = 1e-6
MOST = 2.0**50  # no count is larger

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

    Attributes:
        has_dispersion: whether deviances are in units of a variance that the data tell.
    """

    has_dispersion: bool

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

    def deviance(self, x: Array, y: Any, parameters: Array) -> float:
        """-2 × the logarithm of the likelihood, but for what nested models share: it falls as a model fits better."""


class Gaussian:
    """y = x·b + e; the noise is the residual e."""

    has_dispersion = True

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

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        return float(np.square(y - _linear(x, parameters)).sum())


class Gamma:
    """y = exp(x·b) e with E(e) = 1; the noise is the ratio e."""

    has_dispersion = True

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

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        ratio = y / np.exp(_linear(x, parameters))
        return float(2 * (ratio - 1 - np.log(ratio)).sum())


class Poisson:
    """y = F⁻¹(u; exp(x·b)); the noise is the quantile u, uniform between F(y - 1) and F(y).

    From the median on, u is kept as -(1 - u): of a count far above its mean, F rounds to 1 and 1 - F does not.
    """

    has_dispersion = True  # of counts that vary more than poisson's, a likelihood ratio is too large

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def fit(self, x: Array, y: Array, participants: pd.Series) -> Fit:
        from statsmodels.genmod import families

        fit = _fit_glm(families.Poisson(), x, y, participants)
        mean, freedom = np.exp(_linear(x, fit.parameters)), len(x) - x.shape[1]
        dispersion = float((np.square(y - mean) / mean).sum() / freedom)
        chance = 2 * np.sqrt(2 / freedom)
        note = ""
        if dispersion > max(OVERDISPERSED, 1 + chance):
            note = (
                f"its counts vary {dispersion:.2g} times as much as poisson counts do, so that standard errors are too "
                "small and answers too sure; write family: negbinomial"
            )
        elif dispersion < min(1 / OVERDISPERSED, 1 - chance):
            note = f"its counts vary only {dispersion:.2g} times as much as poisson counts do; errors are too large"
        return replace(fit, dispersion=dispersion, note=note)

    def abduct(self, y: Array, x: Array, parameters: Array, rng: Generators) -> Array:
        uniform = np.array([r.uniform() for r in rng])
        (below, above), (to, beyond) = (self._tails(k, x, parameters) for k in (y - 1, y))
        u = below + (to - below) * uniform
        v = np.maximum(above - (above - beyond) * uniform, np.finfo(float).tiny)
        return np.where(below < 0.5, u, -v)

    def generate(self, x: Array, noise: Array, parameters: Array) -> Array:
        """The smallest count whose F is at least u, by bisection."""

        def reaches(k: Array) -> NDArray[np.bool_]:
            to, beyond = self._tails(k, x, parameters)
            return np.asarray(np.where(noise >= 0, to >= noise, beyond <= -noise), dtype=np.bool_)

        low, high = np.full(len(x), -1.0), np.ones(len(x))
        while not (enough := reaches(high) | (high > MOST)).all():
            low, high = np.where(enough, low, high), np.where(enough, high, 2 * high)
        while (high - low > 1).any():
            middle = np.floor((low + high) / 2)
            enough = reaches(middle)
            low, high = np.where(enough, low, middle), np.where(enough, np.maximum(middle, low + 1), high)
        return high

    def expected(self, x: Array, parameters: Array) -> Array:
        return np.floor(np.exp(_linear(x, parameters)))

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        mean = np.exp(_linear(x, parameters))
        return float(2 * (scipy.special.xlogy(y, y / mean) - y + mean).sum())

    def _tails(self, k: Array, x: Array, parameters: Array) -> tuple[Array, Array]:
        """P(Y ≤ k) and P(Y > k)."""
        mean = np.exp(_linear(x, parameters))
        return scipy.special.gammaincc(k + 1, mean), scipy.special.gammainc(k + 1, mean)


class NegativeBinomial(Poisson):
    """Counts of mean m = exp(x·b) and variance m + α m²; the noise is their quantile. The last parameter is log α."""

    has_dispersion = False

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return (*columns, "log dispersion")

    def fit(self, x: Array, y: Array, participants: pd.Series) -> Fit:
        """By the profile likelihood of log α; b and α are told by independent halves of the information."""
        from statsmodels.genmod import families

        def of(log_alpha: float) -> Fit:
            return _fit_glm(families.NegativeBinomial(alpha=np.exp(log_alpha)), x, y, participants)

        def loss(log_alpha: float) -> float:
            return self.deviance(x, y, np.append(of(log_alpha).parameters, log_alpha)) / 2

        bounds = (np.log(LEAST_ALPHA), np.log(1e3))
        best = float(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
        fit, step, note, variance = of(best), 0.05, "", 0.0
        curvature = (loss(best + step) - 2 * loss(best) + loss(best - step)) / step**2
        if best < np.log(10 * LEAST_ALPHA) or not curvature > 0:
            note = "its counts vary no more than poisson counts do; write family: poisson"
        else:
            variance = 1 / curvature
        return Fit(
            np.append(fit.parameters, best),
            scipy.linalg.block_diag(fit.covariance, variance),
            np.append(fit.freedom, fit.freedom.max()),
            float(np.exp(best)),
            note,
        )

    def expected(self, x: Array, parameters: Array) -> Array:
        """The most probable count."""
        return np.floor(np.exp(_linear(x, parameters[:-1])) * max(1 - np.exp(parameters[-1]), 0))

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        size, mean = np.exp(-parameters[-1]), np.exp(_linear(x, parameters[:-1]))
        return -2 * float(scipy.stats.nbinom.logpmf(y, size, size / (size + mean)).sum())

    def _tails(self, k: Array, x: Array, parameters: Array) -> tuple[Array, Array]:
        size, mean, some = np.exp(-parameters[-1]), np.exp(_linear(x, parameters[:-1])), np.maximum(k, 0)
        to = scipy.special.betainc(size, some + 1, size / (size + mean))
        beyond = scipy.special.betainc(some + 1, size, mean / (size + mean))
        return np.where(k < 0, 0.0, to), np.where(k < 0, 1.0, beyond)


class Logit:
    """y = argmax_j (x·b_j + g_j) with Gumbel noise g and b_0 = 0; two levels or more.

    The noise is drawn from its posterior given y: the largest of the sums is Gumbel about the log-sum-exp of the
    logits, the others are Gumbel cut off below it (Oberst & Sontag, 2019, Gumbel-max SCM).
    """

    has_dispersion = False

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

    def deviance(self, x: Array, y: Any, parameters: Array) -> float:
        logits = self._logits(x, parameters)
        return float(2 * (scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]).sum())

    def _logits(self, x: Array, parameters: Array) -> Array:
        blocks = parameters.reshape(-1, x.shape[1])
        return np.column_stack([np.zeros(len(x)), *(_linear(x, block) for block in blocks)])


class Ordered:
    """y counts the thresholds below x·b + e with logistic e, drawn from its posterior: cut off between thresholds."""

    has_dispersion = False

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

    def deviance(self, x: Array, y: Any, parameters: Array) -> float:
        linear, thresholds = self._parts(x, parameters)
        edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
        share = scipy.special.expit(edges[y + 1] - linear) - scipy.special.expit(edges[y] - linear)
        return float(-2 * np.log(np.maximum(share, np.finfo(float).tiny)).sum())

    def _parts(self, x: Array, parameters: Array) -> tuple[Array, Array]:
        p = x.shape[1] - 1
        first, *steps = parameters[p:]
        return _linear(x[:, 1:], parameters[:p]), first + np.concatenate([[0.0], np.cumsum(np.exp(steps))])


FAMILIES: dict[str, Family] = {
    "gaussian": Gaussian(),
    "gamma": Gamma(),
    "poisson": Poisson(),
    "negbinomial": NegativeBinomial(),
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
