"""Which scans a study asks for and which it leaves out: `cohort.participants`, `sessions`, `filter` and `exclude`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.cohort.bids import ENTITIES, SUFFIX, SUFFIXES, T1wFile
from brainscm.config import CohortOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.tsv import read_tsv

logger = logging.getLogger("brainscm")

# What a scan may be left out of: `excluded_from` in excluded.tsv and in a table of ratings.
EVERYTHING, SCM = "everything", "scm"
RATINGS = ("", "pass", "doubtful", EXCLUDE := "exclude")
YES = frozenset({"1", "1.0", "true", "yes", "y", "x", "exclude", "excluded"})
NO = frozenset({"0", "0.0", "false", "no", "n", "include", "included"})


def with_prefix(name: str, prefix: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def wanted_suffix(options: CohortOptions) -> str:
    """The suffix of the files that the study takes.

    Raises:
        ConfigError: it is no T1w's, or there are several.
    """
    suffix = options.filter.get(SUFFIX, SUFFIXES[0])
    if suffix not in SUFFIXES:
        raise ConfigError(f"config: cohort.filter.suffix: '{suffix}' is not one of {', '.join(SUFFIXES)}; write one.")
    return str(suffix)


def refuse_files(options: CohortOptions, files: Collection[T1wFile]) -> Callable[[T1wFile], str | None]:
    """What says of a T1w file why the study does not want it, or None.

    Raises:
        ConfigError: an id that is asked for is not in the folder, or a filter names what no file has.
    """
    participants = _known("participants", options.participants, "sub-", {file.participant for file in files})
    sessions = _known("sessions", options.sessions, "ses-", {file.session for file in files})
    _check_entities(options.filter, files)
    excluded = _by_entity(options)

    def refuse(file: T1wFile) -> str | None:
        if participants is not None and file.participant not in participants:
            return "not among cohort.participants"
        if sessions is not None and file.session not in sessions:
            return "not among cohort.sessions"
        for key, values in options.filter.items():
            if not file.matches(key, values):
                return f"its {key} is {file.entity(key) or 'not given'} (cohort.filter)"
        for key, values in excluded.items():
            if file.matches(key, values):
                return f"its {key} is {file.entity(key)} (cohort.exclude)"
        return None

    return refuse


def ratings_table(options: CohortOptions) -> Path | None:
    """The table of ratings that `cohort.exclude` names, if it does.

    Raises:
        ConfigError: it is not there.
    """
    if not isinstance(options.exclude, str) or not options.exclude.endswith(".tsv"):
        return None
    path = Path(options.exclude).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"config: cohort.exclude: {path.absolute()} is not there; save it with the report's button “Save "
            "ratings.tsv” (a relative path starts at the folder in which snakemake is called)."
        )
    return path


def excluded_scans(options: CohortOptions, scans: pd.DataFrame) -> pd.Series:
    """Why `cohort.exclude` leaves a scan out, by the index of `scans` (scan, participant, columns of text); "" if not.

    Raises:
        ConfigError: an id or a column is not there, or a column holds other words than yes and no.
    """
    reasons = pd.Series("", index=scans.index, dtype=object)
    wanted = options.exclude
    if ratings := ratings_table(options):
        return _rated_out(ratings, scans, EVERYTHING)
    if isinstance(wanted, list):
        ids = {*scans["scan"], *scans["participant"]}
        for name in wanted:
            scan = with_prefix(name, "sub-")
            if scan not in ids:
                raise ConfigError(f"config: cohort.exclude: '{name}' is no scan or participant; {_nearest(scan, ids)}")
            reasons[(scans["scan"] == scan) | (scans["participant"] == scan)] = "listed in cohort.exclude"
    elif isinstance(wanted, str):
        cells = _column(wanted, scans).dropna().astype(str).str.casefold()
        odd = sorted(set(cells) - YES - NO)
        if odd:
            raise ConfigError(
                f"config: cohort.exclude: column '{wanted}' says '{odd[0]}', neither yes nor no; name the values that "
                f"are left out: {{{wanted}: [{odd[0]}]}}"
            )
        reasons[cells.index[cells.isin(YES)]] = f"its {wanted} says so (cohort.exclude)"
    else:
        for key, values in wanted.items():
            if key not in _by_entity(options):
                texts = {str(value) for value in (values if isinstance(values, list) else [values])}
                cells = _column(key, scans).astype(object).where(lambda column: column.notna(), None).map(str)
                reasons[cells.isin(texts)] = f"its {key} is among those of cohort.exclude"
                for text in sorted(texts - set(cells)):
                    # One that is gone meanwhile needs no exclusion; one that is mistyped would be kept silently.
                    logger.warning("cohort.exclude: no scan's %s is '%s'; %s", key, text, _nearest(text, set(cells)))
    return reasons


def excluded_from_scm(options: CohortOptions, scans: pd.DataFrame) -> pd.Series:
    """Why a rating leaves a scan out of the causal model alone, by the index of `scans`; "" if it does not."""
    ratings = ratings_table(options)
    return _rated_out(ratings, scans, SCM) if ratings else pd.Series("", index=scans.index, dtype=object)


def _rated_out(path: Path, scans: pd.DataFrame, stage: str) -> pd.Series:
    """The scans that a table of ratings excludes from `stage`, with what the rater said.

    Raises:
        ConfigError: the table cannot be read, lacks a column, or says what no rating is.
    """
    try:
        ratings = read_tsv(path)
    except BrainSCMError as error:
        raise ConfigError(f"config: cohort.exclude: {error}") from error
    for column in ("scan", "rating"):
        if column not in ratings:
            raise ConfigError(
                f"config: cohort.exclude: {path} has no column '{column}'; save it with the report's button "
                "“Save ratings.tsv”"
            )
    ratings = ratings.reindex(columns=["scan", "rating", "excluded_from", "artefacts", "note", "rater"]).fillna("")
    for column, known in (("rating", RATINGS), ("excluded_from", ("", EVERYTHING, SCM))):
        if odd := sorted(set(ratings[column]) - set(known)):
            raise ConfigError(
                f"config: cohort.exclude: {path}: the {column} '{odd[0]}' is none of {', '.join(filter(None, known))}"
            )
    of_stage = ratings["excluded_from"].replace("", EVERYTHING) == stage
    out = ratings[(ratings["rating"] == EXCLUDE) & of_stage]
    ids = {*scans["scan"], *scans["participant"]}
    for name in out["scan"]:
        if name not in ids:
            # A scan that is gone meanwhile needs no exclusion; one that is mistyped would be kept silently.
            logger.warning("%s: '%s' is no scan of the cohort; %s", path, name, _nearest(name, ids))
    said = {row["scan"]: _said(row) for row in out.to_dict("records")}
    own = scans["scan"].map(said)
    return own.where(own.notna(), scans["participant"].map(said)).fillna("").astype(object)


def _said(row: Mapping[Any, str]) -> str:
    """`rated exclude by A. Rater: motion; ghosts in the frontal lobe`."""
    told = "; ".join(part for part in (row["artefacts"], row["note"]) if part)
    rater = f" by {row['rater']}" if row["rater"] else ""
    return f"rated exclude{rater}" + (f": {told}" if told else "")


def _by_entity(options: CohortOptions) -> Mapping[str, Any]:
    """The part of a filter under `exclude` that speaks of files' names."""
    wanted = options.exclude if isinstance(options.exclude, dict) else {}
    return {key: values for key, values in wanted.items() if key in ENTITIES or key == SUFFIX}


def _known(key: str, names: list[str] | None, prefix: str, known: set[str]) -> set[str] | None:
    if names is None:
        return None
    wanted = {with_prefix(name, prefix) for name in names}
    for name in sorted(wanted - known):
        raise ConfigError(f"config: cohort.{key}: no T1w of '{name}'; {_nearest(name, known)}")
    return wanted


def _check_entities(wanted: Mapping[str, Any], files: Collection[T1wFile]) -> None:
    for key, values in wanted.items():
        if key not in ENTITIES and key != SUFFIX:
            raise ConfigError(f"config: cohort.filter: '{key}' is none of {', '.join([*ENTITIES, SUFFIX])}")
        if not any(file.matches(key, values) for file in files):
            there = sorted({file.entity(key) or "" for file in files} - {""})
            has = f"there are {', '.join(there[:5])}" if there else "no name has one"
            raise ConfigError(f"config: cohort.filter: no T1w whose {key} is {values}; {has}")


def _column(name: str, scans: pd.DataFrame) -> pd.Series:
    if name not in scans:
        columns = list(map(str, scans))
        raise ConfigError(f"config: cohort.exclude: no column '{name}' in the tables; {_nearest(name, columns)}")
    return scans[name]


def _nearest(name: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(name, list(known)[:5000], n=1)
    return f"did you mean '{found[0]}'?" if found else f"there are {', '.join(sorted(known)[:3])}, ..."
