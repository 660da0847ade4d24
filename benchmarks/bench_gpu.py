"""What a GPU does with BrainSCM at 1 mm, in one call of at most ten minutes.

python benchmarks/bench_gpu.py [--device cuda] [--seconds 540] [--grid 160 192 176] [--output gpu.json]

Training steps and decodings a second, peak memory and share of the device's peak (see bench_autoencoder.py) at batch 1,
2 and 4, compiled and not, channels last and not, beside MONAI's `VQVAE` loop at equal parameters where MONAI is
installed; registrations, inversions, cubic warps, encodings, decodings and counterfactuals a second; the fit of the
image node and its permutation test. Each part runs in a process of its own, most important first, and the figures are
written after each: what does not fit into --seconds, or into the device's memory, is named under `left_out`.
Writes benchmarks/results/gpu.json. It was never run on a GPU by those who wrote it; its test runs it on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_autoencoder import measure_brainscm, measure_monai
from bench_glm import sample_of, simulate
from record import RESULTS, circumstances, write

from brainscm.alignment.displacement import inverse, resample, upsample, voxels
from brainscm.alignment.registration import Alignment
from brainscm.config import AutoencoderOptions
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.encoder import Factual
from brainscm.encoding.vqvae import VQVAE
from brainscm.tissue_levels import TissueLevels

PUBLISHED = {
    "maisi_decoding_256x256x128": {"seconds": 1.0, "memory_gb": 15, "device": "A100"},
    "30_million_parameters_3d_training_megavoxels_a_second": 24.5,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=540, help="for all parts together")
    parser.add_argument("--grid", type=int, nargs=3, default=[160, 192, 176])
    parser.add_argument("--steps", type=int, default=10, help="of each rate, after two that are not counted")
    parser.add_argument("--latents", type=int, default=1_000_000, help="of the fit, for 500 scans")
    parser.add_argument("--scans", type=int, default=500)
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench_gpu: PyTorch sees no GPU here; run it where there is one, or with --device cpu to try it.")
    if arguments.only:
        print(json.dumps(PARTS[arguments.only](arguments)))
        return

    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    figures: dict[str, Any] = {
        "grid": arguments.grid,
        "parts": {},
        "left_out": {},
        "published": PUBLISHED,
        "torch": torch.__version__,
        **circumstances(name),
    }
    end = time.monotonic() + arguments.seconds
    for part in arguments.parts:
        if part.startswith("monai") and not importlib.util.find_spec("monai"):
            figures["left_out"][part] = "MONAI is not installed"
        else:
            run_part(part, end - time.monotonic(), figures)
        write(figures, arguments.output)
    print(json.dumps(figures, indent=2))


def run_part(part: str, seconds_left: float, figures: dict[str, Any]) -> None:
    """Add a part's figures, or why there are none."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", part]
    try:
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=max(0.1, seconds_left))
        figures["parts"][part] = json.loads(output.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        figures["left_out"][part] = "no time was left"
    except subprocess.CalledProcessError as error:
        told = error.stderr.strip().splitlines()
        figures["left_out"][part] = told[-1][:300] if told else f"exit status {error.returncode}"


def training(
    batch: int, *, compiled: bool = False, channels_last: bool = True, monai: bool = False
) -> Callable[[Namespace], dict[str, float]]:
    """The part that measures one way of training."""

    def measure(arguments: Namespace) -> dict[str, float]:
        if not channels_last:
            torch.channels_last_3d = torch.contiguous_format  # the network asks for it by this name, and nothing else
        chosen = Namespace(**vars(arguments) | {"batch": batch, "compile": compiled, "recompute": False})
        found = (measure_monai if monai else measure_brainscm)(chosen)
        volume = arguments.grid[0] * arguments.grid[1] * arguments.grid[2] / 1e6
        return {**found, "megavoxels_a_second": found["steps_per_second"] * batch * volume}

    return measure


@torch.no_grad()
def volumes_a_second(arguments: Namespace) -> dict[str, float]:
    """What happens to single volumes between the latent store and a counterfactual, a second."""
    device, grid = torch.device(arguments.device), tuple(arguments.grid)
    x = voxels(grid, device)
    centre = torch.tensor(grid, device=device)[:, None, None, None] / 2
    distance = ((x - centre) / centre).square().sum(0).sqrt()
    target = (1 - distance).clamp(0, 0.5) + 0.1 * torch.sin(x.sum(0) / 5) * (distance < 0.9)
    encoder = Aligned(
        VQVAE(grid, AutoencoderOptions()), Alignment(target.cpu(), (distance < 0.9).float().cpu(), 1.0)
    ).to(device)
    field = torch.sin(x[:, ::2, ::2, ::2] / 20)
    points = x + upsample(field, grid)
    volume = target[None, None]
    levels = [TissueLevels(csf=0.1, gm=0.3, wm=0.5)]
    latents = encoder.encode(volume, field[None], levels)
    factual, shift = Factual(encoder, volume, latents, levels), 0.01 * torch.ones_like(latents)
    _ = factual.appearance  # several questions share it
    work: dict[str, Callable[[], object]] = {
        "cubic_warps": lambda: resample(target, points),
        "inversions": lambda: inverse(upsample(field, grid)),
        "encodings": lambda: encoder.encode(volume, field[None], levels),
        "decodings": lambda: encoder.decode(latents),
        "decodings_from_codes": lambda: encoder.decode(encoder.of_codes(encoder.to_codes(latents))),
        "counterfactuals": lambda: encoder.apply_shift(factual, shift),
    }
    figures = {f"{name}_a_second": rate(of, arguments.steps, device) for name, of in work.items()}
    figures["registrations_a_second"] = rate(lambda: encoder.alignment.displacement(target), 1, device, warm_up=0)
    return figures | memory(device)


def statistics(arguments: Namespace) -> dict[str, float]:
    """The image node's fit with its draws, and a permutation test; both choose the device themselves."""
    from brainscm.scm.image import fit_image
    from brainscm.scm.permutation import max_statistics

    x, z = simulate(arguments.scans, arguments.latents, 8)
    sample, contrast = sample_of(x, z), x[0:1] * 0
    contrast[0, 1] = 1
    fit_image(sample_of(x, z[:, :1000]), seed=0)  # what happens only once is not counted
    started = time.perf_counter()
    fit_image(sample, seed=0)
    fitted = time.perf_counter()
    max_statistics(sample, [contrast], arguments.permutations, 0)
    return {
        "fit_s": fitted - started,
        "permutations_s": time.perf_counter() - fitted,
        "permutations": arguments.permutations,
        "latents": arguments.latents,
        "scans": arguments.scans,
        **memory(torch.device(arguments.device)),
    }


def rate(work: Callable[[], object], times: int, device: torch.device, warm_up: int = 1) -> float:
    """Calls a second."""
    for _ in range(warm_up):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return times / (time.perf_counter() - started)


def memory(device: torch.device) -> dict[str, float]:
    return {"peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9} if device.type == "cuda" else {}


PARTS: dict[str, Callable[[Namespace], dict[str, float]]] = {
    "batch 1": training(1),
    "volumes": volumes_a_second,
    "statistics": statistics,
    "monai, batch 1": training(1, monai=True),
    "batch 1, compiled": training(1, compiled=True),
    "batch 1, channels first": training(1, channels_last=False),
    "batch 4": training(4),
    "monai, batch 4": training(4, monai=True),
    "batch 4, compiled": training(4, compiled=True),
    "batch 2": training(2),
    "monai, batch 2": training(2, monai=True),
    "batch 2, compiled": training(2, compiled=True),
}


if __name__ == "__main__":
    main()
