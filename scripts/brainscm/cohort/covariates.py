"""What a study's own tables say of each scan: participants.tsv and the sessions tables, joined to the scans by id."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from brainscm.cohort.values import ages_in_years
from brainscm.errors import BrainSCMError
from brainscm.files import read_description
from brainscm.tsv import is_fetched, read_tsv, require_column

PARTICIPANT, SESSION = "participant_id", "session_id"
SESSIONS = "the sessions tables"
SHOWN = 3  # examples in a sentence
PREFIXES = re.compile(r"^(subject|subj|sub|participant|patient|id|session|ses)+(?=.)")


@dataclass
class Tables:
    """Covariates as text.

    Attributes:
        participants: indexed by participant.
        sessions: indexed by scan, `sub-X_ses-Y`.
        conflicts: participant or scan → why its rows cannot be used, so that it is left out.
        differing: participant or scan → the columns in which its rows differ, where they are in conflict.
        notes: (what it is about, a sentence) that a user should read.
        levels: column → code → what the code means, where participants.json says so.
        hint: why there may be no covariates at all; empty if there are.
    """

    participants: pd.DataFrame
    sessions: pd.DataFrame
    conflicts: dict[str, str] = field(default_factory=dict)
    differing: dict[str, list[str]] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    levels: dict[str, dict[str, str]] = field(default_factory=dict)
    hint: str = ""


def read_tables(bids_dir: Path, participants: Iterable[str]) -> Tables:
    """Read participants.tsv, sessions.tsv at the top, `sub-X/sub-X_sessions.tsv` of the participants, and their JSON.

    A row given twice alike counts once; one whose rows differ is in conflict, and so is a participant whose own table
    cannot be read. A participants.tsv with a row a session is understood as a table of sessions. A file that git has
    not fetched counts as absent, and is told.

    Raises:
        BrainSCMError: a table of the whole cohort cannot be read, or has not its id columns.
    """
    tables = Tables(pd.DataFrame(index=pd.Index([], name=PARTICIPANT)), pd.DataFrame(index=pd.Index([], name="scan")))
    path, top = bids_dir / "participants.tsv", bids_dir / "sessions.tsv"
    tables.levels = _levels(_describe(path.with_suffix(".json")))
    units = _units(top)
    parts: list[pd.DataFrame] = []
    if is_fetched(path):
        table = _read(path, PARTICIPANT, _units(path), tables).drop_duplicates()
        scans = table[PARTICIPANT].str.extract(rf"^(?P<{PARTICIPANT}>sub-[^_]+)_(?P<{SESSION}>ses-.+)$")
        are_scans = SESSION not in table and len(table) > 0 and bool(scans.notna().all(axis=None))
        if are_scans:
            told = f"its ids name sessions ({table[PARTICIPANT].iloc[0]}): it is read as a table of sessions"
            tables.notes.append((path.name, told))
            table = table.assign(**scans)
        if are_scans or (SESSION in table and table[PARTICIPANT].duplicated().any()):
            parts.append(_with_ids(path, table, SESSION, tables))
            table = _constant_by_participant(table.drop(columns=SESSION))
        tables.participants = _indexed(table.set_index(PARTICIPANT), path.name, tables)
    else:
        tables.hint = _why_absent(path)
    if is_fetched(top):
        table = _read(top, PARTICIPANT, units, tables)
        parts.append(_with_ids(top, table, SESSION, tables))
    unfetched = [top.name] if _is_pointer(top) else []
    for participant in participants:
        own = bids_dir / participant / f"{participant}_sessions.tsv"
        if not is_fetched(own):
            unfetched += [own.name] if _is_pointer(own) else []
            continue
        try:
            table = _read(own, SESSION, {**units, **_units(own)}, tables)
        except BrainSCMError as error:
            tables.conflicts[participant] = str(error)
            continue
        foreign = (
            sorted({*_with_prefix(table[PARTICIPANT].dropna(), "sub-")} - {participant}) if PARTICIPANT in table else []
        )
        if foreign:
            tables.conflicts[participant] = f"{own.name} has rows of {some(foreign)}; find out whose they are"
            continue
        parts.append(table.assign(**{PARTICIPANT: participant}))
    if unfetched:
        told = f"{len(unfetched)} are not fetched and not used ({some(unfetched)}); for DataLad: `datalad get`"
        tables.notes.append((SESSIONS, told))
    if parts:
        table = pd.concat(parts, ignore_index=True).drop_duplicates()
        scan = (table[PARTICIPANT] + "_" + table[SESSION]).rename("scan")
        tables.sessions = _indexed(table.drop(columns=[PARTICIPANT, SESSION]).set_index(scan), "the sessions", tables)
    return tables


def near_matches(wanted: Collection[str], known: Collection[str]) -> dict[str, str]:
    """For each id the one known id that is probably meant: alike but for case, leading zeros, punctuation or a prefix.

    Where two known ids may be meant, or two wanted ids mean one, none is named.
    """
    by_key: dict[str, list[str]] = {}
    for name in known:
        by_key.setdefault(_key(name), []).append(name)
    found = {}
    for name in wanted:
        key = _key(name)
        candidates = by_key.get(key) or [
            other for own, others in by_key.items() if _one_ends_with_the_other(key, own) for other in others
        ]
        if len(candidates) == 1:
            found[name] = candidates[0]
    meant = Counter(found.values())
    return {name: other for name, other in found.items() if meant[other] == 1}


def some(names: Iterable[str]) -> str:
    """The first few of many names, for a sentence."""
    listed = sorted(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


def _key(name: str) -> str:
    """An id without what people write differently: prefixes, case, punctuation, leading zeros."""
    return "/".join(map(_plain_label, name.split("_ses-")))


def _plain_label(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", re.sub(r"\.0+$", "", name.casefold()))  # 1.0 is what Excel makes of 1
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", PREFIXES.sub("", plain))


def _one_ends_with_the_other(key: str, other: str) -> bool:
    return min(len(key), len(other)) > 2 and (key.endswith(other) or other.endswith(key))


def _read(path: Path, key: str, units: Mapping[str, str], tables: Tables) -> pd.DataFrame:
    """A table with its ids (`key`), and its ages in years."""
    table, notes = ages_in_years(_with_ids(path, read_tsv(path), key, tables), units)
    tables.notes += [note for note in notes if note not in tables.notes]
    return table


def _with_ids(path: Path, table: pd.DataFrame, key: str, tables: Tables) -> pd.DataFrame:
    """A table whose ids have BIDS's prefix; rows without an id are told and dropped."""
    require_column(table, path, key)
    nameless = int(table[key].isna().sum())
    if nameless:
        tables.notes.append((path.name, f"{nameless} of its rows have no {key} and are not used"))
    table = table.dropna(subset=[key])
    prefix = "sub-" if key == PARTICIPANT else "ses-"
    return table.assign(**{key: _with_prefix(table[key], prefix)})


def _with_prefix(ids: pd.Series, prefix: str) -> pd.Series:
    return ids.where(ids.str.startswith(prefix), prefix + ids)


def _indexed(table: pd.DataFrame, where: str, tables: Tables) -> pd.DataFrame:
    """The rows whose id stands once; the others become conflicts."""
    repeated = table[table.index.duplicated(keep=False)]
    for name, rows in repeated.groupby(level=0):
        differing = [str(column) for column in rows if rows[column].nunique(dropna=False) > 1]
        tables.differing[str(name)] = differing
        values = "; ".join(f"{column} {' and '.join(map(str, rows[column]))}" for column in differing)
        tables.conflicts[str(name)] = (
            f"listed more than once in {where} with different values ({values}); keep one row, or give each its "
            f"{SESSION}"
        )
    return table[~table.index.isin(repeated.index)]


def _constant_by_participant(table: pd.DataFrame) -> pd.DataFrame:
    """One row a participant, of a table with a row a session: what all their rows agree on, missing elsewhere."""
    by_participant = table.groupby(PARTICIPANT)
    return by_participant.first().where(by_participant.nunique() == 1, None).reset_index()


def _describe(path: Path) -> dict[str, dict[str, Any]]:
    """What the JSON of a table says of each column; what cannot be read as such is passed over."""
    return {column: entry for column, entry in read_description(path).items() if isinstance(entry, dict)}


def _levels(described: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """column → code → meaning, where a column has `Levels`."""
    levels = {}
    for column, entry in described.items():
        found = entry.get("Levels")
        if isinstance(found, dict):
            meanings = {code: m.get("Description", code) if isinstance(m, dict) else m for code, m in found.items()}
            levels[column] = {str(code): str(meaning) for code, meaning in meanings.items()}
    return levels


def _units(table: Path) -> dict[str, str]:
    """column → unit, as the JSON of a table says."""
    described = _describe(table.with_suffix(".json"))
    return {column: str(entry["Units"]) for column, entry in described.items() if entry.get("Units")}


def _is_pointer(path: Path) -> bool:
    return (path.is_symlink() or path.exists()) and not is_fetched(path)


def _why_absent(path: Path) -> str:
    """Why there is no participants.tsv, and what may have been meant to be one."""
    if _is_pointer(path):
        return f"{path.name} is not fetched (for DataLad: `datalad get {path.name}`)"
    others = [p.name for p in sorted(path.parent.glob("*.*")) if p.suffix.lower() in (".csv", ".xlsx", ".xls", ".txt")]
    named = [name for name in others if "participant" in name.lower()] or others
    hint = f"; {named[0]} is not read: save it as {path.name}, with tabs between the columns" if named else ""
    return f"there is no {path.name} in {path.parent}{hint}"
