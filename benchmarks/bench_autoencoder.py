"""Training steps and decodings a second, and peak memory: BrainSCM's VQ-VAE against MONAI's at equal parameters.

python benchmarks/bench_autoencoder.py [--grid 64 72 64] [--batch 1] [--steps 10] [--device cpu] [--compile]

The peer is `monai.networks.nets.VQVAE` (pip install monai; without it only our figures are printed) in the loop of its
tutorials: L1 and the quantiser's loss, Adam, autocast. Both halve the grid twice and have 16 latent channels and 512
codes, and the peer's width is chosen so that its parameters come nearest to ours. Ours is a whole step of the trainer:
reading the batch, augmentation, SSIM; `loading_share` is the part of it that waits for the batch. `share_of_peak` is
the multiplications and additions done a second over those of a large matrix product in the same precision on the same
device. Each model runs in a process of its own, so that peak memory is its own.
Writes benchmarks/results/autoencoder_<device>.json; --compile and --recompute (options of ours alone) add their names.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from record import RESULTS, circumstances, write

from brainscm.config import AutoencoderOptions
from brainscm.encoding.vqvae import VQVAE
from brainscm.training.hardware import training_precision
from brainscm.training.trainer import Trainer, count_parameters
from brainscm.training.volume_store import Stores, VolumeStore

SCANS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=[64, 72, 64])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--only", choices=["brainscm", "monai"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure = {"brainscm": measure_brainscm, "monai": measure_monai}[arguments.only]
        print(json.dumps(measure(arguments)))
        return

    names = ["brainscm", *(["monai"] if importlib.util.find_spec("monai") else [])]
    models = {name: json.loads(_run_alone(name)) for name in names}
    figures = {
        "grid": arguments.grid,
        "batch": arguments.batch,
        "models": models,
        "ratios": {key: models["brainscm"][key] / value for key, value in models.get("monai", {}).items()},
        **(circumstances(machine=torch.cuda.get_device_name()) if arguments.device == "cuda" else circumstances("CPU")),
        "threads": torch.get_num_threads(),
        "precision": str(training_precision(torch.device(arguments.device))).removeprefix("torch."),
        "torch": torch.__version__,
    }
    chosen = [name for name in ("compile", "recompute") if getattr(arguments, name)]
    name = "_".join(["autoencoder", arguments.device, *chosen])
    print(write(figures, RESULTS / f"{name}.json"))


def _run_alone(name: str) -> str:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def measure_brainscm(arguments: argparse.Namespace) -> dict[str, float]:
    options = AutoencoderOptions(
        batch_size=arguments.batch, device=arguments.device, max_steps=10**6,
        compile=arguments.compile, recompute=arguments.recompute,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        store = _made_up_store(Path(folder), arguments.grid)
        model = VQVAE(tuple(arguments.grid), options)
        trainer = Trainer(model, Stores(store, store), options, seed=1, folder=Path(folder))
        trainer._start()
        latents = torch.randn(arguments.batch, *model.latent_shape, device=trainer.passes.device)
        progress = trainer.progress
        figures = _figures(model, trainer._train_step, lambda: model.decode(latents), arguments)
        return {**figures, "loading_share": progress.interval_loading_seconds / progress.interval_seconds}


def measure_monai(arguments: argparse.Namespace) -> dict[str, float]:
    device, precision = torch.device(arguments.device), training_precision(torch.device(arguments.device))
    wanted = count_parameters(VQVAE(tuple(arguments.grid), AutoencoderOptions()))
    width = min(range(8, 129, 4), key=lambda width: abs(count_parameters(_monai_vqvae(width)) - wanted))
    model = _monai_vqvae(width).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    volumes = torch.rand(arguments.batch, 1, *arguments.grid, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            reconstruction, quantization_loss = model(volumes)
            loss = (reconstruction.float() - volumes).abs().mean() + quantization_loss
        loss.backward()
        optimizer.step()

    latents = torch.randn(arguments.batch, 16, *(size // 4 for size in arguments.grid), device=device)
    return _figures(model, step, lambda: model.decode(latents), arguments)


def _monai_vqvae(width: int) -> Any:
    from monai.networks.nets import VQVAE

    return VQVAE(
        spatial_dims=3, in_channels=1, out_channels=1, channels=(width, 2 * width), num_res_channels=(width, 2 * width),
        num_res_layers=2, downsample_parameters=((2, 4, 1, 1),) * 2, upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=512, embedding_dim=16,
    )  # fmt: skip


def _figures(
    model: torch.nn.Module, step: Callable[[], object], decode: Callable[[], object], arguments: argparse.Namespace
) -> dict[str, float]:
    steps_per_second = _rate(step, arguments)
    if arguments.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with torch.no_grad():
        decodings_per_second = _rate(decode, arguments)
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step()
    operations_per_second = steps_per_second * counter.get_total_flops()
    return {
        "parameters": count_parameters(model),
        "steps_per_second": steps_per_second,
        "decodings_per_second": decodings_per_second,
        "peak_memory_gb": peak,
        "share_of_peak": operations_per_second / _peak_operations_per_second(arguments),
    }


def _peak_operations_per_second(arguments: argparse.Namespace) -> float:
    """Of the product of two square matrices."""
    device, size = torch.device(arguments.device), 8192 if arguments.device == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=training_precision(device))
    return 2 * size**3 * _rate(lambda: matrix @ matrix, arguments)


def _rate(work: Callable[[], object], arguments: argparse.Namespace) -> float:
    """Calls a second, the first two not counted."""
    for count in (2, arguments.steps):
        started = time.perf_counter()
        for _ in range(count):
            work()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
    return arguments.steps / (time.perf_counter() - started)


def _made_up_store(folder: Path, grid: list[int]) -> VolumeStore:
    """Balls of noise: what the volumes show does not change how long they take."""
    rng = np.random.default_rng(0)
    centre = (np.array(grid).reshape(3, 1, 1, 1) - 1) / 2
    inside = np.linalg.norm((np.indices(grid) - centre) / centre, axis=0) < 0.8
    masks = np.broadcast_to(inside, (SCANS, 1, *grid))
    np.save(folder / "volumes.npy", (masks * rng.random(masks.shape)).astype(np.float16))
    np.save(folder / "masks.npy", masks)
    return VolumeStore(folder)


if __name__ == "__main__":
    main()
