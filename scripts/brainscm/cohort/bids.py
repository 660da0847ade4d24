"""Find the T1w scans of a BIDS folder and the covariates that go with them."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from brainscm.errors import BrainSCMError, one_line
from brainscm.tables import read_table

T1W = re.compile(
    r"^(?P<participant>sub-[A-Za-z0-9]+)(?:_(?P<session>ses-[A-Za-z0-9]+))?"
    r"(?P<entities>(?:_[a-z]+-[A-Za-z0-9]+)*)_T1w\.nii(?:\.gz)?$"
)
RUN = re.compile(r"_run-(\d+)")


@dataclass(frozen=True, order=True)
class T1wFile:
    participant: str
    session: str
    entities: str
    path: str

    @property
    def scan(self) -> str:
        return self.participant if self.session == "" else f"{self.participant}_{self.session}"

    @property
    def protocol_and_run(self) -> tuple[str, int]:
        """The remaining entities without the run, and the run's number (-1 without one)."""
        run = RUN.search(self.entities)
        return RUN.sub("", self.entities), int(run[1]) if run else -1


def find_t1w(bids_dir: Path) -> list[T1wFile]:
    """List every T1w file of a BIDS folder, sorted by participant, session and remaining entities.

    Only `sub-*/[ses-*/]anat/` is visited, by scandir: 10,000 scans take a fraction of a second where a full BIDS index
    takes many.
    """
    if not bids_dir.is_dir():
        raise BrainSCMError(f"bids_dir: {bids_dir} is not a folder; set it to the top of a BIDS data set.")
    found = []
    for participant in _folders(bids_dir, "sub-"):
        for parent in (participant, *_folders(participant, "ses-")):
            anat = Path(parent, "anat")
            if not anat.is_dir():
                continue
            for entry in os.scandir(anat):
                match = T1W.match(entry.name)
                if match:
                    found.append(
                        T1wFile(
                            match["participant"],
                            match["session"] or "",
                            match["entities"],
                            str(Path(entry.path).absolute()),
                        )
                    )
    if not found:
        raise BrainSCMError(
            f"bids_dir: no sub-*/[ses-*/]anat/*_T1w.nii[.gz] under {bids_dir}; "
            "check the path, or convert DICOM to BIDS first."
        )
    return sorted(found)


def _folders(parent: str | Path, prefix: str) -> list[str]:
    return sorted(entry.path for entry in os.scandir(parent) if entry.name.startswith(prefix) and entry.is_dir())


def folders_without_t1w(bids_dir: Path, files: list[T1wFile]) -> dict[str, str]:
    """The `sub-*` folders that gave no scan, each with what may be wrong with it."""
    found = {Path(file.path).relative_to(bids_dir.absolute()).parts[0] for file in files}
    reasons = {}
    for name in (Path(folder).name for folder in _folders(bids_dir, "sub-")):
        if not re.fullmatch(r"sub-[A-Za-z0-9]+", name):
            reasons[name] = "its name is not sub- with letters and digits alone, as BIDS asks; rename folder and files"
        elif name not in found:
            reasons[name] = f"no {name}[_ses-Y]_T1w.nii[.gz] in {name}/[ses-Y/]anat"
    return reasons


def choose_scans(files: list[T1wFile]) -> tuple[list[list[T1wFile]], pd.DataFrame]:
    """Choose the T1w of each session, with all its runs; say why the others are left out.

    The first by its entities is taken (no acq-, lowest run-), and with it the files that differ from it in nothing but
    the number of the run: preprocessing averages them.

    Returns the chosen sessions, each a list of runs, and a table (scan, path, reason) of the rest. A dangling link, as
    a data set fetched without its content leaves behind, counts as missing.
    """
    chosen: dict[str, list[T1wFile]] = {}
    excluded = []
    for file in sorted(files, key=lambda file: (file.participant, file.session, *file.protocol_and_run)):
        runs = chosen.setdefault(file.scan, [])
        if not os.path.exists(file.path):
            excluded.append((file, "the file is a dangling link; fetch its content (for DataLad: `datalad get`)"))
        elif not runs or (_same_protocol(runs[0], file) and file.entities != runs[-1].entities):
            runs.append(file)
        else:
            excluded.append((file, f"another T1w of this session is used: {Path(runs[0].path).name}"))
    rows = [{"scan": file.scan, "path": file.path, "reason": reason} for file, reason in excluded]
    sessions = [runs for runs in chosen.values() if runs]
    return sessions, pd.DataFrame(rows, columns=["scan", "path", "reason"])


def _same_protocol(first: T1wFile, other: T1wFile) -> bool:
    """Whether two files are runs of one protocol: each with a run number, all else alike."""
    (protocol, run), (other_protocol, other_run) = first.protocol_and_run, other.protocol_and_run
    return protocol == other_protocol and min(run, other_run) >= 0


def read_participants(bids_dir: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read participants.tsv into a table indexed by participant, and the participants it contradicts itself about.

    A row given twice alike counts once. Participants whose rows differ are left out of the table and returned with
    the reason. Without the file the table is empty.

    Raises:
        BrainSCMError: the file cannot be read as a TSV with a participant_id column.
    """
    path = bids_dir / "participants.tsv"
    if not path.exists():
        return pd.DataFrame(index=pd.Index([], name="participant")), {}
    table = _read_covariates(path, "participant_id", "sub-").drop_duplicates()
    repeated = table[table["participant_id"].duplicated(keep=False)]
    conflicts = {}
    for participant, rows in repeated.groupby("participant_id"):
        differing = [column for column in rows if rows[column].nunique(dropna=False) > 1]
        values = "; ".join(f"{column} {' and '.join(map(str, rows[column]))}" for column in differing)
        conflicts[str(participant)] = f"listed more than once in participants.tsv with different values ({values})"
    table = table[~table["participant_id"].isin(conflicts)]
    return table.set_index("participant_id").rename_axis("participant"), conflicts


def read_sessions(bids_dir: Path, participants: list[str]) -> pd.DataFrame:
    """Read the sessions tables: `sessions.tsv` at the top, and `sub-X/sub-X_sessions.tsv`, indexed by scan id."""
    tables = []
    top = bids_dir / "sessions.tsv"
    if top.exists():
        tables.append(_read_covariates(top, "participant_id", "sub-"))
    for participant in participants:
        path = bids_dir / participant / f"{participant}_sessions.tsv"
        if path.exists():
            tables.append(_read_covariates(path, "session_id", "ses-").assign(participant_id=participant))
    if not tables:
        return pd.DataFrame(index=pd.Index([], name="scan"))
    table = pd.concat(tables, ignore_index=True)
    if "session_id" not in table:
        raise BrainSCMError(f"{top}: no session_id column; BIDS asks for participant_id and session_id.")
    session = table["session_id"].where(table["session_id"].str.startswith("ses-"), "ses-" + table["session_id"])
    table.index = pd.Index(table["participant_id"] + "_" + session, name="scan")
    if table.index.duplicated().any():
        raise BrainSCMError(
            f"{bids_dir}: {table.index[table.index.duplicated()][0]} is listed twice in the sessions tables; "
            "keep one row a session."
        )
    return table.drop(columns=["participant_id", "session_id"])


def _read_covariates(path: Path, key: str, prefix: str) -> pd.DataFrame:
    try:
        table = read_table(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise BrainSCMError(
            f"{path}: cannot be read as a tab-separated table ({one_line(error)}); save it as UTF-8 TSV."
        ) from error
    if len(table.columns) == 1 and key in table.columns[0] and key != table.columns[0]:
        raise BrainSCMError(f"{path}: its columns are not separated by tabs ('{table.columns[0]}'); save it as TSV.")
    if key not in table:
        nearest = difflib.get_close_matches(key, list(table.columns), n=1, cutoff=0.4)
        hint = f"; did you mean to rename '{nearest[0]}'?" if nearest else ""
        raise BrainSCMError(f"{path}: no {key} column (columns are separated by tabs, not commas or spaces){hint}.")
    table = table.dropna(subset=[key])
    table[key] = table[key].where(table[key].str.startswith(prefix), prefix + table[key])
    return table
