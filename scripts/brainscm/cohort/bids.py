"""Find the T1w scans of a BIDS folder, and choose those of each session that are used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainscm.errors import BrainSCMError
from brainscm.tsv import is_fetched

NAME = re.compile(
    r"^(?P<participant>sub-[A-Za-z0-9]+)(?:_(?P<session>ses-[A-Za-z0-9]+))?"
    r"(?P<entities>(?:_[a-z]+-[A-Za-z0-9]+)*)_(?P<suffix>T1w|UNIT1)\.nii(?:\.gz)?$"
)
RUN = re.compile(r"_run-(\d+)")
# BIDS's words for the parts of a file's name, and how they are abbreviated there.
ENTITIES = {
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "run": "run",
    "echo": "echo",
    "inversion": "inv",
    "part": "part",
}
SUFFIX, SUFFIXES = "suffix", ("T1w", "UNIT1")
ANOTHER = "another"  # begins the reason of files that are left out for a better one
MISSPELT = re.compile(r"(?!sub-)[Ss][Uu][Bb][-_]")  # folders that are probably participants
IMAGE = re.compile(r"\.(nii|mgz|mgh|img|mnc|nrrd)(\.|$)", re.IGNORECASE)
ALMOST = re.compile(r"t1w?(?![a-z0-9])", re.IGNORECASE)  # begins the last part of what is probably a T1w's name
NO_MAGNITUDE = ("phase", "real", "imag")
OWN_SPACES = ("orig", "native", "scanner", "individual", "T1w")  # in which a head has the size that it has


@dataclass(frozen=True, order=True)
class T1wFile:
    participant: str
    session: str
    entities: str
    path: str
    suffix: str = "T1w"

    @property
    def scan(self) -> str:
        return self.participant if self.session == "" else f"{self.participant}_{self.session}"

    @property
    def is_derived(self) -> bool:
        """Whether its name says that it is not as the scanner made it."""
        return "_desc-" in self.entities or "_space-" in self.entities

    @property
    def protocol_and_run(self) -> tuple[str, int]:
        """The remaining entities without the run, and the run's number (-1 without one)."""
        run = RUN.search(self.entities)
        return RUN.sub("", self.entities), int(run[1]) if run else -1

    def entity(self, key: str) -> str | None:
        """The value of an entity (`acquisition`, …) or of `suffix`; None where the name has none."""
        if key == SUFFIX:
            return self.suffix
        found = re.search(rf"_{ENTITIES[key]}-([A-Za-z0-9]+)", self.entities)
        return found[1] if found else None

    def matches(self, key: str, values: Any) -> bool:
        """Whether an entity has one of the values (or the one); numbers count as such, so that run 1 is run-01."""
        own = self.entity(key)
        wanted = values if isinstance(values, list) else [values]
        return own is not None and any(_plain(own) == _plain(value) for value in wanted)


@dataclass(frozen=True)
class LeftOut:
    """A file, or a participant without one, that is not analysed, and why."""

    scan: str
    path: str | None
    reason: str


@dataclass
class Found:
    """The T1w files of a folder, sorted by participant, session and remaining entities, and what is left out."""

    files: list[T1wFile] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def find_t1w(bids_dir: Path, suffix: str = SUFFIXES[0]) -> Found:
    """List the T1w files of a BIDS folder.

    Only `sub-*/[ses-*/]anat/` is visited, by scandir: 10,000 scans take a fraction of a second where a full BIDS index
    takes many. A participant whose folder cannot be read, or gives no T1w, is left out with the reason; so is a file
    whose name says another participant or session than its folder does.

    Args:
        suffix: of the files' names: `T1w`, or `UNIT1` for the uniform images of MP2RAGE.

    Raises:
        BrainSCMError: the folder is none, or no file in it has the name of a T1w.
    """
    if not bids_dir.is_dir():
        raise BrainSCMError(f"bids_dir: {bids_dir} is not a folder; set it to the top of a BIDS data set.")
    found = Found()
    found.left_out += [LeftOut(name, None, reason) for name, reason in _no_participants(bids_dir)]
    for folder in list_folders(bids_dir, "sub-"):
        participant = Path(folder).name
        try:
            images = list(list_images(folder))
            if not images and not any(os.scandir(folder)):
                reason = f"its folder is empty; fetch what it holds (for DataLad: `datalad get -n {participant}`)"
                found.left_out.append(LeftOut(participant, None, reason))
                continue
        except OSError as error:
            reason = f"its folder cannot be read ({error.strerror}: {error.filename}); mend its permissions"
            found.left_out.append(LeftOut(participant, None, reason))
            continue
        _sort_out(folder, images, suffix, found)
    if not found.files and not any(left_out.path for left_out in found.left_out):
        lower = sorted({path.parent for path in bids_dir.glob("*/sub-*")})
        hint = "check the path, or convert DICOM to BIDS first."
        if found.left_out:
            hint = f"{found.left_out[0].scan}: {found.left_out[0].reason}."
        elif lower:
            hint = f"did you mean {lower[0]}?"
        raise BrainSCMError(
            f"bids_dir: no sub-*/[ses-*/]anat/*_{suffix}.nii[.gz] under {bids_dir} that can be read; {hint}"
        )
    found.files.sort()
    return found


def list_folders(parent: str | Path, prefix: str) -> list[str]:
    return sorted(entry.path for entry in os.scandir(parent) if entry.name.startswith(prefix) and _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _no_participants(bids_dir: Path) -> Iterator[tuple[str, str]]:
    """What stands beside the participants' folders and was probably meant to be one: its name, and what is wrong."""
    for entry in sorted(os.scandir(bids_dir), key=lambda entry: entry.name):
        if MISSPELT.match(entry.name) and _is_folder(entry):
            yield _printable(entry.name), "its name does not begin with sub-, as BIDS asks; rename it"
        elif entry.name.startswith("sub-") and not _is_folder(entry):
            told = (
                "a link that leads nowhere; mend it"
                if entry.is_symlink()
                else "a file, not a folder; unpack or move it"
            )
            yield _printable(entry.name), f"it is {told}"


def list_images(participant: str) -> Iterator[tuple[str, str]]:
    """(session or "", path) of each image in a participant's `[ses-*/]anat`."""
    for parent in (participant, *list_folders(participant, "ses-")):
        session = "" if parent == participant else Path(parent).name
        anat = Path(parent, "anat")
        if anat.is_dir():
            names = sorted(entry.name for entry in os.scandir(anat) if IMAGE.search(entry.name))
            yield from ((session, str((anat / name).absolute())) for name in names if not name.startswith("."))


def _sort_out(folder: str, images: list[tuple[str, str]], suffix: str, found: Found) -> None:
    """Tell a participant's T1w files from the rest; a participant without any is left out."""
    participant = Path(folder).name
    if not re.fullmatch(r"sub-[A-Za-z0-9]+", participant):
        reason = "its name is not sub- with letters and digits alone, as BIDS asks; rename folder and files"
        found.left_out.append(LeftOut(participant, None, reason))
        return
    named = False
    for session, path in images:
        name = Path(path).name
        match = NAME.match(name)
        if not match and suffix == "T1w" and ALMOST.match(name.rpartition("_")[2]):
            named = True
            told = "is no name of a T1w in BIDS (sub-X[_ses-Y][_key-value]_T1w.nii.gz); rename or convert it"
            held = "_".join(filter(None, (participant, session)))
            found.left_out.append(LeftOut(held, _printable(path), f"{_printable(name)} {told}"))
        if not match or match["suffix"] != suffix:
            continue
        named = True
        file = T1wFile(match["participant"], match["session"] or "", match["entities"], path, suffix)
        if (file.participant, file.session) == (participant, session):
            found.files.append(file)
        else:
            own, held = file.scan, "_".join(filter(None, (participant, session)))
            reason = f"its name says {own}, the folder that it lies in {held}; find out which is right and rename"
            found.left_out.append(LeftOut(held, path, reason))
    if not named:
        others = [_printable(name) for name in sorted({Path(path).name for _, path in images})]
        others = others or _images_elsewhere(folder)
        reason = f"no {participant}[_ses-Y]_{suffix}.nii[.gz] in {participant}/[ses-Y/]anat"
        reason += f" (there: {', '.join(others[:3])}{', …' if len(others) > 3 else ''})" if others else ""
        if suffix == "T1w" and any("_UNIT1." in name for name in others):
            reason += "; take the uniform image of MP2RAGE by cohort.filter: {suffix: UNIT1}"
        found.left_out.append(LeftOut(participant, None, reason))


def _printable(name: str) -> str:
    """A file's name with the bytes that are no text written as they are, such as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _images_elsewhere(folder: str) -> list[str]:
    """Images of a participant outside `[ses-*/]anat`, by their place in the participant's folder."""
    found = (Path(parent, name).relative_to(folder) for parent, _, names in os.walk(folder) for name in names)
    return sorted(_printable(str(path)) for path in found if IMAGE.search(path.name) and ALMOST.search(path.name))


def choose_scans(
    files: Iterable[T1wFile], refuse: Callable[[T1wFile], str | None] = lambda file: None
) -> tuple[list[list[T1wFile]], list[LeftOut]]:
    """Choose the T1w of each session, with all its runs; say why the others are left out.

    The first by its entities is taken (without contrast agent, raw, no acq-, lowest run-), and with it the files that
    differ from it in nothing but the number of the run: preprocessing averages them. A file whose content is not there,
    as in a data set that was cloned and not fetched, one in a template's space, and one that is no magnitude image, is
    left out.

    Args:
        refuse: why a file may not be chosen, or None: the study's own filters.

    Returns:
        The chosen sessions, each a list of runs, and the rest.
    """
    chosen: dict[str, list[T1wFile]] = {}
    left_out = []
    for file in sorted(files, key=_preference):
        runs = chosen.setdefault(file.scan, [])
        reason = refuse(file) or _unusable(file)
        if reason is None and runs and not _is_further_run(runs, file):
            reason = f"{ANOTHER} {file.suffix} of this session is used: {Path(runs[0].path).name}"
        if reason is None:
            runs.append(file)
        else:
            left_out.append(LeftOut(file.scan, file.path, reason))
    return [runs for runs in chosen.values() if runs], left_out


def _preference(file: T1wFile) -> tuple[Any, ...]:
    return file.participant, file.session, file.entity("ceagent") is not None, file.is_derived, *file.protocol_and_run


def _unusable(file: T1wFile) -> str | None:
    if file.entity("part") in NO_MAGNITUDE:
        return f"it is the {file.entity('part')} part of a complex image"
    if "_chunk-" in file.entities:
        return "it is a piece of an image (chunk-); give the whole head in one file"
    space = re.search(r"_space-([A-Za-z0-9]+)", file.entities)
    if space and space[1] not in OWN_SPACES:
        return f"it lies in the space of {space[1]}, and may have been scaled to it; give the raw T1w"
    if not is_fetched(Path(file.path)):
        return "its content is not there (a dangling link or a pointer); fetch it (for DataLad: `datalad get`)"
    return None


def _is_further_run(runs: list[T1wFile], file: T1wFile) -> bool:
    """Whether a file is another run of the same protocol: all have a run number, it a new one, all else is alike."""
    (protocol, first), (_, last) = runs[0].protocol_and_run, runs[-1].protocol_and_run
    own_protocol, own = file.protocol_and_run
    return own_protocol == protocol and first >= 0 and own not in (-1, last)


def _plain(value: Any) -> str:
    text = str(value)
    return str(int(text)) if text.isdecimal() else text
