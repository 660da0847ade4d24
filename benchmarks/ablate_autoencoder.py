"""What each choice of the autoencoder is worth, at the same budget: in reconstruction, and in counterfactuals.

python benchmarks/ablate_autoencoder.py [--run work/truth] [--steps 300] [--people 8] [--only default fsq …]

Takes the preprocessed scans of a `make bench-truth` run and trains each variant for the same number of steps from the
same seed. Each is judged by the reconstruction of people not trained on, decoded from the continuous latent and from
the quantised one, and by the judgement that counts: the study's SCM is fitted on its latents, every question is put to
some test people, and the answers are compared with the true ones. Writes benchmarks/results/ablation_autoencoder.json
(elsewhere with --output) after each variant; the same command goes on where an earlier one was interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import zarr

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_truth import ROOT
from known_answers import Candidate, Run, fit_scm, judge, summarize
from record import RESULTS, circumstances, write

from brainscm.config import AutoencoderOptions
from brainscm.latents.encode import encode_scans
from brainscm.parallel import CPU
from brainscm.provenance import code_fingerprint
from brainscm.scans import usable_scans
from brainscm.training.fit import FittedAutoencoder, fit_autoencoder
from brainscm.training.reconstruction import reconstruction_table

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one step": {},  # the linear start that the network is trained from
    "l1": {"intensity_loss": "l1"},
    "no ssim": {"ssim_weight": 0.0},
    "gradient": {"gradient_weight": 0.5},
    "fourier": {"fourier_weight": 0.1},
    "latent of 8": {"latent_channels": 8},
    "latent of 32": {"latent_channels": 32},
    "an eighth": {"channels": [32, 64, 128], "latent_channels": 128},  # as many numbers as at a quarter with 16
    "128 codes": {"codebook_size": 128},
    "2048 codes": {"codebook_size": 2048},
    "fsq": {"quantizer": "fsq"},
    "fsq, 8 levels": {"quantizer": "fsq", "fsq_levels": 8},
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
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "ablation_autoencoder.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    run = Run.load(arguments.run)
    results = run.folder / "results"
    scans = usable_scans(results / "cohort" / "scans.tsv", results / "preproc" / "qc.tsv", results / "preproc")
    identity = {
        "run": run.folder.name,
        "steps": arguments.steps,
        "people": arguments.people,
        "code": [code_fingerprint(rule) for rule in RULES],
    }
    figures = taken_up(arguments.output, identity)
    for name in arguments.only:
        if name in figures["variants"]:
            continue
        logging.info("-- %s", name)
        fitted = fit_autoencoder(scans, preprocessing(run), options_of(name, arguments.steps), run.study.seed, WORK)
        latents = encoded(fitted, scans, name, arguments.steps)
        scm = fit_scm(run, latents)
        candidates = {
            name: Candidate(fitted.model, latents, scm),
            f"{name}, from codes": Candidate(fitted.model, latents, scm, "quantized"),
        }
        answers = summarize(judge(run, arguments.people, candidates))
        figures["variants"][name] = {"options": VARIANTS[name], **reconstruction(fitted, scans)}
        # What changes nothing (`none`) is in each of them, and alike.
        figures["all_questions"] |= answers["all_questions"]
        figures["total_effects"] |= answers["total_effects"]
        for question, methods in answers["by_question"].items():
            figures["by_question"].setdefault(question, {}).update(methods)
        write(figures | circumstances(platform.system(), f"{os.cpu_count()} cores"), arguments.output)
    print(pd.DataFrame(figures["variants"]).T.drop(columns="options").to_string(na_rep=""))
    print(pd.DataFrame(figures["all_questions"]).T.round(3).to_string())


def taken_up(output: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The figures that an earlier call with the same identity has written, or those of none."""
    if output.exists():
        earlier = json.loads(output.read_text())
        if {key: earlier.get(key) for key in identity} == identity:
            return dict(earlier)
    return {**identity, "variants": {}, "all_questions": {}, "total_effects": {}, "by_question": {}}


def options_of(name: str, steps: int) -> AutoencoderOptions:
    most = max(1, steps * BUDGETS.get(name, 1))
    return AutoencoderOptions(max_steps=most, validation_interval=max(1, most // 3), **VARIANTS[name])


def preprocessing(run: Run) -> dict[str, Any]:
    """What `train_autoencoder` is told about the scans that it is given."""
    return {"template": run.study.template, "options": run.study.preprocess.model_dump()}


def encoded(fitted: FittedAutoencoder, scans: pd.DataFrame, name: str, steps: int) -> zarr.Group:
    path = WORK / "latents" / f"{name.replace(' ', '_').replace(',', '')}_{steps}.zarr"
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_scans(scans, fitted.model, fitted.grid, path, "", CPU)
    return zarr.open_group(path, mode="r")


def reconstruction(fitted: FittedAutoencoder, scans: pd.DataFrame) -> dict[str, Any]:
    """Means over the test scans, the worst scan's PSNR, and what the training tells of itself."""
    table = reconstruction_table(fitted.model, scans[scans["split"] == "test"], fitted.grid, CPU)
    validation = fitted.history[fitted.history["split"] == "validation"] if len(fitted.history) else None
    return {
        **table[list(FIDELITY)].mean().to_dict(),
        "worst_psnr_brain_db": table["psnr_brain_db"].min(),
        "codebook_usage": None if validation is None else validation["codebook_usage"].iloc[-1],
        "latent_numbers": torch.Size(fitted.model.latent_shape).numel(),
        "parameters": fitted.parameters,
        "training_minutes": fitted.seconds / 60,
    }


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
