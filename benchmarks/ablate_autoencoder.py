"""What each choice of the autoencoder is worth: losses, resolution of the latent, quantisers, at the same budget.

python benchmarks/ablate_autoencoder.py [--results work/truth/results] [--steps 300] [--only base fsq …]

Takes the preprocessed scans of a finished run, by default those of `make bench-truth`, and trains each variant for the
same number of steps from the same seed. Each is judged by the reconstruction of people not trained on, decoded from the
continuous latent and from the quantised one. An interrupted run goes on where it stopped.

Each variant's options also go to work/ablation/ablate_<variant>.yaml, for the judgement that counts:
`python benchmarks/bench_truth.py --options work/ablation/ablate_fsq.yaml` (a training and an evaluation each). The
change correlations found in benchmarks/results/truth_ablate_<variant>.json are shown beside the reconstruction.
Writes benchmarks/results/ablation_autoencoder.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_truth import OURS
from record import RESULTS, circumstances, write

from brainscm.autoencoder.model import build_vqvae
from brainscm.autoencoder.reconstruction import reconstruction_table
from brainscm.autoencoder.training import Trainer
from brainscm.autoencoder.volumes import Grid, VolumeStore, usable_scans
from brainscm.config import AutoencoderOptions
from brainscm.provenance import code_fingerprint, options_fingerprint

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "l1": {"intensity_loss": "l1"},
    "no_ssim": {"ssim_weight": 0.0},
    "gradient": {"gradient_weight": 0.5},
    "fourier": {"fourier_weight": 0.1},
    "eighth": {"channels": [32, 64, 128], "latent_channels": 128},  # as many numbers as at a quarter with 16
    "codes128": {"codebook_size": 128},
    "codes2048": {"codebook_size": 2048},
    "fsq": {"quantizer": "fsq"},
    "fsq8": {"quantizer": "fsq", "fsq_levels": 8},
}
COLUMNS = ("psnr_brain_db", "ssim_brain", "quantized_psnr_brain_db", "quantized_ssim_brain")
ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "work" / "ablation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "work" / "truth" / "results")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    preproc = arguments.results / "preproc"
    scans = usable_scans(arguments.results / "cohort" / "scans.tsv", preproc / "qc.tsv", preproc)
    figures = {
        "steps": arguments.steps,
        "scans": scans["split"].value_counts().to_dict(),
        "variants": {},
        **circumstances(platform.system(), f"{torch.get_num_threads()} threads"),
    }
    WORK.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        (WORK / f"ablate_{name}.yaml").write_text(yaml.safe_dump({"autoencoder": VARIANTS[name]}))
        figures["variants"][name] = {**reconstruct(name, scans, arguments.steps), **judged_by_truth(name)}
        write(figures, RESULTS / "ablation_autoencoder.json")
    print(pd.DataFrame(figures["variants"]).T.drop(columns="options").to_string(na_rep=""))


def reconstruct(name: str, scans: pd.DataFrame, steps: int) -> dict[str, Any]:
    """Train one variant and reconstruct the test scans: means, and the worst scan's PSNR."""
    options = AutoencoderOptions(max_steps=steps, validation_interval=max(1, steps // 3), **VARIANTS[name])
    grid = Grid.of(scans["image"].iloc[0])
    stores = [
        VolumeStore.open_or_build(scans[scans["split"] == split], grid, WORK / "volumes")
        for split in ("train", "validation")
    ]
    torch.manual_seed(1)
    model = build_vqvae(options, grid.shape)
    identity = [options.model_dump(), scans["image"].tolist(), code_fingerprint("autoencoder")]
    trainer = Trainer(model, *stores, options, seed=1, folder=WORK / options_fingerprint(identity))
    trainer.run()
    table = reconstruction_table(model.eval(), scans[scans["split"] == "test"], grid, trainer.device)
    validations = [row for row in trainer.progress.history if row["split"] == "validation"]
    return {
        "options": VARIANTS[name],
        "start_psnr_brain_db": validations[0]["psnr_brain_db"],
        **table[list(COLUMNS)].mean().to_dict(),
        "worst_psnr_brain_db": table["psnr_brain_db"].min(),
        "codebook_usage": validations[-1]["codebook_usage"],
        "latent_numbers": torch.Size(model.latent_shape).numel(),
        "training_minutes": trainer.progress.seconds / 60,
    }


def judged_by_truth(name: str) -> dict[str, Any]:
    """The change correlation of the standing benchmark with this variant's options, where it has been run."""
    path = RESULTS / f"truth_ablate_{name}.json"
    if not path.exists():
        return {}
    return {"change_correlation": json.loads(path.read_text())["methods"][OURS]["change_correlation"]["value"]}


if __name__ == "__main__":
    main()
