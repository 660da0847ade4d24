"""How strong an unmeasured common cause would have to be to bring an effect to zero."""

from __future__ import annotations

import numpy as np

from brainscm.scm.design import Array

COMMON = 0.15  # from this share of participants on, an odds ratio is no risk ratio


def robustness_value(partial_r2: Array) -> Array:
    """The share of what is left, both of the cause and of the outcome, that a confounder must explain; NaN stays NaN.

    With f² = R²/(1 - R²) of the effect, RV = (√(f⁴ + 4f²) - f²)/2: a confounder with partial R² of RV with both makes
    the estimate 0, a weaker one does not (Cinelli & Hazlett, 2020, J. R. Stat. Soc. B 82).
    """
    # 2/(1 + √(1 + 4/f²)), which is the same without the difference of large numbers
    with np.errstate(divide="ignore"):
        return np.asarray(2 / (1 + np.sqrt(1 + 4 * (1 - partial_r2) / partial_r2)))


def left_under_confounder(robustness: Array, strength: float) -> Array:
    """The share of an estimate that is left once a confounder is adjusted for that explains `strength` of what is left.

    Both of the cause and of the outcome, in the direction of the estimate: 1 - g(strength)/g(RV), g(r) = r/√(1 - r)
    (the bias of Cinelli & Hazlett, 2020). Every confounder of that strength leaves the same, whatever its values;
    negative is a change of sign.
    """
    return np.asarray(1 - strength / np.sqrt(1 - strength) * np.sqrt(1 - robustness) / robustness)


def e_value(odds_ratio: Array, prevalence: float) -> Array:
    """The risk ratio that a confounder must have with both cause and outcome; of the odds ratio of a binary outcome.

    RR + √(RR(RR - 1)), RR the odds ratio or its inverse, at least 1, or its root where the outcome is common
    (VanderWeele & Ding, 2017, Annals of Internal Medicine 167).
    """
    ratio = np.exp(np.abs(np.log(odds_ratio)) * (0.5 if min(prevalence, 1 - prevalence) > COMMON else 1.0))
    return np.asarray(ratio + np.sqrt(ratio * (ratio - 1)))
