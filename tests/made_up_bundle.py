"""A bundle of the made-up study, two scans put to it, and their report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

import made_up_study
from brainscm.bundle import INTERVALS, REFERENCE
from brainscm.config import Config
from brainscm.counterfactuals.intervals import IntervalFactors
from brainscm.counterfactuals.origin import causal_model_hash
from brainscm.counterfactuals.synthesis import synthesize
from brainscm.encoding.model import encoder_identity, load_encoder
from brainscm.latents.encode import encode_scans
from brainscm.latents.encoded import EncodedScans
from brainscm.questions import read_queries
from brainscm.report.gallery import Gallery
from brainscm.report.render import render_report
from brainscm.report.study import Study
from brainscm.scans import ScanTable
from brainscm.scm.bundling import write_bundle
from brainscm.scm.model import load_scm
from brainscm.scm.new_scans import Reference, assess
from brainscm.scm.portable import load_fitted
from brainscm.tables import read_table, write_table
from brainscm.training.reconstruction import reconstruction_table


def open_encoded(folder: Path, model: Path) -> EncodedScans:
    return EncodedScans.open(
        folder / "cohort" / "scans.tsv", folder / "preproc" / "qc.tsv", folder / "latents" / "latents.zarr", model
    )


def make_bundle(folder: Path, config: Config, moved: Path) -> Path:
    """The bundle of a study, moved away from it, as if to another machine."""
    description = {"Name": "Drawn brains", "License": "CC0"}
    (folder / "bids" / "dataset_description.json").write_text(json.dumps(description))
    write_bundle(
        config,
        folder,
        open_encoded(folder, folder / "autoencoder" / "model.pt"),
        load_scm(folder / "scm", config.scm),
        causal_model_hash(folder / "scm"),
        {"preprocess_scan": "another"},
        folder / "bids",
        folder / "bundle",
    )
    shutil.move(folder / "bundle", moved)
    return moved


def put_to_bundle(source: Path, config: Config, bundle: Path, folder: Path) -> Path:
    """Results of a study of two scans alone, of the fitted study's test split, that were put to its bundle."""
    scans = read_table(source / "cohort" / "scans.tsv")
    chosen = scans[scans["split"] == "test"].iloc[[1, 3]]
    write_table(chosen, folder / "cohort" / "scans.tsv")
    for name, columns in {"excluded": ["scan", "path", "excluded_from", "reason"], "notes": ["about", "note"]}.items():
        write_table(pd.DataFrame(columns=columns), folder / "cohort" / f"{name}.tsv")
    shutil.copytree(source / "preproc", folder / "preproc")
    encode_new(folder, bundle)
    encoded, scm = open_encoded(folder, bundle / "autoencoder" / "model.pt"), load_fitted(bundle / "scm", config.scm)
    out_dir, queries = folder / "counterfactuals", read_queries(config.counterfactuals)
    factors = IntervalFactors.read(bundle / INTERVALS)
    made = synthesize(scm, encoded, queries, made_up_study.measure, factors, out_dir)
    write_table(made.manifest, out_dir / "manifest.tsv")
    write_table(made.regions, out_dir / "regions.tsv")
    kept = folder / "support" / "reconstructions"
    reconstruction = reconstruction_table(encoded.encoder, encoded.scans, made_up_study.measure, kept)
    write_table(reconstruction, folder / "support" / "reconstruction.tsv")
    supported = assess(scm, encoded, reconstruction, Reference.read(bundle / REFERENCE))
    write_table(supported, folder / "support" / "scans.tsv")
    return folder


def encode_new(folder: Path, bundle: Path) -> None:
    model = bundle / "autoencoder" / "model.pt"
    scans = ScanTable.read(folder / "cohort" / "scans.tsv", folder / "preproc" / "qc.tsv")
    encode_scans(scans, load_encoder(model), encoder_identity(model), folder / "latents" / "latents.zarr")


def render_put_to_bundle(config: Config, bundle: Path, folder: Path) -> Study:
    """The report of what `put_to_bundle` wrote, in `report` there; its first scan lies outside what was fitted on."""
    study = Study.read(folder, config.model_copy(update={"bundle": bundle, "output_dir": folder}))
    supported = study.support.assign(warning=["its latent lies further out", None])
    study = replace(study, support=supported)
    render_report(study, Gallery(study, made_up_study.template()), folder / "report")
    return study
