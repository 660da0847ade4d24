"""Make the cohort's tables: the scans to analyse, what is left out with the reason, and what a user should know."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from brainscm.cohort.bids import ANOTHER, LeftOut, T1wFile, choose_scans, find_t1w
from brainscm.cohort.covariates import SESSIONS, SHOWN, Tables, near_matches, read_tables, some
from brainscm.cohort.selection import EVERYTHING, SCM, excluded_from_scm, excluded_scans, refuse_files, wanted_suffix
from brainscm.cohort.split import split_by_column, split_groups, split_participants
from brainscm.cohort.values import Values, is_age, read_values
from brainscm.config import CohortOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.regions import MEASURED
from brainscm.tables import LEFT_OUT_OF_SCM, RUN_SEPARATOR
from brainscm.visits import AGE, BASELINE, SINCE

logger = logging.getLogger("brainscm")

IDENTITY = ("scan", "participant", "session", "path", "further_runs")
SPLIT = "split"
NOBODY: Mapping[str, str] = MappingProxyType({})
NOTES_SHOWN = 30  # on the terminal; all are in notes.tsv


@dataclass(frozen=True)
class Cohort:
    """What the index finds.

    Attributes:
        scans: one row a scan: scan, participant, session, path, further_runs, split, covariates. `further_runs` names
            the session's other runs, which are averaged with the first.
        excluded: scan, path, excluded_from, reason. A scan that lacks a covariate stays in `scans`, because the
            autoencoder needs none; it is listed here as left out of the SCM.
        notes: about, note: what is read otherwise than it is written, and what looks like a mistake.
        drawn: participant → part of the split, where it was drawn; those of excluded participants, too.
    """

    scans: pd.DataFrame
    excluded: pd.DataFrame
    notes: pd.DataFrame
    drawn: Mapping[str, str]


def index_cohort(
    bids_dir: Path,
    options: CohortOptions,
    covariates: Collection[str],
    seed: int,
    measured: Collection[str] = MEASURED,
    levels: Mapping[str, Sequence[str]] | None = None,
    are_new: bool = False,
    drawn_before: Mapping[str, str] = NOBODY,
) -> Cohort:
    """Index a BIDS folder once, so that no later step has to look into it again.

    Args:
        bids_dir: top of the BIDS folder.
        options: which scans are wanted, shares of the split and the covariates that it is balanced on.
        covariates: columns that the graph's nodes are named after.
        seed: of the split.
        measured: what preprocessing will measure, and a node may therefore be named after.
        levels: column → levels as the graph spells them.
        are_new: the scans are put to a study that was fitted without them: all are of the test part.
        drawn_before: participant → part of the split, as an earlier index drew it; unless `cohort.split` names a
            column, or a group, it is kept.

    Raises:
        BrainSCMError: the folder or its tables cannot be read, or no scan is left.
        ConfigError: a covariate of the graph is a column of no table, or what is asked for is not there.
    """
    found = find_t1w(bids_dir, wanted_suffix(options))
    chosen, refused = choose_scans(found.files, refuse_files(options, found.files))
    if not chosen:
        raise BrainSCMError(
            f"bids_dir: none of the T1w files of {bids_dir} can be used: {_most_frequent([*found.left_out, *refused])}"
        )
    scans = _scan_rows(chosen)
    tables = read_tables(bids_dir, sorted(set(scans["participant"])))
    _check_ids(bids_dir, {file.participant for file in found.files}, tables)

    known = tables.conflicts
    conflicts = pd.Series(
        [
            known.get(scan) or known.get(participant, "")
            for scan, participant in zip(scans["scan"], scans["participant"], strict=True)
        ],
        index=scans.index,
        dtype=object,
    )
    in_conflict = _left_out(scans, conflicts)
    scans = scans[conflicts == ""].reset_index(drop=True)
    if scans.empty:
        raise BrainSCMError(f"bids_dir: every scan of {bids_dir} is left out: {_most_frequent(in_conflict)}")

    _join(scans, tables)
    _check_columns(scans, covariates, measured, tables, bids_dir)
    unwanted, unwanted_by_scm = excluded_scans(options, scans), excluded_from_scm(options, scans)
    notes = [*tables.notes, *_notes_on_files(chosen, refused)]
    own_split = _own_split(scans, unwanted == "", None if are_new else options.split.column, tables, notes)
    if are_new:
        own_split = pd.Series("test", index=scans.index)
    columns = [column for column in map(str, scans) if column not in IDENTITY]
    values = read_values(scans, columns, {*covariates, *options.stratify}, levels, tables.levels)
    notes += [*values.notes, *_notes_on_visits(scans, covariates)]
    nearest = _unmatched(scans, tables, notes)
    scans.insert(len(IDENTITY), SPLIT, _split(scans, options, seed, drawn_before) if own_split is None else own_split)
    drawn = dict(zip(scans["participant"], scans[SPLIT], strict=True)) if own_split is None else {}
    _tell_moved(drawn, drawn_before)

    left_out = [
        *((item, EVERYTHING) for item in (*found.left_out, *refused, *in_conflict)),
        *((item, EVERYTHING) for item in _rows_without_scan(tables, found.files, found.left_out, nearest)),
        *((item, EVERYTHING) for item in _left_out(scans, unwanted)),
    ]
    left_out += [(item, SCM) for item in _left_out(scans, unwanted_by_scm)]
    if (unwanted_by_scm != "").any():
        scans[LEFT_OUT_OF_SCM] = unwanted_by_scm.replace("", None)
    scans = scans[unwanted == ""]
    left_out += [(item, SCM) for item in _incomplete(scans, covariates, values, nearest)]
    excluded = pd.DataFrame(
        [(item.scan, item.path, stage, item.reason) for item, stage in left_out],
        columns=["scan", "path", "excluded_from", "reason"],
    ).sort_values("scan", kind="stable")
    for about, note in notes[:NOTES_SHOWN]:
        logger.warning("%s: %s", about, note)
    _tell_left_out(left_out)
    logger.info(
        "%d scans of %d participants; %d rows left out", len(scans), scans["participant"].nunique(), len(excluded)
    )
    told = pd.DataFrame(notes, columns=["about", "note"])
    return Cohort(scans.reset_index(drop=True), excluded, told, drawn)


def _scan_rows(chosen: list[list[T1wFile]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scan": first.scan,
            "participant": first.participant,
            "session": first.session or None,
            "path": first.path,
            "further_runs": RUN_SEPARATOR.join(Path(run.path).name for run in others) or None,
        }
        for first, *others in chosen
    )


def _left_out(scans: pd.DataFrame, reasons: pd.Series) -> list[LeftOut]:
    """The scans that have a reason, by row; "" is none."""
    rows = zip(scans["scan"], scans["path"], reasons, strict=True)
    return [LeftOut(str(scan), str(path), str(reason)) for scan, path, reason in rows if reason]


def _check_ids(bids_dir: Path, folders: set[str], tables: Tables) -> None:
    """Refuse a participants.tsv of which no row belongs to a folder."""
    listed = [*tables.participants.index, *tables.conflicts]
    if not len(tables.participants) or folders.intersection(listed):
        return
    meant = near_matches(sorted(folders), listed)
    hint = "; ".join(f"'{row}' may be meant for {folder}" for folder, row in list(meant.items())[:2])
    raise BrainSCMError(
        f"{bids_dir / 'participants.tsv'}: none of its participants ({listed[0]}, ...) has a folder "
        f"({min(folders)}, ...); write the ids as the folders have them" + (f" ({hint})." if hint else ".")
    )


def _join(scans: pd.DataFrame, tables: Tables) -> None:
    """Add what the tables say of each scan; what they say of its session goes before.

    Where nothing is known of a session, what holds for the participant is taken; but not the age, where the participant
    has one of another session.
    """
    of_sessions = scans["scan"].isin(tables.sessions.index)
    for column in tables.participants:
        if column not in IDENTITY:
            scans[column] = scans["participant"].map(tables.participants[column])
    for column in tables.sessions:
        if column not in IDENTITY:
            own = scans["scan"].map(tables.sessions[column])
            known = own.notna()
            if is_age(str(column)):
                aged = {scan.partition("_")[0] for scan in tables.sessions.index[tables.sessions[column].notna()]}
                known |= of_sessions & scans["participant"].isin(aged)
            scans[column] = own if column not in scans else own.where(known, scans[column])


def _check_columns(
    scans: pd.DataFrame, covariates: Collection[str], measured: Collection[str], tables: Tables, bids_dir: Path
) -> None:
    for name in covariates:
        if name in scans or name in measured or name.removesuffix("_ml") in measured:
            continue
        if name in (BASELINE, SINCE) and AGE in scans:
            continue
        known = [c for c in map(str, scans) if c not in IDENTITY] + sorted(measured)
        cased = {column.casefold(): column for column in reversed(known)}
        nearest = difflib.get_close_matches(name.casefold(), list(cased), n=1)
        hint = f"did you mean '{cased[nearest[0]]}'?" if nearest else f"known are: {', '.join(known)}."
        raise ConfigError(
            f"config: scm.nodes.{name}: no column '{name}' in {bids_dir.name}/participants.tsv or sessions.tsv, and "
            f"preprocessing does not measure it; {tables.hint or hint}"
        )


def _notes_on_files(chosen: list[list[T1wFile]], refused: list[LeftOut]) -> list[tuple[str, str]]:
    notes = []
    several = {item.scan for item in refused if item.reason.startswith(ANOTHER)}
    if several:
        kinds = Counter(runs[0].protocol_and_run[0].removeprefix("_") for runs in chosen if runs[0].scan in several)
        taken = ", ".join(f"{kind or 'the one without more entities'} ({n})" for kind, n in kinds.most_common(SHOWN))
        told = f"{len(several)} sessions have several kinds of T1w, of which the first by name is taken: {taken}"
        notes.append(("files", f"{told}; cohort.filter chooses otherwise"))
    agents = [runs[0].scan for runs in chosen if runs[0].entity("ceagent")]
    if agents:
        told = f"{len(agents)} scans have a contrast agent (ce-: {some(agents)}), which brightens vessels and membranes"
        notes.append(("contrast agent", told))
    derived = [runs[0].scan for runs in chosen if runs[0].is_derived]
    if derived:
        told = f"{len(derived)} scans are not raw (desc-: {some(derived)}); give them as the scanner made them"
        notes.append(("derivatives", told))
    with_session = {runs[0].participant for runs in chosen if runs[0].session}
    twice = sorted(with_session & {runs[0].participant for runs in chosen if not runs[0].session})
    if twice:
        told = f"{len(twice)} participants have a T1w both with and without a session ({some(twice)})"
        notes.append(("sessions", f"{told}: if it is one scan, remove one of the two"))
    return notes


def _notes_on_visits(scans: pd.DataFrame, covariates: Collection[str]) -> list[tuple[str, str]]:
    """Participants with several sessions and one age: the baseline's, most likely, for all of them."""
    notes = []
    for column in (column for column in covariates if column in scans and is_age(column) and column != BASELINE):
        ages = scans.groupby("participant")[column]
        same = (ages.count() > 1) & (ages.nunique() == 1)
        if same.any():
            told = (
                f"{int(same.sum())} participants have one {column} for several sessions ({some(same.index[same])}); "
                "give each session its own in sessions.tsv, if it is the baseline's"
            )
            notes.append((column, told))
        if not pd.api.types.is_numeric_dtype(scans[column]):
            continue
        several = scans[scans["participant"].duplicated(keep=False)]
        younger = [name for name, rows in several.groupby("participant") if _falls(rows["session"], rows[column])]
        if younger:
            told = f"{len(younger)} participants are younger at a later session ({some(map(str, younger))})"
            notes.append((column, f"{told}; look whether their sessions are exchanged"))
    return notes


def _falls(sessions: pd.Series, ages: pd.Series) -> bool:
    """Whether ages fall from one numbered session to a later one; what else sessions are called by has no order."""
    numbered = [re.fullmatch(r"(\D*)(\d+)", str(session)) for session in sessions]
    if len(numbered) < 2 or not all(numbered) or len({match[1] for match in numbered if match}) > 1:
        return False
    in_order = ages.iloc[sorted(range(len(ages)), key=lambda k: int(numbered[k][2]))].dropna()  # type: ignore[index]
    return bool((in_order.diff() < 0).any())


def _unmatched(scans: pd.DataFrame, tables: Tables, notes: list[tuple[str, str]]) -> dict[str, str]:
    """Tell of scans without a row and rows without a scan that are probably one another's.

    Returns:
        participant or scan → the id of the row that is probably meant for it.
    """
    nearest: dict[str, str] = {}
    halves = [("participants.tsv", set(scans["participant"]), set(tables.participants.index))]
    if len(tables.sessions):
        of_sessions = set(scans.loc[scans["session"].notna(), "scan"])
        halves.append((SESSIONS, of_sessions, set(tables.sessions.index)))
    for where, scanned, listed in halves:
        rowless, scanless = scanned - listed, listed - scanned
        found = near_matches(sorted(rowless), sorted(scanless))
        nearest |= found
        if found:
            pairs = some(f"'{row}' for {folder}" for folder, row in found.items())
            told = f"{len(found)} ids nearly match those of the folders and are not used: {pairs}; write them alike"
            notes.append((where, told))
    if len(tables.sessions):
        of_ours = {name for name in tables.sessions.index if name.partition("_")[0] in set(scans["participant"])}
        rest = of_ours - set(scans["scan"]) - set(nearest.values())
        if rest:
            notes.append((SESSIONS, f"{len(rest)} rows are of sessions without a T1w ({some(rest)})"))
    return nearest


def _rows_without_scan(
    tables: Tables, files: list[T1wFile], left_out: list[LeftOut], nearest: Mapping[str, str]
) -> list[LeftOut]:
    """Participants of the table who have no folder; one that nearly matches a folder is told there."""
    known = {file.participant for file in files} | {item.scan.partition("_")[0] for item in left_out}
    lacking = sorted(set(tables.participants.index) - known - set(nearest.values()))
    return [LeftOut(participant, None, "no T1w file in the BIDS folder") for participant in lacking]


def _own_split(
    scans: pd.DataFrame, wanted: pd.Series, column: str | None, tables: Tables, notes: list[tuple[str, str]]
) -> pd.Series | None:
    """The split of each scan by the study's own column, "" for scans that are left out; None if it is to be drawn.

    A column `split` of the tables is taken out of `scans`, where the index writes its own.
    """
    own = None
    if column is not None:
        own = split_by_column(scans[wanted], column, tables.differing).reindex(scans.index, fill_value="")
    if SPLIT in scans:
        del scans[SPLIT]
        if column != SPLIT:
            told = f"the tables' own column is not used; cohort.split: {{column: {SPLIT}}} takes the split from it"
            notes.append((SPLIT, told))
    return own


def _split(scans: pd.DataFrame, options: CohortOptions, seed: int, drawn_before: Mapping[str, str]) -> pd.Series:
    """The split of each scan; excluded ones are dealt out, too, so that excluding one leaves the others' split."""
    stratify = [column for column in options.stratify if column in scans]
    for column in options.stratify:
        if column not in stratify:
            logger.warning("config: cohort.stratify: no column '%s'; the split is not balanced in it", column)
    by_participant = scans.groupby("participant")
    if options.split.group:
        groups = by_participant[_known_column(scans, options.split.group)].first()
        return scans["participant"].map(split_groups(groups, options.split, seed))
    participants = by_participant[stratify].first() if stratify else by_participant[["scan"]].first()[[]]
    return scans["participant"].map(split_participants(participants, options.split, stratify, seed, drawn_before))


def _tell_moved(drawn: Mapping[str, str], drawn_before: Mapping[str, str]) -> None:
    """Say what has become of an earlier split, since another one is a reason to train again."""
    known = drawn.keys() & drawn_before.keys()
    if known:
        moved = sum(drawn[participant] != drawn_before[participant] for participant in known)
        told = "split: %d participants stay in their part, %d have moved, %d are new"
        logger.info(told, len(known) - moved, moved, len(drawn) - len(known))


def _incomplete(
    scans: pd.DataFrame, covariates: Collection[str], values: Values, nearest: Mapping[str, str]
) -> list[LeftOut]:
    """Scans that lack a covariate of the graph, with what was written in its place or is probably meant for it."""
    given = [column for column in covariates if column in scans]
    found = []
    for position in scans.index[scans[given].isna().any(axis=1)]:
        row = scans.loc[position]
        reasons = [values.unusable.get((position, column), f"no {column}") for column in given if pd.isna(row[column])]
        meant = nearest.get(row["scan"]) or nearest.get(row["participant"])
        hint = [f"the row of '{meant}' is probably meant for it: write the id as the folder has it"] if meant else []
        found.append(LeftOut(row["scan"], row["path"], "; ".join(reasons + hint)))
    return found


def _tell_left_out(left_out: list[tuple[LeftOut, str]]) -> None:
    """Say on the terminal how many rows are left out for what reason, the most frequent first."""
    counts = Counter((stage, item.reason) for item, stage in left_out)
    for (stage, reason), count in counts.most_common(10):
        logger.warning("left out of %s: %d × %s", stage, count, reason)


def _most_frequent(left_out: list[LeftOut]) -> str:
    (reason, count), *_ = Counter(item.reason for item in left_out).most_common(1)
    return f"{reason} ({count} of {len(left_out)})"


def _known_column(scans: pd.DataFrame, column: str) -> str:
    if column not in scans:
        nearest = difflib.get_close_matches(column, list(map(str, scans)), n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else "name one that says who belongs together."
        raise ConfigError(f"config: cohort.split.group: '{column}' is no column of participants.tsv; {hint}")
    return column
