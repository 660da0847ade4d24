"""Divide participants into train, validation and test: alike in the covariates that matter, by groups, or as a column
says."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from brainscm.config import SplitOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.scans import SPLITS

BINS = 4


def split_participants(
    participants: pd.DataFrame,
    options: SplitOptions,
    stratify: list[str],
    seed: int,
    drawn_before: Mapping[str, str],
) -> pd.Series:
    """Assign each participant (one row, indexed by id) to train, validation or test.

    Systematic sampling: participants are put in order of their strata (categories as they are, numbers in quartiles),
    shuffled within a stratum, and dealt out along that order so that every stretch of it holds the wanted shares. The
    result depends on the ids, the stratifying covariates and the seed, not on the order of the rows.

    Args:
        drawn_before: the part of participants who were dealt out before. They stay in it, unless that leaves a part
            without anybody.

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
        chosen = drawn_before.get(participant) or SPLITS[int(np.argmax(owed))]
        owed[SPLITS.index(chosen)] -= 1
        assigned[participant] = chosen
    if drawn_before and assigned.nunique() < len(SPLITS):
        return split_participants(participants, options, stratify, seed, {})
    return assigned.reindex(participants.index)


def split_groups(groups: pd.Series, options: SplitOptions, seed: int) -> pd.Series:
    """Assign each participant to train, validation or test, so that all of a group are in one part.

    Groups are dealt out in random order, each to the part that lacks most of its share; the last ones go to parts that
    have none yet.

    Args:
        groups: indexed by participant; who has none is a group of their own.

    Raises:
        BrainSCMError: too few groups for each part to hold one.
    """
    groups = groups.where(groups.notna(), groups.index.to_series()).astype(str)
    sizes = groups.value_counts().sort_index()
    if len(sizes) < len(SPLITS):
        raise BrainSCMError(
            f"cohort.split.group: {len(sizes)} groups in '{groups.name}' cannot give each of train, validation and "
            "test at least one; name another column, or leave it out."
        )
    lacking = np.array([options.train, options.validation, options.test]) * len(groups)
    part_of: dict[str, int] = {}
    for place, group in enumerate(np.random.default_rng(seed).permutation(sizes.index)):
        empty = sorted(set(range(len(SPLITS))) - set(part_of.values()))
        open_parts = empty if len(sizes) - place <= len(empty) else range(len(SPLITS))
        part_of[group] = max(open_parts, key=lambda part: lacking[part])
        lacking[part_of[group]] -= sizes[group]
    return groups.map(lambda group: SPLITS[part_of[group]]).rename("split")


def split_by_column(scans: pd.DataFrame, column: str, differing: Mapping[str, Collection[str]]) -> pd.Series:
    """The part of each scan, as a column of the study's own tables says.

    Args:
        scans: those to divide: scan, participant, and the tables' columns as text, None where nothing is written.
        differing: participant or scan → the columns in which a table has two values for it.

    Raises:
        ConfigError: there is no such column, it lacks a scan, says another word, puts a participant into two parts, or
            leaves a part empty.
    """
    where = f"config: cohort.split.column: '{column}'"
    if column not in scans:
        nearest = difflib.get_close_matches(column, list(map(str, scans)), n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else "name one that says train, validation or test."
        raise ConfigError(f"{where} is no column of participants.tsv or of the sessions tables; {hint}")
    for name, columns in differing.items():
        if column in columns:
            raise ConfigError(f"{where} puts {name} into two parts, in two rows of one table; keep one of the rows.")
    parts = scans[column].astype(object).where(scans[column].notna(), None)
    for scan, part in zip(scans["scan"], parts, strict=True):
        if part is None:
            raise ConfigError(
                f"{where} says nothing of {scan}; write train, validation or test for each participant, or leave the "
                "scan out by cohort.exclude."
            )
        if part not in SPLITS:
            nearest = difflib.get_close_matches(str(part).casefold(), SPLITS, n=1, cutoff=0.4)
            hint = f"did you mean '{nearest[0]}'?" if nearest else "write train, validation or test."
            raise ConfigError(f"{where} says '{part}' of {scan}; {hint}")
    for participant, own in parts.groupby(scans["participant"]):
        if own.nunique() > 1:
            told = " and ".join(sorted(own.unique(), key=SPLITS.index))
            raise ConfigError(
                f"{where} puts {participant} into two parts ({told}); all scans of a participant belong to one, or the "
                "test would be of a brain that training has seen."
            )
    empty = [split for split in SPLITS if split not in set(parts)]
    if empty:
        raise ConfigError(f"{where} leaves '{empty[0]}' without a scan; each of train, validation and test needs one.")
    return parts


def _strata(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return (column.rank(pct=True) * BINS // 1).fillna(-1)
    return column.astype(str)
