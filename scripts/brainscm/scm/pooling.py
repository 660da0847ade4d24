"""Rubin's rules: one estimate, and its error, of what several imputations of the missing covariates give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainscm.scm.design import Array


@dataclass(frozen=True)
class Pooled:
    """Arrays of one shape.

    Attributes:
        variance: of the estimate. freedom: Barnard and Rubin's degrees of freedom.
        missing_information: the share of the variance that is there because values are missing.
    """

    estimate: Array
    variance: Array
    freedom: Array
    missing_information: Array


def pool(estimates: Sequence[Array], variances: Sequence[Array], freedom: Array | float) -> Pooled:
    """Pool the estimates of m ≥ 2 imputations (Rubin, 1987; Barnard & Rubin, 1999, for the degrees of freedom).

    With W the mean variance and B the variance of the estimates, the total is T = W + (1 + 1/m)B, and λ = 1 - W/T.

    Args:
        estimates, variances: of each imputation.
        freedom: degrees of freedom of a variance if nothing were missing.
    """
    m, estimate = len(estimates), np.mean(estimates, axis=0)
    within, between = np.mean(variances, axis=0), (1 + 1 / m) * np.var(estimates, axis=0, ddof=1)
    total = within + between
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, between / total, 0.0)
        of_imputations = (m - 1) / np.square(share)
        of_data = freedom * (freedom + 1) / (freedom + 3) * (1 - share)
        pooled = np.where(share > 0, 1 / (1 / of_imputations + 1 / of_data), freedom)
    return Pooled(np.asarray(estimate), np.asarray(total), np.asarray(pooled), np.asarray(share))


def pool_covariance(estimates: Sequence[Array], covariances: Sequence[Array]) -> Array:
    """The total covariance (k, k) of estimates (k,)."""
    deviations = np.stack(estimates) - np.mean(estimates, axis=0)
    m = len(deviations)
    return np.asarray(np.mean(covariances, axis=0) + (1 + 1 / m) * deviations.T @ deviations / (m - 1))
