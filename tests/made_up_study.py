"""A whole study in seconds for tests: drawn brains instead of preprocessed scans, then the real later stages on them.

The brains are ellipsoids of white matter in a shell of grey matter, with ventricles that widen with age. Everything
after preprocessing (PCA, latents, causal model, counterfactuals) is made by the workflow's own functions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

from brainscm.bundle import INTERVALS
from brainscm.config import Config
from brainscm.counterfactuals.collect import collect
from brainscm.counterfactuals.intervals import IntervalFactors
from brainscm.counterfactuals.synthesis import synthesize
from brainscm.encoding.model import save_encoder
from brainscm.encoding.pca import PCA
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.interval_factors import learn_factors
from brainscm.evaluation.stage import evaluate
from brainscm.files import scan_folder
from brainscm.identity import Identity
from brainscm.latents.encode import encode_scans
from brainscm.latents.encoded import EncodedScans
from brainscm.preprocess.itk import write_matrix
from brainscm.questions import read_queries
from brainscm.regions import Geometry
from brainscm.report.gallery import Gallery
from brainscm.report.study import Study as ReportStudy
from brainscm.scans import ScanTable
from brainscm.scm.model import Scm, load_scm
from brainscm.scm.stage import run as fit_scm
from brainscm.tables import write_table
from brainscm.training.code_use import codes_table
from brainscm.training.reconstruction import reconstruction_table
from made_up_measure import measured_by

SHAPE = (24, 32, 24)
VOXEL_MM = 6.0
IDENTITY = Identity(template="Drawn", voxel_mm=VOXEL_MM, transform="affine")
FAILED, WARNED = "sub-03", "sub-05"
CONFIG: dict[str, Any] = {
    "preprocess": {"voxel_mm": 4.0},
    "autoencoder": {"kind": "pca", "components": 8},
    "scm": {
        "nodes": {
            "age": {"unit": "years"},
            "sex": {"levels": ["F", "M"]},
            "ventricles": {"unit": "ml", "formula": "age + sex", "family": "gamma"},
        },
        # Twenty participants whose brains differ in three numbers: plain least squares is at its best.
        "image": {"formula": "age + sex + ventricles", "shrinkage": "none"},
        "contrasts": {"ageing": {"age": [50, 80]}},
    },
    "counterfactuals": [
        {"name": "older-by-20", "do": {"age": "+20"}},
        {"name": "man", "do": {"sex": "M"}, "decode": "direct", "effect": "direct"},
    ],
}


@dataclass(frozen=True)
class DrawnTemplate:
    """What the later stages need of a template."""

    name: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    brain: np.ndarray
    brain_mask: np.ndarray

    @property
    def gm(self) -> np.ndarray:
        return (self.brain >= 0.45) & (self.brain < 0.85)

    @property
    def wm(self) -> np.ndarray:
        return self.brain >= 0.85

    @property
    def csf(self) -> np.ndarray:
        return self.brain_mask & (self.brain < 0.45)

    @property
    def ventricles(self) -> np.ndarray:
        return self.csf

    @property
    def medial_temporal(self) -> np.ndarray:
        return self.gm & (np.arange(self.shape[2]) < self.shape[2] // 3)


def draw_brain(
    age: float, rng: np.random.Generator | None = None, shape: tuple[int, int, int] = SHAPE
) -> tuple[np.ndarray, np.ndarray]:
    """A brain (x, y, z) whose ventricles widen with age, and its mask; noise and individual shape only with `rng`."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    stretch = 1 + (0.04 * rng.standard_normal(3) if rng else np.zeros(3))
    radius = np.sqrt(sum((axis * factor / 0.85) ** 2 for axis, factor in zip(axes, stretch, strict=True)))
    mask = radius < 1
    inner = np.sqrt(sum((axis / extent) ** 2 for axis, extent in zip(axes, (0.28, 0.42, 0.25), strict=True)))
    widening = 0.7 + 0.008 * (age - 50)
    csf = 1 / (1 + np.exp(12 * (inner - widening)))
    shell = 1 / (1 + np.exp(-30 * (radius - 0.8 - 0.0015 * (age - 50))))
    volume = (1 - 0.35 * shell) * (1 - csf) + 0.15 * csf
    if rng:
        volume = volume + 0.02 * rng.standard_normal(shape)
    return np.where(mask, volume, 0).astype(np.float32), mask


@measured_by
def measure(volume: np.ndarray, mask: np.ndarray, head_size: float) -> dict[str, float]:
    """Regional volumes in ml by fixed thresholds; brains are drawn, and measured, in one size."""
    ml = VOXEL_MM**3 / 1000
    inside = volume[mask]
    is_gm = (volume >= 0.45) & (volume < 0.85) & mask
    return {
        "csf": float((inside < 0.45).sum() * ml),
        "gm": float(is_gm.sum() * ml),
        "wm": float((inside >= 0.85).sum() * ml),
        "ventricles": float(np.clip((0.8 - inside) / 0.6, 0, 1).sum() * ml),
        "medial_temporal_gm": float(is_gm[:, :, : volume.shape[2] // 3].sum() * ml),
    }


def template(shape: tuple[int, int, int] = SHAPE) -> DrawnTemplate:
    brain, mask = draw_brain(50, shape=shape)
    return DrawnTemplate("Drawn", shape, _affine(shape), brain, mask)


def make_study(folder: Path, participants: int = 24, seed: int = 0, config: dict[str, Any] | None = None) -> Config:
    """Write the results of a study up to its counterfactuals under `folder`, and return its configuration.

    One scan failed, one has a warning, every third participant has a second session, and one lacks an age.
    """
    options = Config.model_validate({**CONFIG, **(config or {}), "output_dir": folder})
    rng = np.random.default_rng(seed)
    scans, qc = [], []
    for number in range(1, participants + 1):
        participant = f"sub-{number:02d}"
        age, sex = float(rng.uniform(25, 85)), "FM"[number % 2]
        split = "test" if number % 5 == 0 else "validation" if number % 5 == 1 else "train"
        for session in ("ses-1", "ses-2") if number % 3 == 0 else ("ses-1",):
            years = 0.0 if session == "ses-1" else 4.0
            scan = f"{participant}_{session}"
            scans.append(
                {
                    "scan": scan,
                    "participant": participant,
                    "session": session,
                    "path": str(folder / "bids" / participant / session / "anat" / f"{scan}_T1w.nii.gz"),
                    "split": split,
                    "age": None if number == 2 else age + years,
                    "sex": sex,
                }
            )
            outcome = {FAILED: ("fail", "the file is cut short; copy it again"), WARNED: ("warn", "low contrast")}
            qc.append(preprocess(folder, scan, age + years, number, rng, *outcome.get(participant, ("pass", None))))
    write_table(pd.DataFrame(scans), folder / "cohort" / "scans.tsv")
    excluded = [
        {"scan": "sub-90", "path": None, "excluded_from": "everything", "reason": "no T1w file in the BIDS folder"},
        {"scan": "sub-02_ses-1", "path": scans[1]["path"], "excluded_from": "scm", "reason": "no age"},
    ]
    write_table(pd.DataFrame(excluded), folder / "cohort" / "excluded.tsv")
    notes = [{"about": "sex", "note": "'f' (2 cells) are read as 'F'"}]
    write_table(pd.DataFrame(notes), folder / "cohort" / "notes.tsv")
    write_table(pd.DataFrame(qc), folder / "preproc" / "qc.tsv")
    _write_truth(folder / "bids", pd.DataFrame(scans))
    analyse(folder, options, seed)
    return options


def analyse(folder: Path, config: Config, seed: int = 0) -> None:
    """Encode the scans of a study, fit its causal model and answer its queries."""
    encode(folder)
    scm = fit(folder, config, seed)
    learn_factors(scm, open_encoded(folder), measure).write(folder / INTERVALS)
    write_counterfactuals(folder / "counterfactuals", folder, scm, config)


def fit(folder: Path, config: Config, seed: int = 0) -> Scm:
    """Fit the causal model of a study on the training scans of its cohort's index."""
    return fit_scm(open_encoded(folder), config.scm, measure, template().brain_mask, seed, folder / "scm")


def open_encoded(folder: Path) -> EncodedScans:
    """The scans of a made-up study with their latents."""
    return EncodedScans.open(
        folder / "cohort" / "scans.tsv",
        folder / "preproc" / "qc.tsv",
        folder / "latents" / "latents.zarr",
        folder / "autoencoder" / "model.pt",
    )


def open_study(folder: Path, config: Config) -> EvaluationInputs:
    """What the evaluation reads of a made-up study."""
    return EvaluationInputs.open(
        encoded=open_encoded(folder),
        scm=load_scm(folder / "scm", config.scm),
        reconstruction=folder / "autoencoder" / "reconstruction.tsv",
        manifest=folder / "counterfactuals" / "manifest.tsv",
        queries=read_queries(config.counterfactuals),
        bids_dir=folder / "bids",
        components=8,
        measure=measure,
    )


def write_evaluation(folder: Path, inputs: EvaluationInputs) -> None:
    """Evaluate and write what the rule writes."""
    evaluate(inputs, seed=1).write(folder / "evaluation")


def open_gallery(study: ReportStudy) -> Gallery:
    """What draws the report's pictures of a made-up study."""
    return Gallery(study, template())


def save(volume: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(volume.astype(np.float32), _affine(volume.shape)).to_filename(path)


def _affine(shape: tuple[int, ...]) -> np.ndarray:
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = -VOXEL_MM * (np.array(shape) - 1) / 2
    return affine


def preprocess(
    folder: Path,
    scan: str,
    age: float,
    number: int,
    rng: np.random.Generator,
    status: str = "pass",
    reasons: str | None = None,
) -> dict[str, Any]:
    """Draw what preprocessing would write of a scan; its row of qc.tsv. Of one that fails there is nothing."""
    failed = status == "fail"
    # A participant's brain is the same at each visit; the noise of each scan is not.
    volume, mask = draw_brain(age, np.random.default_rng(number))
    volume = np.where(mask, volume + 0.01 * rng.standard_normal(SHAPE), 0)
    anat = scan_folder(scan)
    image, brain_mask = anat / f"{scan}_desc-preproc_T1w.nii.gz", anat / f"{scan}_desc-brain_mask.nii.gz"
    row: dict[str, Any] = {
        "scan": scan,
        "status": status,
        "reasons": reasons,
        "mask_dice": None if failed else 0.9 + 0.02 * rng.random(),
        "head_size": None if failed else 1 + 0.001 * rng.random(),  # brains are drawn, and measured, in one size
    }
    if failed:
        return row
    save(volume, folder / "preproc" / image)
    save(mask, folder / "preproc" / brain_mask)
    figures = folder / "preproc" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray((np.clip(volume[:, :, 12].T[::-1], 0, 1) * 255).astype(np.uint8))
    for kind in ("mask", "registration"):
        picture.resize((160, 120)).save(figures / f"{scan}_{kind}.png")
    to_template = anat / f"{scan}_from-T1w_to-Drawn_mode-image_xfm.mat"
    write_matrix(np.eye(4), folder / "preproc" / to_template)  # brains are drawn in template space
    measured = {f"{region}_ml": value for region, value in measure(volume, Geometry(mask)).volumes_ml(volume).items()}
    measured["mask_volume_ml"] = float(mask.sum() * VOXEL_MM**3 / 1000)
    files = {"preproc_t1w": str(image), "template_mask": str(brain_mask), "to_template": str(to_template)}
    return {**row, **measured, **files}


def _write_truth(bids: Path, scans: pd.DataFrame) -> None:
    """Raw heads (here: brains, 300 times as bright) and the true ones of the same participants 20 years older."""
    rows = []
    for row in scans[scans["split"] == "test"].itertuples():
        number = int(row.participant.removeprefix("sub-"))
        raw, older = (draw_brain(row.age + years, np.random.default_rng(number))[0] for years in (0, 20))
        save(300 * raw, Path(row.path))
        path = Path("derivatives", "truth", f"{row.scan}_desc-olderBy20_T1w.nii.gz")
        save(300 * older, bids / path)
        rows.append({"scan": row.scan, "query": "older-by-20", "effect": "total", "path": str(path)})
    write_table(pd.DataFrame(rows), bids / "derivatives" / "truth" / "counterfactuals.tsv")


def encode(folder: Path) -> None:
    """Fit the encoder on the training scans of a study's index, and encode all of its scans."""
    preproc = folder / "preproc"
    scans = ScanTable.read(folder / "cohort" / "scans.tsv", preproc / "qc.tsv")
    training = np.stack([scans.volume(scan) for scan in scans.of_split("train")["scan"]])[:, None]
    encoder = PCA.fit(training, 8)
    identity = save_encoder(encoder, IDENTITY, folder / "autoencoder" / "model.pt")
    encode_scans(scans, encoder, identity, folder / "latents" / "latents.zarr")
    out = folder / "autoencoder"
    write_table(reconstruction_table(encoder, scans, measure, out / "reconstructions"), out / "reconstruction.tsv")
    history = [
        {"step": step, "split": split, "loss": 1 / step, "psnr_brain_db": 20 + step / 50, "lr": 1e-3} | codebook
        for step in (100, 200, 300)
        for split, codebook in (("train", {}), ("validation", {"codebook_usage": 0.5, "perplexity": 40.0}))
    ]
    write_table(pd.DataFrame(history), folder / "autoencoder" / "history.tsv")
    write_table(codes_table({}), folder / "autoencoder" / "codes.tsv")
    (folder / "autoencoder" / "model.json").write_text(json.dumps({"kind": "pca", "latent_shape": [8, 1, 1, 1]}))


def write_counterfactuals(out_dir: Path, folder: Path, scm: Scm, config: Config) -> Path:
    """Answer the study's queries by a causal model of its latents; the manifest's path."""
    encoded = open_encoded(folder)
    factors = IntervalFactors.read(folder / INTERVALS)
    made = synthesize(scm, encoded, read_queries(config.counterfactuals), measure, factors, out_dir)
    write_table(made.manifest, out_dir / "questions" / "all.tsv")
    write_table(made.regions, out_dir / "regions" / "all.tsv")
    queries = [query.name for query in read_queries(config.counterfactuals)]
    scans, part = list(encoded.scans.rows["scan"]), out_dir / "questions" / "all.tsv"
    collect([part], scans, queries, list(config.scm.nodes), encoded.store.identity, out_dir)
    return out_dir / "manifest.tsv"
