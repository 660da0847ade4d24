"""Make the cohort's two tables: the scans to analyse, and what is left out with the reason."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from brainscm.cohort.bids import choose_scans, find_t1w, folders_without_t1w, read_participants, read_sessions
from brainscm.cohort.split import split_participants
from brainscm.config import CohortOptions
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.regions import MEASURED
from brainscm.tables import RUN_SEPARATOR
from brainscm.visits import AGE, BASELINE, SINCE

logger = logging.getLogger("brainscm")

IDENTITY = ("scan", "participant", "session", "path", "further_runs")


def index_cohort(
    bids_dir: Path,
    options: CohortOptions,
    covariates: Collection[str],
    seed: int,
    measured: Collection[str] = MEASURED,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Index a BIDS folder once, so that no later step has to look into it again.

    Args:
        bids_dir: top of the BIDS folder.
        options: shares of the split and the covariates that it is balanced on.
        covariates: columns that the graph's nodes are named after.
        seed: of the split.
        measured: what preprocessing will measure, and a node may therefore be named after.

    Returns:
        `scans` (one row a scan: scan, participant, session, path, further_runs, split, covariates) and `excluded`
        (scan, path, excluded_from, reason). `further_runs` names the session's other runs, which are averaged with
        the first. A scan that lacks a covariate stays in `scans`, because the autoencoder needs none; it is listed in
        `excluded` as left out of the SCM.

    Raises:
        BrainSCMError: the folder or its tables cannot be read, or no scan is left.
        ConfigError: a covariate of the graph is a column of no table.
    """
    found = find_t1w(bids_dir)
    chosen, excluded = choose_scans(found)
    files = [runs[0] for runs in chosen]
    participants, conflicts = read_participants(bids_dir)
    sessions = read_sessions(bids_dir, sorted({file.participant for file in files}))

    scans = pd.DataFrame(
        {
            "scan": first.scan,
            "participant": first.participant,
            "session": first.session or None,
            "path": first.path,
            "further_runs": RUN_SEPARATOR.join(Path(run.path).name for run in others) or None,
        }
        for first, *others in chosen
    )
    excluded = excluded.assign(excluded_from="everything")
    in_conflict = scans["participant"].isin(conflicts)
    dropped = scans.loc[in_conflict, ["scan", "path"]].assign(excluded_from="everything")
    dropped["reason"] = scans.loc[in_conflict, "participant"].map(conflicts)
    if len(participants) and not set(participants.index).intersection(scans["participant"]):
        raise BrainSCMError(
            f"{bids_dir / 'participants.tsv'}: none of its participants ({participants.index[0]}, ...) has a folder "
            f"({scans['participant'].iloc[0]}, ...); write the ids as the folders have them."
        )
    scanless = dict.fromkeys(set(participants.index).difference(scans["participant"]), "no T1w file in the BIDS folder")
    scanless |= folders_without_t1w(bids_dir, found)
    without_scan = pd.DataFrame(
        {"scan": participant, "path": None, "excluded_from": "everything", "reason": reason}
        for participant, reason in scanless.items()
    )
    scans = scans[~in_conflict].reset_index(drop=True)

    scans = scans.join(participants.drop(columns=[c for c in scans if c in participants]), on="participant")
    own = sessions.drop(columns=[c for c in IDENTITY if c in sessions])
    for column in own:
        value = scans["scan"].map(own[column])
        scans[column] = value if column not in scans else value.where(value.notna(), scans[column])

    _check_columns(scans, covariates, measured, bids_dir)
    unusable = _coerce_numbers(scans, [c for c in map(str, scans) if c not in IDENTITY])
    incomplete = _missing_covariates(scans, covariates, unusable)

    stratify = [column for column in options.stratify if column in scans]
    for column in options.stratify:
        if column not in stratify:
            logger.warning("config: cohort.stratify: no column '%s'; the split is not balanced in it", column)
    by_participant = scans.groupby("participant")
    covariates_of = by_participant[stratify].first() if stratify else pd.DataFrame(index=list(by_participant.groups))
    split = split_participants(covariates_of, options.split, stratify, seed)
    scans.insert(len(IDENTITY), "split", scans["participant"].map(split))

    tables = [table for table in (excluded, dropped, without_scan, incomplete) if len(table)]
    columns = ["scan", "path", "excluded_from", "reason"]
    excluded = pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)
    excluded = excluded.sort_values("scan", kind="stable")
    logger.info(
        "%d scans of %d participants; %d rows left out", len(scans), scans["participant"].nunique(), len(excluded)
    )
    return scans, excluded


def _check_columns(scans: pd.DataFrame, covariates: Collection[str], measured: Collection[str], bids_dir: Path) -> None:
    for name in covariates:
        if name in scans or name in measured or name.removesuffix("_ml") in measured:
            continue
        if name in (BASELINE, SINCE) and AGE in scans:
            continue
        known = [c for c in scans.columns if c not in IDENTITY] + sorted(measured)
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known are: {', '.join(known)}."
        raise ConfigError(
            f"config: scm.nodes.{name}: no column '{name}' in {bids_dir.name}/participants.tsv or sessions.tsv, and "
            f"preprocessing does not measure it; {hint}"
        )


def _coerce_numbers(scans: pd.DataFrame, columns: list[str]) -> dict[tuple[str, str], str]:
    """Turn columns that are numbers but for a few cells into numbers, and return what those cells held."""
    odd = {}
    for column in columns:
        if pd.api.types.is_numeric_dtype(scans[column]):
            continue
        numbers = pd.to_numeric(scans[column], errors="coerce")
        given = scans[column].notna()
        if given.any() and numbers[given].notna().mean() > 0.5:
            for index in scans.index[given & numbers.isna()]:
                odd[(scans.loc[index, "scan"], column)] = str(scans.loc[index, column])
            scans[column] = numbers
    return odd


def _missing_covariates(
    scans: pd.DataFrame, covariates: Collection[str], unusable: dict[tuple[str, str], str]
) -> pd.DataFrame:
    rows = []
    for row in scans.to_dict("records"):
        reasons = []
        for column in covariates:
            if column in row and pd.isna(row[column]):
                value = unusable.get((row["scan"], column))
                reasons.append(f"no {column}" if value is None else f"{column} '{value}' is not a number")
        if reasons:
            rows.append(
                {"scan": row["scan"], "path": row["path"], "excluded_from": "scm", "reason": "; ".join(reasons)}
            )
    return pd.DataFrame(rows)
