"""Where tests and intervals err more than they say: the rules, and how often, in per cent.

The figures are the worst that benchmarks/bench_calibration.py found; a test holds them to its results.
"""

from __future__ import annotations

import pandas as pd

from brainscm.config import ImageOptions

# Effects found at 5 % where there are none:
ROBUST_SKEWED = 8  # single tests, robust errors, strongly skewed residuals
FLIPPED = 10  # family-wise by flipped signs, residuals whose variance grows with a skewed covariate
FLIPPED_SKEWED = 20  # … which are strongly skewed themselves
WEIGHED = 8  # family-wise, scans weighed by the residual variances of groups
SLOPES_SKEWED = 13  # slopes in time that are all the same, strongly skewed residuals
# Truths that 95 % intervals hold:
FEW_VISITS = 93  # changes in time, widened by the slopes of few participants
FEW_RETURNING = 30  # participants with several visits


def doubtful_p(options: ImageOptions, permutations: int) -> pd.DataFrame:
    """What the options alone say of the family-wise p: rows like those of `diagnose`, the rate as the value."""
    rows = []
    if permutations and options.errors == "hc3":
        words = (
            "family-wise p is by flipping signs: where the residual variance grows with a skewed covariate, it finds "
            f"an effect in up to {FLIPPED} % of cases where it says 5 %"
        )
        rows.append(("error_rate_05", "family-wise, errors: hc3", FLIPPED / 100, words))
    elif permutations and options.variance_by is not None:
        words = (
            f"family-wise p takes the residual variances by {options.variance_by}, which are estimated, for known: it "
            f"finds an effect in up to {WEIGHED} % of cases where it says 5 %"
        )
        rows.append(("error_rate_05", f"family-wise, variance_by: {options.variance_by}", WEIGHED / 100, words))
    return pd.DataFrame(rows, columns=["check", "item", "value", "warning"])


def of_few_visits(participants: int) -> str:
    """What to expect of intervals that are widened by the slopes of so many participants; "" if they are enough."""
    if participants >= FEW_RETURNING:
        return ""
    return (
        f"only {participants} training participants came several times, which tells badly how far slopes in time "
        f"differ: 95 % intervals of changes in time may hold the truth in {FEW_VISITS} % of cases"
    )
