"""What the cells of a covariate mean: numbers, levels, or nothing; whatever is read otherwise than written is told."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

AGE_YEARS = (0.0, 120.0)
MONTHS, WEEKS, DAYS = 12.0, 365.25 / 7, 365.25
IN_A_YEAR = {"month": MONTHS, "mo": MONTHS, "week": WEEKS, "wk": WEEKS, "day": DAYS, "d": DAYS}  # the short ones: UCUM
# Ages in another unit, and what is made of ages.
NO_AGE = re.compile(
    r"months?|weeks?|days?|group|bin|band|category|decade|z|scaled|cent(er|re)d|sq|squared|gap|diff\w*|[2-9]"
)
CAPPED = re.compile(r"[>≥]\s*=?\s*(\d+)|(\d+)\s*(?:\+|(?:or|and|years or) (?:older|over|above|more))", re.IGNORECASE)
ADULT_YEARS = 10.0  # below, a head is smaller than any adult template's
UNKNOWN = frozenset({"unknown", "missing", "not available", "not reported", "not known", "prefer not to say"})
CODES_OF_MISSING = (-1, -7, -8, -9, -77, -88, -99, -777, -888, -999, -9999, 99, 777, 888, 999, 7777, 8888, 9999)
LONGEST_MEANING = 40  # of a level's name in tables and charts
SEX_COLUMN = re.compile(r"sex|gender", re.IGNORECASE)
SEX = {"m": "male", "man": "male", "male": "male", "f": "female", "w": "female", "woman": "female", "female": "female"}


@dataclass
class Values:
    """Cells that cannot be used, by (row of the table, column), and notes (column, sentence) on how others are read."""

    unusable: dict[tuple[int, str], str] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)


def read_values(
    table: pd.DataFrame,
    columns: Iterable[str],
    covariates: Iterable[str] = (),
    declared: Mapping[str, Sequence[str]] | None = None,
    described: Mapping[str, Mapping[str, str]] | None = None,
) -> Values:
    """Turn columns of text into numbers or levels, in place.

    A column is of numbers if more than half of its cells are; the other cells become missing, with the reason. Ages are
    within 0 to 120 years, and BIDS's `89+` (89 or older) is 89. Levels that differ by case or blanks alone are one.

    Args:
        table: text; None is missing.
        columns: those to read.
        covariates: those of the causal model, of which codes of missing values and unknown levels are told, too.
        declared: column → levels as the study spells them.
        described: column → code → what it means; columns of such codes hold levels, named by their meaning.
    """
    values = Values()
    declared, described, covariates = declared or {}, described or {}, set(covariates)
    for column in columns:
        if column in declared:
            _fold(table, column, declared[column], values)
        elif column in described:
            _name_codes(table, column, described[column], values)
        _read_ages(table, column, values)
        is_number = _read_numbers(table, column, values)
        if not is_number and column in covariates and column not in declared:
            _fold(table, column, (), values)
        if column in covariates and pd.api.types.is_numeric_dtype(table[column]):
            _ask_about_codes(table, column, values)
    return values


def is_age(column: str) -> bool:
    """Whether a column's name says that it holds ages in years: `age`, `AgeAtScan`, `age_years`, and not `age2`."""
    words = re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).casefold())
    return "age" in words and not any(NO_AGE.fullmatch(word) for word in words)


def ages_in_years(table: pd.DataFrame, units: Mapping[str, str]) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """A table of text with its ages in years, where `units` (column → unit) says otherwise; and notes on that."""
    notes = []
    for column in (column for column in units if column in table and is_age(column)):
        per_year = IN_A_YEAR.get(units[column].strip().casefold().removesuffix("s"))
        if per_year:
            years = pd.to_numeric(table[column], errors="coerce") / per_year
            table = table.assign(**{column: table[column].where(years.isna(), years.map(repr))})
            notes.append((column, f"its ages are in {units[column]}, by the table's JSON, and are read as years"))
    return table, notes


def _read_numbers(table: pd.DataFrame, column: str, values: Values) -> bool:
    """Read a column of numbers; returns whether it is one."""
    given = table[column].notna()
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    numbers = numbers.where(np.isfinite(numbers))
    if not given.any() or numbers[given].notna().mean() <= 0.5:
        return False
    for row in table.index[given & numbers.isna()]:
        values.unusable[(row, column)] = f"{column} '{table.loc[row, column]}' is not a number"
    if is_age(column):
        low, high = AGE_YEARS
        for row in table.index[(numbers < low) | (numbers > high)]:
            values.unusable[(row, column)] = f"{column} {numbers[row]:g} is no age in years ({low:g}-{high:g})"
        numbers = numbers.where(numbers.between(low, high))
        children = int((numbers < ADULT_YEARS).sum())
        if children:
            told = f"{children} scans are of children under {ADULT_YEARS:g} years: an adult template does not fit them"
            values.notes.append((column, told))
    whole = numbers.notna().all() and (numbers % 1 == 0).all()
    table[column] = numbers.astype(int) if whole else numbers
    return True


def _read_ages(table: pd.DataFrame, column: str, values: Values) -> None:
    if not is_age(column):
        return
    capped = {cell: match for cell in table[column].dropna() if (match := CAPPED.fullmatch(str(cell)))}
    if capped:
        ages = {cell: match[1] or match[2] for cell, match in capped.items()}
        cells = int(table[column].isin(ages).sum())
        table[column] = table[column].replace(ages)
        told = f"{cells} ages are written {', '.join(sorted(ages))} (that or older) and are read as"
        values.notes.append((column, f"{told} {', '.join(sorted(set(ages.values())))}"))


def _fold(table: pd.DataFrame, column: str, spelled: Sequence[str], values: Values) -> None:
    """Give levels that differ by case or blanks alone one spelling: the study's, or the most frequent.

    Words for "not known" become missing, unless the study spells them as a level.
    """
    given = table[column].dropna().astype(str)
    counts = Counter(given)
    known = {_plain(level): level for level in reversed(spelled)}
    unknown = {level for level in counts if _plain(level) in UNKNOWN and _plain(level) not in known}
    if unknown:
        cells = sum(counts[level] for level in unknown)
        values.notes.append((column, f"'{min(unknown)}' ({cells} cells) is read as missing"))
        table[column] = table[column].where(~table[column].isin(unknown), None)
    own = set(counts) - unknown
    numbers = {level for level in own if re.fullmatch(r"-?\d+(\.\d+)?", level)}
    if 0 < len(numbers) < len(own) and not known:
        told = f"'{min(numbers)}' ({sum(counts[level] for level in numbers)} cells) is a number among words"
        values.notes.append((column, f"{told}: if it is a code of one of them, write the word"))
    alike: dict[str, list[str]] = {}
    for level in sorted(own, key=lambda level: (-counts[level], level)):
        alike.setdefault(_meaning(column, level), []).append(level)
    respelled: dict[str, str] = {}
    for levels in alike.values():
        spelling = next((known[_plain(level)] for level in levels if _plain(level) in known), levels[0])
        respelled |= {level: spelling for level in levels if level != spelling and (not known or level not in spelled)}
    for spelling in sorted(set(respelled.values())):
        others = sorted(level for level, to in respelled.items() if to == spelling)
        cells = sum(counts[level] for level in others)
        told = f"{' and '.join(map(repr, others))} ({cells} cells) are read as '{spelling}'"
        values.notes.append((column, told))
    _ask_about_punctuation(column, [group[0] for group in alike.values()], values)
    table[column] = table[column].replace(respelled)


def _ask_about_punctuation(column: str, levels: Sequence[str], values: Values) -> None:
    """Tell of levels that differ by what stands between their letters alone: `left-handed`, `left_handed`."""
    by_letters: dict[str, list[str]] = {}
    for level in levels:
        by_letters.setdefault(re.sub(r"(?<=[^\W\d])[-_./](?=[^\W\d])|\.$", "", _plain(level)), []).append(level)
    for group in by_letters.values():
        if len(group) > 1:
            told = f"{' and '.join(map(repr, group))} are two levels: if they mean the same, write them alike"
            values.notes.append((column, told))


def _meaning(column: str, level: str) -> str:
    plain = _plain(level)
    return SEX.get(plain, plain) if SEX_COLUMN.search(column) else plain


def _plain(level: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", level)).casefold()


def _name_codes(table: pd.DataFrame, column: str, meanings: Mapping[str, str], values: Values) -> None:
    """Name a column of numeric codes by their meanings, so that nobody takes the codes for amounts."""
    given = set(table[column].dropna())
    names = [meanings[code] for code in given & set(meanings)]
    usable = len(set(names)) == len(names) and all(0 < len(name) <= LONGEST_MEANING for name in names)
    if not names or not usable or not all(re.fullmatch(r"-?\d+", code) for code in given & set(meanings)):
        return
    told = ", ".join(f"{code} is '{meanings[code]}'" for code in sorted(given & set(meanings)))
    values.notes.append((column, f"its codes are levels, by participants.json: {told}"))
    if given - set(meanings):
        values.notes.append((column, f"'{min(given - set(meanings))}' is not among the levels of participants.json"))
    table[column] = table[column].replace(dict(meanings))


def _ask_about_codes(table: pd.DataFrame, column: str, values: Values) -> None:
    """Tell of a number that is usually a code of a missing value and lies far from all others."""
    numbers = table[column].dropna().astype(float)
    coded = numbers.isin(CODES_OF_MISSING)
    others = numbers[~coded]
    if others.nunique() < 3:
        return
    reach = others.max() - others.min()
    for code in sorted(numbers[coded & ~numbers.between(others.min() - reach, others.max() + reach)].unique()):
        cells, rest = int((numbers == code).sum()), f"{others.min():g} to {others.max():g}"
        told = f"{code:g} ({cells} cells) lies far from the others ({rest}): if it means 'not known', write n/a"
        values.notes.append((column, told))
