"""Write a bundle: all that a fitted study is, without a scan or an id of a training participant."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import brainscm
from brainscm.bundle import (
    DESCRIPTION,
    FIXED,
    FORMAT,
    INTERVALS,
    MODEL,
    REFERENCE,
    Options,
    own_files,
    write_checksums,
)
from brainscm.config import Config, CustomTemplate
from brainscm.errors import BrainSCMError
from brainscm.files import describe_dataset, whole, write_json, write_text
from brainscm.latents.encoded import EncodedScans
from brainscm.preprocess.template_files import EMBEDDED
from brainscm.scm.model import Scm
from brainscm.scm.new_scans import Reference
from brainscm.scm.portable import save_portable
from brainscm.tables import read_table, write_table

logger = logging.getLogger("brainscm")

# Tables of the causal model that speak of effects and counts, and of nobody alone.
TABLES = ("nodes.tsv", "tests.tsv", "implications.tsv", "formulas.tsv", "diagnostics.tsv", "regional_effects.tsv")
SOMEBODY = "one training participant"

README = """# {title}

A fitted BrainSCM study, to be put to new scans: `bundle: <this folder>` in a study file that names their `bids_dir`
(docs/how-to/bundle.md in BrainSCM tells how). Loading it runs no code. `sha256sum --check SHA256SUMS` tells whether
it is whole.

- `bundle.json`: what a study takes over from it (template, preprocessing, autoencoder, graph, seed), how its scans were
  preprocessed, their grid, how many there were, and versions.
- `autoencoder/model.pt`, `model.json`: the autoencoder, with its alignment target, and its card.
- `scm/learnt.json`: levels, ranges, knots and means of the nodes, and the training participants' node values, numbers
  rounded to a quarter of a standard deviation, without ids and in no order but their own: from these it is counted how
  many are near.
- `scm/node_models.npz`, `scm/image_model.npz`: the models of the nodes and of the image.
- `scm/intervals.tsv`: how wide intervals of regional changes have to be.
- `scm/*.tsv`, `scm/effects/`: tables of estimates, tests and diagnostics, and maps of the contrasts.
{own}- `reference.json`: how well the study's own scans are reproduced, and how far out their latents lie.

## What it tells of the participants

There is no scan of theirs in it, no latent, and no id. What there is are statistics of {scans} training scans of
{participants} participants: the smallest and the largest value of each number, the rounded values above, and the
weights of models that were fitted on the scans. Weights that were fitted on few participants may resemble them. Whether
that may be passed on is for the terms of the data to say.

## Licence

BrainSCM is MIT-licensed. The weights and statistics are derived from {data}. The template is {template}.
"""


def write_bundle(
    config: Config,
    results: Path,
    encoded: EncodedScans,
    scm: Scm,
    causal_model: str,
    making: Mapping[str, str],
    data: Path,
    folder: Path,
) -> None:
    """Write the bundle of a study.

    Args:
        config: of the study. results: its results folder.
        encoded, scm: read from there.
        causal_model: hash of the causal model's files, which side-cars name.
        making: fingerprint of the code of each rule by which a scan becomes what is encoded.
        data: the folder of raw scans, which says what its licence is.
        folder: receives the bundle, whole or not at all.

    Raises:
        BrainSCMError: somebody would be named in it.
    """
    rows = encoded.scans.rows
    ids = {*rows["scan"], *rows["participant"]}
    with whole(folder) as partial:
        for name in (MODEL, "autoencoder/model.json", INTERVALS):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / name, partial / name)
        save_portable(scm, partial / "scm")
        for name in TABLES:
            write_table(without_ids(read_table(results / "scm" / name), ids), partial / "scm" / name)
        hidden = shutil.ignore_patterns(".*")  # Snakemake's own
        shutil.copytree(results / "scm" / "effects", partial / "scm" / "effects", ignore=hidden)
        reconstruction = read_table(results / "autoencoder" / "reconstruction.tsv")
        Reference.learn(scm, encoded, reconstruction).write(partial / REFERENCE)
        counts = {"scans": len(scm.training), "participants": int(scm.training["participant"].nunique())}
        grid, options = encoded.scans.grid, _with_own_files(config, partial)
        told: dict[str, Any] = {
            "format": FORMAT,
            "version": brainscm.__version__,
            "options": options,
            "identity": encoded.store.identity.as_json(),
            "grid": {"shape": list(grid.shape), "affine": grid.affine.tolist()},
            "training": counts,
            "causal_model_sha256": causal_model,
            "making": dict(making),
            "data": licence_of(data),
        }
        write_json(partial / DESCRIPTION, told)
        write_text(partial / "README.md", _readme(config, told))
        _refuse_ids(partial, ids)
        write_checksums(partial)
    logger.info("bundle of a study of %d training scans written to %s", counts["scans"], folder)


def without_ids(table: pd.DataFrame, ids: Collection[str]) -> pd.DataFrame:
    """A table in whose words nobody is named."""
    result = table.copy()
    for column in result.select_dtypes(exclude="number"):
        result[column] = result[column].map(lambda cell: _anonymous(cell, ids), na_action="ignore")
    return result


def licence_of(dataset: Path) -> dict[str, str]:
    """What a BIDS folder says of itself that binds whoever passes on what was learnt from it."""
    described = describe_dataset(dataset)
    return {key: str(described[key]) for key in ("Name", "License", "DatasetDOI") if described.get(key)}


def _anonymous(cell: Any, ids: Collection[str]) -> Any:
    if not isinstance(cell, str) or "sub-" not in cell:
        return cell
    return " ".join(SOMEBODY if word.strip(".,;:()") in ids else word for word in cell.split(" "))


def _with_own_files(config: Config, folder: Path) -> Options:
    """Copy the study's own template and atlas into a bundle; the options that it holds, which name the copies."""
    options = {key: value for key, value in config.model_dump(mode="json").items() if key in FIXED}
    for name, (section, key) in own_files(options).items():
        source = Path(section[key])
        section[key] = name + "".join(source.suffixes[-2:] if source.suffix == ".gz" else source.suffixes[-1:])
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / section[key])
    return options


def _refuse_ids(folder: Path, ids: Collection[str]) -> None:
    """Make sure, once all is written, that no text names anybody.

    Raises:
        BrainSCMError: one does.
    """
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".tsv", ".md"):
            text = path.read_text(encoding="utf-8")
            named = [name for name in ids if name in text] if "sub-" in text else []
            if named:
                raise BrainSCMError(
                    f"bundle: {path.relative_to(folder)} would name {min(named)}; take the id out of the study's "
                    "names of nodes, levels and contrasts, or report this."
                )


def _readme(config: Config, told: Mapping[str, Any]) -> str:
    data = told["data"]
    name = data.get("Name", "a data set without a name")
    named = f"the scans of {name} ({data['DatasetDOI']})" if "DatasetDOI" in data else f"the scans of {name}"
    licence = f"whose licence is {data['License']}" if "License" in data else "which names no licence: ask who holds it"
    embedded = "the ICBM152 2009a atlas that nilearn ships, with its own licence"
    template = embedded if config.template == EMBEDDED else f"TemplateFlow's {config.template}, with its own licence"
    if isinstance(config.template, CustomTemplate):
        template = f"the study's own, {config.template.name}, with its own licence"
    title = f"Bundle of a study fitted on {told['training']['scans']} scans"
    own = dict.fromkeys(Path(name).parts[0] for name in own_files(told["options"]))
    files = "".join(f"- `{kind}/`: the study's own {kind}.\n" for kind in own)
    return README.format(title=title, data=f"{named}, {licence}", template=template, own=files, **told["training"])
