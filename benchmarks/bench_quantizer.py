"""A codebook of `quantizer: residual` against vector-quantize-pytorch's: loss, codes in use, and the time of a step.

python benchmarks/bench_quantizer.py [--steps 100] [--grid 16 18 16]

The peer is `vector_quantize_pytorch.VectorQuantize` (pip install vector-quantize-pytorch; without it only our figures
are printed) with k-means start and revival of dead codes, as ours. Both learn 512 codes of 16 numbers from the same
stream of correlated vectors, 4,608 a step, which drifts as an encoder's output does while it trains.
Writes benchmarks/results/quantizer.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from record import RESULTS, circumstances, write

from brainscm.encoding.quantizer import Residual, to_rows

CODES, CHANNELS, DECAY = 512, 16, 0.99

Quantize = Callable[[Tensor, bool], tuple[Tensor, Tensor]]  # latents, whether to learn -> quantised, indices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--grid", type=int, nargs=3, default=[16, 18, 16])
    arguments = parser.parse_args()
    peers = {"brainscm": ours}
    if importlib.util.find_spec("vector_quantize_pytorch"):
        peers["vector_quantize_pytorch"] = theirs
    figures = {name: measure(make, arguments) for name, make in peers.items()}
    found = {
        "models": figures,
        "ratios": {
            key: figures["brainscm"][key] / value for key, value in figures.get("vector_quantize_pytorch", {}).items()
        },
        **circumstances("CPU", f"{torch.get_num_threads()} threads"),
    }
    print(write(found, RESULTS / "quantizer.json"))


def ours(first: Tensor) -> Quantize:
    codebook, generator = Residual(1, CODES, CHANNELS, DECAY), torch.Generator().manual_seed(0)
    codebook.start(to_rows(first), generator)

    def quantize(latents: Tensor, learn: bool) -> tuple[Tensor, Tensor]:
        quantized, indices = codebook(latents)
        if learn:
            codebook.update(to_rows(latents), to_rows(indices), generator)
        return quantized, indices

    return quantize


def theirs(first: Tensor) -> Quantize:
    from vector_quantize_pytorch import VectorQuantize

    model = VectorQuantize(CHANNELS, CODES, decay=DECAY, kmeans_init=True, threshold_ema_dead_code=1)

    def quantize(latents: Tensor, learn: bool) -> tuple[Tensor, Tensor]:
        model.train(learn)
        n, c, *grid = latents.shape
        quantized, indices, _ = model(to_rows(latents)[None])
        return quantized[0].reshape(n, *grid, c).movedim(-1, 1), indices

    quantize(first, True)
    return quantize


def measure(make: Callable[[Tensor], Quantize], arguments: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(CHANNELS, CHANNELS, generator=generator) * torch.logspace(0, -1.5, CHANNELS)

    def latents(step: int) -> Tensor:
        numbers = torch.randn(*arguments.grid, CHANNELS, generator=generator) @ mixing.T
        return (numbers + 0.2 * step / arguments.steps).movedim(-1, 0)[None]

    quantize, seconds = make(latents(0)), 0.0
    for step in range(arguments.steps):
        batch = latents(step)
        started = time.perf_counter()
        quantize(batch, True)
        seconds += time.perf_counter() - started
    unseen = latents(arguments.steps)
    quantized, indices = quantize(unseen, False)
    return {
        "share_of_variance_lost": float((quantized - unseen).square().mean() / unseen.var()),
        "share_of_codes_used": len(indices.unique()) / CODES,
        "milliseconds_a_step": 1000 * seconds / arguments.steps,
    }


if __name__ == "__main__":
    main()
