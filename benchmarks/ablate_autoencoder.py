"""What each choice of the autoencoder is worth, at the same budget: in reconstruction, and in counterfactuals.

python benchmarks/ablate_autoencoder.py [--run work/truth] [--steps 300] [--participants 8] [--only default fsq …]

Takes the preprocessed scans of a `make bench-truth` run and trains each variant for the same number of steps from the
same seed. Each is evaluated by the reconstruction of participants not trained on, decoded from the continuous latent
and from the quantised one, and by what counts: the study's SCM is fitted on its latents, every question is put to some
test participants, and the answers are compared with the true ones. Writes benchmarks/results/ablation_autoencoder.json
(elsewhere with --output) after each variant; the same command goes on where an earlier one was interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_truth import ROOT
from known_answers import Candidate, Run, evaluate, fit_scm, summarize
from record import RESULTS, circumstances, write

from brainscm.config import AutoencoderOptions
from brainscm.encoding.model import load_encoder
from brainscm.identity import Identity
from brainscm.latents import encode
from brainscm.latents.store import LatentStore
from brainscm.provenance import code_fingerprint
from brainscm.tables import read_table
from brainscm.training import stage as training
from brainscm.training.task import TrainingTask

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one step": {},  # the linear start that the network is trained from
    "l1": {"intensity_loss": "l1"},
    "no ssim": {"ssim_weight": 0.0},
    "gradient": {"gradient_weight": 0.5},
    "fourier": {"fourier_weight": 0.1},
    "latent of 8": {"latent_channels": 8},
    "latent of 16": {"latent_channels": 16},
    "an eighth": {"channels": [32, 64, 128], "latent_channels": 256},  # as many numbers as at a quarter with 32
    "twice the quantizer step": {"quantizer_step": 0.15},
    "four times the quantizer step": {"quantizer_step": 0.3},
    "residual codebooks": {"quantizer": "residual"},
    "one codebook": {"quantizer": "residual", "codebooks": 1, "codebook_size": 512},
    "not aligned": {"alignment": "none"},
    "pca": {"kind": "pca"},
    "pca, not aligned": {"kind": "pca", "alignment": "none"},
    "eight times the steps": {},
}
BUDGETS = {"one step": 0, "eight times the steps": 8}  # in --steps, of which all others get one
RULES = ("train_autoencoder", "encode_scans", "fit_scm", "synthesize_counterfactuals", "evaluate_counterfactuals")
FIDELITY = ("psnr_brain_db", "ssim_brain", "quantized_psnr_brain_db", "quantized_ssim_brain")
WORK = ROOT / "work" / "ablation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "work" / "truth", help="folder of a bench-truth run")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--participants", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "ablation_autoencoder.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    run = Run.load(arguments.run)
    asked = {
        "run": run.folder.name,
        "steps": arguments.steps,
        "participants": arguments.participants,
        "code": [code_fingerprint(rule) for rule in RULES],
    }
    figures = taken_up(arguments.output, asked)
    for name in arguments.only:
        if name in figures["variants"]:
            continue
        logging.info("-- %s", name)
        folder = WORK / f"{name.replace(' ', '_').replace(',', '')}_{arguments.steps}"
        train_and_encode(run, options_of(name, arguments.steps), folder)
        encoder, store = load_encoder(folder / "model.pt"), LatentStore.open(folder / "latents.zarr")
        scm = fit_scm(run, store)
        candidates = {
            name: Candidate(encoder, store, scm),
            f"{name}, from codes": Candidate(encoder, store, scm, "quantized"),
        }
        answers = summarize(evaluate(run, arguments.participants, candidates))
        figures["variants"][name] = {"options": VARIANTS[name], **training_figures(folder)}
        # What changes nothing (`none`) is in each of them, and alike.
        figures["all_questions"] |= answers["all_questions"]
        figures["total_effects"] |= answers["total_effects"]
        for question, methods in answers["by_question"].items():
            figures["by_question"].setdefault(question, {}).update(methods)
        write(figures | circumstances(platform.system(), f"{os.cpu_count()} cores"), arguments.output)
    print(pd.DataFrame(figures["variants"]).T.drop(columns="options").to_string(na_rep=""))
    print(pd.DataFrame(figures["all_questions"]).T.round(3).to_string())


def taken_up(output: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The figures that an earlier call has written that asked for the same, or those of none."""
    if output.exists():
        earlier = json.loads(output.read_text())
        if {key: earlier.get(key) for key in asked} == asked:
            return dict(earlier)
    return {**asked, "variants": {}, "all_questions": {}, "total_effects": {}, "by_question": {}}


def options_of(name: str, steps: int) -> AutoencoderOptions:
    most = max(1, steps * BUDGETS.get(name, 1))
    return AutoencoderOptions(max_steps=most, validation_interval=max(1, most // 3), **VARIANTS[name])


def train_and_encode(run: Run, options: AutoencoderOptions, folder: Path) -> None:
    """Do what the rules train_autoencoder and encode_scans do, and write their files to one folder."""
    results, identity = run.folder / "results", Identity.of(run.study)
    task = TrainingTask(
        scans_tsv=results / "cohort" / "scans.tsv",
        qc_tsv=results / "preproc" / "qc.tsv",
        identity=identity,
        options=options,
        seed=run.study.seed,
        work_dir=WORK,
    )
    folder.mkdir(parents=True, exist_ok=True)
    training.run(task, folder)
    encode.run(task.scans, identity, folder / "model.pt", folder / "latents.zarr")


def training_figures(folder: Path) -> dict[str, Any]:
    """Means over the test scans, the worst scan's PSNR, and what the training tells of itself."""
    card = json.loads((folder / "model.json").read_text())
    reconstruction, history = read_table(folder / "reconstruction.tsv"), read_table(folder / "history.tsv")
    test, validation = reconstruction[reconstruction["split"] == "test"], history[history["split"] == "validation"]
    return {
        **{name: test[name].mean() for name in FIDELITY},
        "worst_psnr_brain_db": test["psnr_brain_db"].min(),
        "codebook_usage": validation["codebook_usage"].iloc[-1] if len(validation) else None,
        "latent_numbers": math.prod(card["latent_shape"]),
        "parameters": card["parameters"],
        "training_minutes": card["seconds"] / 60,
    }


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
