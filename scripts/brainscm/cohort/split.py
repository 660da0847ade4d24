"""Divide participants into train, validation and test, alike in the covariates that matter."""

from __future__ import annotations

import numpy as np
import pandas as pd

from brainscm.config import SplitOptions
from brainscm.errors import BrainSCMError
from brainscm.scans import SPLITS

BINS = 4


def split_participants(participants: pd.DataFrame, options: SplitOptions, stratify: list[str], seed: int) -> pd.Series:
    """Assign each participant (one row, indexed by id) to train, validation or test.

    Systematic sampling: participants are put in order of their strata (categories as they are, numbers in quartiles),
    shuffled within a stratum, and dealt out along that order so that every stretch of it holds the wanted shares. The
    result depends on the ids, the stratifying covariates and the seed, not on the order of the rows.

    Raises:
        BrainSCMError: too few participants for each split to hold one.
    """
    shares = np.array([options.train, options.validation, options.test])
    if np.floor(len(participants) * shares + 0.5).min() < 1:
        raise BrainSCMError(
            f"cohort.split: {len(participants)} participants cannot give each of train, validation and test at least "
            "one; add scans or change the shares."
        )
    rng = np.random.default_rng(seed)
    table = participants.sort_index()
    keys = pd.DataFrame({column: _strata(table[column]) for column in stratify}, index=table.index)
    keys["shuffle"] = rng.random(len(table))
    order = keys.sort_values(list(keys.columns)).index

    owed = shares * rng.random()
    assigned = pd.Series(index=order, dtype=object, name="split")
    for participant in order:
        owed = owed + shares
        chosen = int(np.argmax(owed))
        owed[chosen] -= 1
        assigned[participant] = SPLITS[chosen]
    return assigned.reindex(participants.index)


def _strata(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return (column.rank(pct=True) * BINS // 1).fillna(-1)
    return column.astype(str)
