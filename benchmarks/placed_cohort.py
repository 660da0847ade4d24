"""A simulated cohort brought to template space by the place that the simulator gave each head, aligned and encoded.

What takes preprocessing minutes a scan, and is of no matter to what comes after it, takes a second: where a head lies
is known, and its mask and the brightness of its tissues are the simulator's own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainscm.alignment.displacement import inverse_at_nodes, upsample
from brainscm.alignment.registration import Alignment
from brainscm.config import AutoencoderOptions, ScmOptions
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.model import save_encoder
from brainscm.files import scan_folder
from brainscm.identity import Identity
from brainscm.images import Image, write_displacement, write_image, write_volume
from brainscm.latents.encode import encode_scans
from brainscm.latents.encoded import EncodedScans
from brainscm.preprocess.itk import write_matrix
from brainscm.preprocess.template import EMBEDDED, Template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.regions import Geometry
from brainscm.resampling import gaussian_for_voxels, sample
from brainscm.scans import ScanTable
from brainscm.scm.model import Scm
from brainscm.simulation import causal_model
from brainscm.simulation.cohort import head_of
from brainscm.simulation.imaging import HEAD_CENTRE_MM, HeadInScanner
from brainscm.simulation.participant import draw_anatomy
from brainscm.simulation.scanner import acquire
from brainscm.tables import write_table
from brainscm.training.fit import fit_autoencoder
from brainscm.training.task import TrainingTask

WHITE = 3  # the simulator's label of white matter
GRAPH = {
    "nodes": {
        "sex": {"levels": ["F", "M"]},
        "age": {"unit": "years"},
        "ventricles": {"unit": "ml", "formula": "age + sex", "family": "gamma"},
    },
    "image": {"formula": "cr(age, df=3) + sex + log(ventricles)"},
}


def make_cohort(folder: Path, participants: int, template: Template, seed: int = 1, site: str = "A") -> None:
    """Write what preprocessing and alignment write of a cohort; scans that are there are kept."""
    aligner, measure, rows = Alignment.onto(template), MeasureTissues(template), []
    for number in range(1, participants + 1):
        told = folder / "told" / f"{number}.json"
        if not told.exists():
            told.parent.mkdir(parents=True, exist_ok=True)
            told.write_text(json.dumps(_scan(folder, number, template, aligner, measure, seed, site)))
        rows.append(json.loads(told.read_text()))
    table = pd.DataFrame(rows)
    index = ["scan", "participant", "session", "path", "split", "age", "sex"]
    write_table(table[index], folder / "cohort" / "scans.tsv")
    write_table(table.drop(columns=index[1:]), folder / "preproc" / "qc.tsv")


def _scan(
    folder: Path, number: int, template: Template, aligner: Alignment, measure: MeasureTissues, seed: int, site: str
) -> dict[str, Any]:
    scan = f"sub-{number:03d}"
    nodes = causal_model.draw_nodes(causal_model.draw_noise(seed, number))
    nodes = replace(nodes, site=site)
    anatomy = draw_anatomy(head_of(None), seed, scan, nodes.head_size)
    seen = acquire(seed, scan, "ses-01", nodes.site, template.voxel_mm)
    seen = replace(seen, bias=np.zeros_like(seen.bias))
    head = HeadInScanner(anatomy, seen).read(nodes)
    raw = Image(head.image.astype(np.float32), seen.affine)
    to_scan = np.eye(4)
    to_scan[:3, :3] = seen.rotation @ np.diag(anatomy.scale.numpy().astype(float))
    to_scan[:3, 3] = seen.position_mm - to_scan[:3, :3] @ np.array(HEAD_CENTRE_MM)
    inside = sample(raw.with_data(head.labels > 0), template.affine, template.shape, to_scan, order=1) > 0.5
    white = float(np.median(raw.data[head.labels == WHITE]))
    there = sample(gaussian_for_voxels(raw, template.voxel_mm), template.affine, template.shape, to_scan) / white
    volume = np.where(inside, np.clip(there, 0, None), 0).astype(np.float32)
    displacement = aligner.displacement(torch.from_numpy(volume))
    back = inverse_at_nodes(upsample(displacement, template.shape)).numpy()
    anat, head_size = scan_folder(scan), 1 / float(np.linalg.det(to_scan[:3, :3]))
    names = {
        "preproc_t1w": f"{scan}_space-{EMBEDDED}_res-{template.label}_desc-preproc_T1w.nii.gz",
        "template_mask": f"{scan}_space-{EMBEDDED}_res-{template.label}_desc-brain_mask.nii.gz",
        "native_mask": f"{scan}_desc-brain_mask.nii.gz",
        "to_template": f"{scan}_from-T1w_to-{EMBEDDED}_mode-image_xfm.mat",
        "deformation": f"{scan}_from-T1w_to-{EMBEDDED}_mode-image_desc-deformable_xfm.nii.gz",
        "deformation_inverse": f"{scan}_from-{EMBEDDED}_to-T1w_mode-image_desc-deformable_xfm.nii.gz",
    }
    paths = {role: folder / "preproc" / anat / name for role, name in names.items()}
    write_volume(paths["preproc_t1w"], volume, template.grid)
    write_volume(paths["template_mask"], inside.astype(np.float32), template.grid)
    write_displacement(paths["deformation"], displacement.numpy(), template.grid)
    write_displacement(paths["deformation_inverse"], back, template.grid)
    write_image(paths["native_mask"], raw.with_data(head.labels > 0), "scanner")
    write_matrix(to_scan, paths["to_template"])
    path = folder / "bids" / scan / "anat" / f"{scan}_T1w.nii.gz"
    write_image(path, raw, "scanner")
    own = measure(volume, Geometry(inside, head_size, back))
    return {
        "scan": scan, "participant": scan, "session": None, "path": str(path), "age": nodes.age, "sex": nodes.sex,
        "split": ("train", "train", "train", "validation", "test")[number % 5], "status": "pass", "reasons": None,
        "head_size": head_size, **own.levels.as_metrics(),
        **{f"{region}_ml": ml for region, ml in own.volumes_ml(volume).items()},
        **{role: str(anat / name) for role, name in names.items()},
    }  # fmt: skip


def encode_cohort(folder: Path, template: Template, options: AutoencoderOptions, seed: int = 1) -> EncodedScans:
    """The cohort's scans, encoded by an autoencoder that is fitted on those to train; what is there is kept."""
    tables = folder / "cohort" / "scans.tsv", folder / "preproc" / "qc.tsv"
    scans, model, latents = ScanTable.read(*tables), folder / "model.pt", folder / "latents.zarr"
    if not latents.exists():
        identity = Identity(template=EMBEDDED, voxel_mm=template.voxel_mm, transform="affine")
        task = TrainingTask(
            scans_tsv=tables[0],
            qc_tsv=tables[1],
            identity=identity,
            options=options,
            seed=seed,
            work_dir=folder / "work",
        )
        fitted = fit_autoencoder(task)
        encoder = Aligned(fitted.encoder, Alignment.onto(template)).eval()
        encode_scans(scans, encoder, save_encoder(encoder, identity, model), latents)
    return EncodedScans.open(*tables, latents, model)


def fit_cohort(encoded: EncodedScans, seed: int = 1) -> Scm:
    """The causal model of the cohort's training scans."""
    table = encoded.scans.rows.loc[list(encoded.store.scans)]
    store = encoded.store
    return Scm.fit(table, store.latents, ScmOptions.model_validate(GRAPH), seed, store.layout, store.identity)
