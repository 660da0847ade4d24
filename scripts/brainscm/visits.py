"""Age at the first visit and years since: the two halves of age, which answer different questions."""

from __future__ import annotations

import pandas as pd

AGE = "age"
BASELINE, SINCE = "age_baseline", "years_since_baseline"


def add_years_since_baseline(scans: pd.DataFrame) -> pd.DataFrame:
    """Add `age_baseline` and `years_since_baseline`, in the unit of age, to a table of scans (participant, age).

    `age_baseline` is a participant's age at the earliest of their scans, the other what has passed since; their sum is
    the age. Columns that the tables already have are left alone, and a table without numeric ages is left as it is.
    """
    if AGE not in scans or not pd.api.types.is_numeric_dtype(scans[AGE]):
        return scans
    baseline = scans.groupby("participant")[AGE].transform("min")
    derived = {BASELINE: baseline.where(scans[AGE].notna()), SINCE: scans[AGE] - baseline}
    return scans.assign(**{name: column for name, column in derived.items() if name not in scans})
