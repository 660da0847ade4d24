"""Families of the measured nodes: how each is fitted, and the noise that makes a participant differ from its mean.

A counterfactual needs more of a generalised linear model than its mean: the scan's own noise is inferred from its
observed value (abduction) and put through the model again under new parents. Each family here says how. What values a
family takes stands in `brainscm.config.FAMILY_VALUES`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
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
# Probabilities (n, levels) that parameters (k,) give, and their derivatives (n, levels, k).
Chances = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Fit:
    """Parameters (k,), their covariance (k, k), its degrees of freedom (k,) and more: see `NodeModel`."""

    parameters: Array
    covariance: Array
    freedom: Array
    dispersion: float = 1.0
    note: str = ""

    @property
    def estimated(self) -> int:
        """How many parameters are not those of an offset."""
        return int(np.count_nonzero(np.diag(self.covariance)))

    def mapped(self, back: Array) -> Fit:
        return replace(self, parameters=back @ self.parameters, covariance=back @ self.covariance @ back.T)

    def with_fixed(self, free: NDArray[np.bool_]) -> Fit:
        """With parameters of 1 put in between where `free` (terms,) says that they were not estimated."""
        parameters, freedom = np.ones(len(free)), np.full(len(free), np.nan)
        covariance = np.zeros((len(free), len(free)))
        parameters[free], freedom[free], covariance[np.ix_(free, free)] = (
            self.parameters,
            self.freedom,
            self.covariance,
        )
        return replace(self, parameters=parameters, covariance=covariance, freedom=freedom)


class Family(Protocol):
    """One kind of node (docs/explanation/method.md, "Measured nodes").

    x (n, p) are design rows, y (n,) numbers or levels' numbers. An offset is a column of x whose parameter is 1.

    Each method but `fit` and `likeliest_dispersion` treats a scan alone as among others.

    Attributes:
        has_dispersion: whether deviances are in units of a variance that the data tell.
        estimates_dispersion: whether the likelihood has a dispersion besides the parameters.
    """

    has_dispersion: bool
    estimates_dispersion: bool

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        """Names of the parameters (k,), for a design with these columns; `levels` is empty for numbers."""

    def fit(self, x: Array, y: Any, participants: pd.Series, offset: Array) -> Fit:
        """Maximum likelihood; not finite where it does not converge.

        Args:
            participants: (n,) whose scan each row is. offset: (n,) what is added to x·b, which x does not hold.
        """

    def abduct(self, y: Any, x: Array, parameters: Array, rng: Generators) -> Array:
        """Noise (n, ...) that explains the observed y under the design rows x; what it leaves open comes from rng."""

    def generate(self, x: Array, noise: Array, parameters: Array) -> Any:
        """Values (n,) that the design rows x give with that noise."""

    def sample(self, x: Array, parameters: Array, dispersion: float, rng: np.random.Generator) -> Any:
        """Values (n,) drawn at the design rows x."""

    def expected(self, x: Array, parameters: Array) -> Any:
        """The mean (n,) at the design rows x; of a discrete family the most probable value."""

    def mean(self, x: Array, parameters: Array) -> Array:
        """The mean (n,) of numbers, counts too; NaN of levels."""

    def working(self, x: Array, y: Any, parameters: Array) -> tuple[Array, Array]:
        """Rows (n, m, k) and residuals (n, m) of the weighted least squares that the last step of the fit is.

        The residuals have the variance of the dispersion, or 1; a negbinomial node's log α has no column.
        """

    def deviance(self, x: Array, y: Any, parameters: Array) -> float:
        """-2 × the logarithm of the likelihood, but for what nested models share: it falls as a model fits better."""

    def likeliest_dispersion(self, x: Array, y: Any, parameters: Array) -> float:
        """The dispersion of the largest likelihood; 1 where it has none."""

    def log_likelihood(self, x: Array, y: Any, parameters: Array, dispersion: float) -> Array:
        """The logarithm of the density or probability of each y, (n,)."""

    def distribution(self, x: Array, y: Any, parameters: Array, dispersion: float) -> tuple[Array, Array]:
        """P(Y < y) and P(Y ≤ y), (n,) each; of levels in their order."""


class Gaussian:
    """y = x·b + e; the noise is the residual e."""

    has_dispersion = True
    estimates_dispersion = True

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def fit(self, x: Array, y: Array, participants: pd.Series, offset: Array) -> Fit:
        from statsmodels.genmod import families

        return _fit_glm(families.Gaussian(), x, y, participants, offset)

    def abduct(self, y: Array, x: Array, parameters: Array, rng: Generators) -> Array:
        return y - _linear(x, parameters)

    def generate(self, x: Array, noise: Array, parameters: Array) -> Array:
        return _linear(x, parameters) + noise

    def sample(self, x: Array, parameters: Array, dispersion: float, rng: np.random.Generator) -> Array:
        return rng.normal(_linear(x, parameters), np.sqrt(dispersion))

    def expected(self, x: Array, parameters: Array) -> Array:
        return self.mean(x, parameters)

    def mean(self, x: Array, parameters: Array) -> Array:
        return _linear(x, parameters)

    def working(self, x: Array, y: Array, parameters: Array) -> tuple[Array, Array]:
        return x[:, None], (y - _linear(x, parameters))[:, None]

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        return float(np.square(y - _linear(x, parameters)).sum())

    def likeliest_dispersion(self, x: Array, y: Array, parameters: Array) -> float:
        return float(np.square(y - _linear(x, parameters)).mean())

    def log_likelihood(self, x: Array, y: Array, parameters: Array, dispersion: float) -> Array:
        return np.asarray(scipy.stats.norm.logpdf(y, _linear(x, parameters), np.sqrt(dispersion)))

    def distribution(self, x: Array, y: Array, parameters: Array, dispersion: float) -> tuple[Array, Array]:
        to = np.asarray(scipy.stats.norm.cdf(y, _linear(x, parameters), np.sqrt(dispersion)))
        return to, to


class Gamma:
    """y = exp(x·b) e with E(e) = 1; the noise is the ratio e."""

    has_dispersion = True
    estimates_dispersion = True

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def fit(self, x: Array, y: Array, participants: pd.Series, offset: Array) -> Fit:
        from statsmodels.genmod import families

        return _fit_glm(families.Gamma(families.links.Log()), x, y, participants, offset)

    def abduct(self, y: Array, x: Array, parameters: Array, rng: Generators) -> Array:
        return y / np.exp(_linear(x, parameters))

    def generate(self, x: Array, noise: Array, parameters: Array) -> Array:
        return np.exp(_linear(x, parameters)) * noise

    def sample(self, x: Array, parameters: Array, dispersion: float, rng: np.random.Generator) -> Array:
        return np.exp(_linear(x, parameters)) * rng.gamma(1 / dispersion, dispersion, len(x))

    def expected(self, x: Array, parameters: Array) -> Array:
        return self.mean(x, parameters)

    def mean(self, x: Array, parameters: Array) -> Array:
        return np.exp(_linear(x, parameters))

    def working(self, x: Array, y: Array, parameters: Array) -> tuple[Array, Array]:
        return x[:, None], (y / np.exp(_linear(x, parameters)) - 1)[:, None]

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        ratio = y / np.exp(_linear(x, parameters))
        return float(2 * (ratio - 1 - np.log(ratio)).sum())

    def likeliest_dispersion(self, x: Array, y: Array, parameters: Array) -> float:
        """1/k with log k - ψ(k) equal to half of the mean deviance."""
        half = self.deviance(x, y, parameters) / len(y) / 2

        def lacking(log_shape: float) -> float:
            return float(log_shape - scipy.special.digamma(np.exp(log_shape)) - half)

        return float(np.exp(-scipy.optimize.brentq(lacking, -20, 25)))

    def log_likelihood(self, x: Array, y: Array, parameters: Array, dispersion: float) -> Array:
        mean = np.exp(_linear(x, parameters))
        return np.asarray(scipy.stats.gamma.logpdf(y, 1 / dispersion, scale=mean * dispersion))

    def distribution(self, x: Array, y: Array, parameters: Array, dispersion: float) -> tuple[Array, Array]:
        to = scipy.special.gammainc(1 / dispersion, y / np.exp(_linear(x, parameters)) / dispersion)
        return to, to


class Poisson:
    """y = F⁻¹(u; exp(x·b)); the noise is the quantile u, uniform between F(y - 1) and F(y).

    From the median on, u is kept as -(1 - u): of a count far above its mean, F rounds to 1 and 1 - F does not.
    """

    has_dispersion = True  # of counts that vary more than poisson's, a likelihood ratio is too large
    estimates_dispersion = False

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def fit(self, x: Array, y: Array, participants: pd.Series, offset: Array) -> Fit:
        from statsmodels.genmod import families

        fit = _fit_glm(families.Poisson(), x, y, participants, offset)
        mean, freedom = np.exp(_linear(x, fit.parameters) + offset), len(x) - x.shape[1]
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

    def sample(self, x: Array, parameters: Array, dispersion: float, rng: np.random.Generator) -> Array:
        return rng.poisson(self.mean(x, parameters)).astype(np.float64)

    def expected(self, x: Array, parameters: Array) -> Array:
        return np.floor(self.mean(x, parameters))

    def mean(self, x: Array, parameters: Array) -> Array:
        return np.exp(_linear(x, parameters))

    def working(self, x: Array, y: Array, parameters: Array) -> tuple[Array, Array]:
        return _working_counts(x, y, np.exp(_linear(x, parameters)), 0.0)

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        mean = np.exp(_linear(x, parameters))
        return float(2 * (scipy.special.xlogy(y, y / mean) - y + mean).sum())

    def likeliest_dispersion(self, x: Array, y: Array, parameters: Array) -> float:
        return 1.0

    def log_likelihood(self, x: Array, y: Array, parameters: Array, dispersion: float) -> Array:
        return np.asarray(scipy.stats.poisson.logpmf(y, np.exp(_linear(x, parameters))))

    def distribution(self, x: Array, y: Array, parameters: Array, dispersion: float) -> tuple[Array, Array]:
        return self._tails(y - 1, x, parameters)[0], self._tails(y, x, parameters)[0]

    def _tails(self, k: Array, x: Array, parameters: Array) -> tuple[Array, Array]:
        """P(Y ≤ k) and P(Y > k)."""
        mean = np.exp(_linear(x, parameters))
        return scipy.special.gammaincc(k + 1, mean), scipy.special.gammainc(k + 1, mean)


class NegativeBinomial(Poisson):
    """Counts of mean m = exp(x·b) and variance m + α m²; the noise is their quantile. The last parameter is log α."""

    has_dispersion = False

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return (*columns, "log dispersion")

    def fit(self, x: Array, y: Array, participants: pd.Series, offset: Array) -> Fit:
        """By the profile likelihood of log α; b and α are told by independent halves of the information."""
        from statsmodels.genmod import families

        whole = np.column_stack([x, offset])

        def of(log_alpha: float) -> Fit:
            return _fit_glm(families.NegativeBinomial(alpha=np.exp(log_alpha)), x, y, participants, offset)

        def loss(log_alpha: float) -> float:
            return self.deviance(whole, y, np.append(of(log_alpha).parameters, [1.0, log_alpha])) / 2

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

    def sample(self, x: Array, parameters: Array, dispersion: float, rng: np.random.Generator) -> Array:
        alpha = np.exp(parameters[-1])
        return rng.poisson(self.mean(x, parameters) * rng.gamma(1 / alpha, alpha, len(x))).astype(np.float64)

    def expected(self, x: Array, parameters: Array) -> Array:
        """The most probable count."""
        return np.floor(self.mean(x, parameters) * max(1 - np.exp(parameters[-1]), 0))

    def mean(self, x: Array, parameters: Array) -> Array:
        return np.exp(_linear(x, parameters[:-1]))

    def working(self, x: Array, y: Array, parameters: Array) -> tuple[Array, Array]:
        return _working_counts(x, y, np.exp(_linear(x, parameters[:-1])), np.exp(parameters[-1]))

    def deviance(self, x: Array, y: Array, parameters: Array) -> float:
        return -2 * float(self.log_likelihood(x, y, parameters, 1.0).sum())

    def log_likelihood(self, x: Array, y: Array, parameters: Array, dispersion: float) -> Array:
        size, mean = np.exp(-parameters[-1]), np.exp(_linear(x, parameters[:-1]))
        return np.asarray(scipy.stats.nbinom.logpmf(y, size, size / (size + mean)))

    def _tails(self, k: Array, x: Array, parameters: Array) -> tuple[Array, Array]:
        size, mean, some = np.exp(-parameters[-1]), np.exp(_linear(x, parameters[:-1])), np.maximum(k, 0)
        to = scipy.special.betainc(size, some + 1, size / (size + mean))
        beyond = scipy.special.betainc(some + 1, size, mean / (size + mean))
        return np.where(k < 0, 0.0, to), np.where(k < 0, 1.0, beyond)


class _Levels:
    """What the families of levels share. Each says how probable its levels are."""

    has_dispersion = False
    estimates_dispersion = False

    def chances(self, x: Array, parameters: Array, offset: Array) -> tuple[Array, Array]:
        """Probabilities (n, levels) and their derivatives by the parameters (n, levels, k)."""
        raise NotImplementedError

    def sample(self, x: Array, parameters: Array, dispersion: float, rng: np.random.Generator) -> Any:
        below = np.cumsum(self._shares(x, parameters)[:, :-1], axis=1)
        return (rng.uniform(size=(len(x), 1)) > below).sum(axis=1)

    def expected(self, x: Array, parameters: Array) -> Any:
        return np.argmax(self._shares(x, parameters), axis=1)

    def mean(self, x: Array, parameters: Array) -> Array:
        return np.full(len(x), np.nan)

    def working(self, x: Array, y: Any, parameters: Array) -> tuple[Array, Array]:
        return _working(self.chances(x, parameters, np.zeros(len(x))), y)

    def deviance(self, x: Array, y: Any, parameters: Array) -> float:
        return float(-2 * self.log_likelihood(x, y, parameters, 1.0).sum())

    def likeliest_dispersion(self, x: Array, y: Any, parameters: Array) -> float:
        return 1.0

    def log_likelihood(self, x: Array, y: Any, parameters: Array, dispersion: float) -> Array:
        share = self._shares(x, parameters)[np.arange(len(y)), y]
        return np.asarray(np.log(np.maximum(share, np.finfo(float).tiny)))

    def distribution(self, x: Array, y: Any, parameters: Array, dispersion: float) -> tuple[Array, Array]:
        below = np.cumsum(np.column_stack([np.zeros(len(x)), self._shares(x, parameters)]), axis=1)
        return below[np.arange(len(y)), y], np.minimum(below[np.arange(len(y)), y + 1], 1)

    def _shares(self, x: Array, parameters: Array) -> Array:
        return self.chances(x, parameters, np.zeros(len(x)))[0]


class Logit(_Levels):
    """y = argmax_j (x·b_j + g_j) with Gumbel noise g and b_0 = 0; two levels or more.

    The noise is drawn from its posterior given y: the largest of the sums is Gumbel about the log-sum-exp of the
    logits, the others are Gumbel cut off below it (Oberst & Sontag, 2019, Gumbel-max SCM). An offset is added to the
    logit of every level but the first.
    """

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{level}: {column}" for level in levels[1:] for column in columns)

    def fit(self, x: Array, y: Any, participants: pd.Series, offset: Array) -> Fit:
        z, back = _orthonormal(x)
        others = int(y.max())
        back = scipy.linalg.block_diag(*[back] * others)
        start = np.zeros(others * x.shape[1])
        return _fit_levels(lambda b: self.chances(z, b, offset), start, y, participants, x.shape[1], back)

    def chances(self, x: Array, parameters: Array, offset: Array) -> tuple[Array, Array]:
        share = scipy.special.softmax(self._logits(x, parameters, offset), axis=1)
        each = share[:, :, None] * (np.eye(share.shape[1])[:, 1:] - share[:, None, 1:])
        return share, (each[..., None] * x[:, None, None]).reshape(*share.shape, -1)

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

    def _logits(self, x: Array, parameters: Array, offset: Array | float = 0.0) -> Array:
        blocks = parameters.reshape(-1, x.shape[1])
        return np.column_stack([np.zeros(len(x)), *(_linear(x, block) + offset for block in blocks)])


class Ordered(_Levels):
    """y counts the thresholds below x·b + e with logistic e, drawn from its posterior: cut off between thresholds."""

    def terms(self, columns: Sequence[str], levels: Sequence[str]) -> tuple[str, ...]:
        steps = [f"log step to threshold {a}|{b}" for a, b in itertools.pairwise(levels[1:])]
        return (*columns[1:], f"threshold {levels[0]}|{levels[1]}", *steps)

    def fit(self, x: Array, y: Any, participants: pd.Series, offset: Array) -> Fit:
        mean = x[:, 1:].mean(axis=0)
        z, inverse = _orthonormal(x[:, 1:] - mean)
        z = np.column_stack([np.ones(len(z)), z])
        counts = np.bincount(y)
        thresholds = scipy.special.logit(np.cumsum(counts + 1)[:-1] / (counts + 1).sum())
        start = np.concatenate([np.zeros(len(inverse)), thresholds[:1], np.log(np.diff(thresholds))])
        back = scipy.linalg.block_diag(inverse, np.eye(len(thresholds)))
        back[len(inverse), : len(inverse)] = mean @ inverse  # thresholds of x, not of x - mean
        return _fit_levels(lambda b: self.chances(z, b, offset), start, y, participants, x.shape[1], back)

    def chances(self, x: Array, parameters: Array, offset: Array) -> tuple[Array, Array]:
        linear, thresholds = self._parts(x, parameters)
        below = scipy.special.expit(thresholds - (linear + offset)[:, None])
        share = np.diff(below, axis=1, prepend=0, append=1)
        density = below * (1 - below)
        by_linear = -np.diff(density, axis=1, prepend=0, append=0)
        levels, others = share.shape[1], len(thresholds)
        by_threshold = density[:, None] * (np.eye(levels)[:, :-1] - np.eye(levels)[:, 1:])
        turn = np.tril(np.ones((others, others)))  # of the thresholds, by the first and the log steps
        turn[:, 1:] *= np.diff(thresholds)
        return share, np.concatenate([by_linear[..., None] * x[:, None, 1:], by_threshold @ turn], axis=2)

    def abduct(self, y: Any, x: Array, parameters: Array, rng: Generators) -> Array:
        linear, thresholds = self._parts(x, parameters)
        edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
        low, high = scipy.special.expit(edges[y] - linear), scipy.special.expit(edges[y + 1] - linear)
        u = low + (high - low) * np.array([r.uniform(1e-12, 1 - 1e-12) for r in rng])
        return scipy.special.logit(u)

    def generate(self, x: Array, noise: Array, parameters: Array) -> Any:
        linear, thresholds = self._parts(x, parameters)
        return np.searchsorted(thresholds, linear + noise, side="left")

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


def _fit_glm(family: Any, x: Array, y: Array, participants: pd.Series, offset: Array) -> Fit:
    """One of statsmodels' families of generalised linear models."""
    from statsmodels.genmod.generalized_linear_model import GLM

    z, back = _orthonormal(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = GLM(y, z, family=family, offset=offset).fit(maxiter=200, tol=1e-12)
        except ValueError:  # numbers that overflow, of an offset in the thousands, say
            nothing = np.full(z.shape[1], np.nan)
            return Fit(nothing, np.diag(nothing), nothing)
    parameters = result.params if result.converged else np.full(z.shape[1], np.nan)
    covariance, freedom = result.cov_params(), np.full(z.shape[1], float(result.df_resid))
    if result.converged and participants.nunique() < len(participants):
        root = np.sqrt(family.weights(result.mu))
        residual = root * (y - result.mu) * family.link.deriv(result.mu)
        covariance, freedom = _clustered(root[:, None] * z, residual, back, participants, float(result.scale))
    return Fit(parameters, covariance, freedom, float(result.scale)).mapped(back)


def _fit_levels(
    chances: Chances, start: Array, y: NDArray[np.integer], participants: pd.Series, columns: int, back: Array
) -> Fit:
    """Maximum likelihood; where the levels are separated, so that there is none, a normal prior holds the slopes.

    Args:
        chances: of parameters. start: those to begin with. columns: of the design. back: see `_orthonormal`.
    """
    freedom = np.full(len(start), float(max(participants.nunique() - columns, 1)))
    parameters, converged = _scored(chances, start, y, precision=0.0)
    # An offset that alone decides every level leaves nothing to be learnt, either.
    if not converged or np.linalg.matrix_rank(_information(chances, parameters, y)) < len(start):
        parameters, converged = _scored(chances, start, y, precision=PRIOR_SD**-2)
        curvature = _information(chances, parameters, y) + np.eye(len(start)) / PRIOR_SD**2
        covariance = np.asarray(np.linalg.pinv(curvature), dtype=np.float64)
        note = "its parents separate some levels almost perfectly; a weak normal prior holds the coefficients"
        return Fit(parameters if converged else np.nan * start, covariance, freedom, note=note).mapped(back)
    if participants.nunique() == len(participants):
        covariance = np.asarray(np.linalg.inv(_information(chances, parameters, y)), dtype=np.float64)
    else:
        rows, residual = _stacked(_working(chances(parameters), y))
        each = participants.repeat(len(rows) // len(y))
        covariance, freedom = _clustered(rows, residual, back, each, scale=1.0)
    return Fit(parameters, covariance, freedom).mapped(back)


def _scored(chances: Chances, start: Array, y: NDArray[np.integer], precision: float) -> tuple[Array, bool]:
    """The mode of the likelihood times a normal prior of this precision, by Fisher's scoring, and whether there is one.

    Without a prior the search is given up where a parameter passes `SEPARATED`.
    """
    root = np.sqrt(precision)

    def loss(b: Array) -> float:
        share = np.maximum(chances(b)[0][np.arange(len(y)), y], np.finfo(float).tiny)
        return float(-np.log(share).sum() + precision * b @ b / 2)

    b, best = start, loss(start)
    for _ in range(200):
        rows, residual = _stacked(_working(chances(b), y))
        if precision:
            rows, residual = np.vstack([rows, root * np.eye(len(b))]), np.append(residual, -root * b)
        step = np.linalg.lstsq(rows, residual)[0]
        while (value := loss(b + step)) > best + 1e-12 * abs(best) and np.abs(step).max() > 1e-12:
            step = step / 2
        b, best = b + step, value
        if not precision and np.abs(b).max() > SEPARATED:
            return b, False
        if np.abs(step).max() < 1e-9:
            return b, True
    return b, False


def _working_counts(x: Array, y: Array, mean: Array, alpha: float) -> tuple[Array, Array]:
    """Rows and residuals of counts whose variance is mean + alpha mean²."""
    root = np.sqrt(mean / (1 + alpha * mean))
    return (root[:, None] * x)[:, None], (root * (y / mean - 1))[:, None]


def _working(chances: tuple[Array, Array], y: NDArray[np.integer]) -> tuple[Array, Array]:
    """Rows (n, levels, k) and residuals (n, levels) whose products are Fisher's information and the score.

    Those of scan i are π_ij'/√π_ij and ([y_i = j] - π_ij)/√π_ij, π_ij' the derivative by the parameters. The residuals'
    covariance is I - √π_i √π_i', which is I in the span of the rows, since a scan's probabilities sum to 1.
    """
    share, slope = chances
    root = np.sqrt(np.maximum(share, 1e-12))
    return slope / root[..., None], (np.eye(share.shape[1])[y] - share) / root


def _stacked(working: tuple[Array, Array]) -> tuple[Array, Array]:
    """Rows (n m, k) and residuals (n m,)."""
    rows, residual = working
    return rows.reshape(-1, rows.shape[-1]), residual.reshape(-1)


def _information(chances: Chances, b: Array, y: NDArray[np.integer]) -> Array:
    """Minus the second derivatives of the log-likelihood, (k, k), by differences of its slope."""

    def score(at: Array) -> Array:
        share, slope = chances(at)
        own = np.arange(len(y)), y
        return (slope[own] / np.maximum(share[own], np.finfo(float).tiny)[:, None]).sum(axis=0)

    step = 1e-5
    found = np.array([(score(b - step * each) - score(b + step * each)) / (2 * step) for each in np.eye(len(b))])
    return (found + found.T) / 2


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


def _linear(x: Array, parameters: Array) -> Array:
    """x·b row by row, the same to the last bit for one row as for many (a BLAS product is not)."""
    return (x * parameters).sum(axis=1)
