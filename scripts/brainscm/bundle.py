"""A bundle: a fitted study in one folder, to be put to new scans. What it says of itself, and whether it is whole.

Nothing in it is ever run: it is tables, plain values, and arrays that load without pickle.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brainscm
from brainscm.config import Config
from brainscm.errors import BrainSCMError, ConfigError
from brainscm.files import sha256, write_text
from brainscm.identity import Identity
from brainscm.provenance import code_fingerprint

DESCRIPTION, CHECKSUMS = "bundle.json", "SHA256SUMS"
FORMAT = 2
# What a study with a bundle takes from it: sections and options of the configuration.
FIXED = ("template", "preprocess", "autoencoder", "scm", "seed")
MAKING = ("preprocess_scan", "align_scan")  # rules by which a scan becomes what is encoded
MODEL = "autoencoder/model.pt"
REFERENCE = "reference.json"
INTERVALS = "scm/intervals.tsv"  # how wide intervals of regional changes have to be

Options = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A folder that `snakemake bundle` wrote.

    Attributes:
        told: what it says of itself, the content of bundle.json.
    """

    folder: Path
    told: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read what a bundle says of itself, and look whether its files are there.

        Raises:
            ConfigError: it is not a bundle, is of another version, or lacks a file.
        """
        try:
            told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            is_known = told["format"] == FORMAT and set(FIXED) <= set(told["options"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(
                f"config: bundle: {folder.absolute()} is not a bundle ({type(error).__name__} in its {DESCRIPTION}); "
                "name the folder that `snakemake bundle` wrote, results/bundle of the fitted study."
            ) from error
        if not is_known:
            raise ConfigError(
                f"config: bundle: {folder.absolute()} was written by BrainSCM {told.get('version')} in another form "
                "than this version reads; use that version."
            )
        bundle = cls(folder, told)
        for name in bundle.checksums():
            if not (folder / name).is_file():
                raise ConfigError(f"config: bundle: {folder.absolute()} lacks its {name}; copy the whole folder again.")
        return bundle

    @property
    def options(self) -> Options:
        """The configuration of the fitted study, as far as a study with the bundle takes it over.

        Raises:
            ConfigError: it names a file that the bundle does not list.
        """
        options: Options = copy.deepcopy({key: self.told["options"][key] for key in FIXED})
        for section, key in own_files(options).values():
            if section[key] not in self.checksums():
                raise ConfigError(
                    f"config: bundle: {self.folder.absolute()} names a file that it does not hold ({section[key]}); "
                    "do not use it."
                )
            section[key] = str(self.folder.absolute() / section[key])
        return options

    @property
    def identity(self) -> Identity:
        """Of the scans that the study was fitted on, with its encoder's."""
        return Identity.model_validate(self.told["identity"])

    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file, by its path in the folder.

        Raises:
            ConfigError: the list cannot be read.
        """
        try:
            lines = (self.folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
            listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"config: bundle: {self.folder.absolute()} has no list of checksums ({CHECKSUMS}) that can be read; "
                "copy the whole folder again."
            ) from error
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in listed):
            raise ConfigError(f"config: bundle: {self.folder.absolute()} lists files outside itself; do not use it.")
        return listed

    def verify(self) -> None:
        """Make sure that each file is as it was written.

        Raises:
            BrainSCMError: one has changed.
        """
        for name, digest in self.checksums().items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != digest:
                raise BrainSCMError(
                    f"bundle: {path.absolute()} is not as it was written (its checksum differs from that in "
                    f"{CHECKSUMS}); copy the whole folder again."
                )

    def check(self, config: Config) -> None:
        """Make sure that a study asks the bundle about scans made as its own, by the model that it holds.

        Raises:
            ConfigError: an option that the bundle fixes is another in the study, or the study has no scans of its own.
            BrainSCMError: the scans' masks are of another program.
        """
        if not (config.bids_dir or config.dicom_dir):
            raise ConfigError("config: bundle: needs new scans; name their folder by bids_dir or dicom_dir.")
        if config.output_dir.resolve() in (self.folder.resolve(), *self.folder.resolve().parents):
            raise ConfigError(
                f"config: bundle: {self.folder.absolute()} lies in output_dir, whose results would be replaced by "
                "those of the new scans; give this study an output_dir of its own."
            )
        here = config.model_dump(mode="json")
        for key in FIXED:
            if differing := _differing(key, here[key], self.options[key]):
                where, *values = differing
                own, theirs = ("not given" if value is None else repr(value) for value in values)
                raise ConfigError(
                    f"config: {where}: is {own} here and {theirs} in the bundle {self.folder.absolute()}, which "
                    "answers only for scans and a graph like those that it was fitted on; take the option out."
                )
        identity = self.identity.encoded_by("")
        mend = "name the derivatives of the program that the fitted study used, or none if it used none"
        Identity.of(config).check(identity, "config: derivatives", f"the bundle {self.folder.absolute()}", mend)

    def notes(self) -> list[tuple[str, str]]:
        """(about, note): what of this version of BrainSCM makes other scans than the fitted study's."""
        made = self.told.get("making", {})
        changed = [rule for rule in MAKING if rule in made and made[rule] != code_fingerprint(rule)]
        if not changed:
            return []
        versions = f"BrainSCM {self.told['version']} there, {brainscm.__version__} here"
        told = (
            f"the code of {' and '.join(changed)} is not that which made the fitted study's scans ({versions}); "
            "where that matters, use the version that the study was fitted with"
        )
        return [("bundle", told)]


def own_files(options: Options) -> dict[str, tuple[Options, str]]:
    """Where options name files of a study's own, as section and key, by what a bundle calls the file."""
    template, atlas = options["template"], options["preprocess"].get("atlas")
    found = {f"template/{key}": (template, key) for key in ("t1w", "brain_mask") if isinstance(template, dict)}
    return found | {f"atlas/{key}": (atlas, key) for key in ("path", "labels") if atlas}


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of each file below a folder in the form that `sha256sum --check` reads."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_text(folder / CHECKSUMS, "".join(lines))


def _differing(where: str, here: Any, there: Any) -> tuple[str, Any, Any] | None:
    """The first place in which two parts of a configuration differ; an option that is not in `there` is new."""
    if isinstance(here, dict) and isinstance(there, dict):
        for key in there:
            if key not in here:
                return f"{where}.{key}", None, there[key]
            if differing := _differing(f"{where}.{key}", here[key], there[key]):
                return differing
        extra = set(here) - set(there) if where in ("scm.nodes", "scm.contrasts") else set()
        return (f"{where}.{min(extra)}", here[min(extra)], None) if extra else None
    return None if here == there else (where, here, there)
