"""The image node's fit and permutation test against statsmodels, nilearn's permuted_ols and bare matrix products.

python benchmarks/bench_glm.py [--scans 500 --latents 100000 --columns 8 --permutations 200]

Times are of the processor, on one thread, so that other work on the machine counts little; ours and the peer's are
taken in turn, and a ratio is the median over the pairs. statsmodels fits one column at a time: `--peer-columns` of them
are timed and scaled. It is compared with a fit without draws, which it does not make, and the t test of every column;
the fit with draws is compared with its bare products. Memory is the peak resident size of a process that fits a zarr
store, and of one that permutes it, for several numbers of scans. The permutation holds a tile of latents of all scans,
bounded in bytes: memory rises to that bound and stays.
Writes benchmarks/results/glm.json (elsewhere with --output).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, circumstances, write
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=500)
    parser.add_argument("--latents", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument("--peer-columns", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--memory-scans", type=int, nargs="+", default=(500, 5_000, 20_000))
    parser.add_argument("--memory-latents", type=int, default=10_000)
    parser.add_argument(
        "--only", choices=("times", "memory"), help="what to make anew; the other stays as the file has it"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "glm.json")
    parser.add_argument("--peak-memory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--permute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_memory:
        print(peak_memory_mb(arguments.peak_memory, arguments.columns, arguments.permute))
        return

    figures = json.loads(arguments.output.read_text()) if arguments.only else {}
    if arguments.only != "memory":
        figures |= times(arguments)
    if arguments.only != "times":
        figures["memory"] = memory(arguments)
    figures["goals"] = {
        "times_faster_than_statsmodels": ">= 200",
        "times_faster_than_permuted_ols": ">= 5",
        "times_the_bare_products": "<= 2",
        "memory": "flat up to 20,000 scans",
    }
    figures |= circumstances(f"{os.cpu_count()} cores", platform.system(), f"load {os.getloadavg()[0]:.1f}")
    print(write(figures, arguments.output))


def times(arguments: argparse.Namespace) -> dict[str, Any]:
    x, z = simulate(arguments.scans, arguments.latents, arguments.columns)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return {
            **fit_times(x, z, arguments.peer_columns, arguments.pairs),
            **permutation_times(x, z, arguments.permutations),
            "size": {"scans": arguments.scans, "latents": arguments.latents, "columns": arguments.columns},
        }


def simulate(scans: int, latents: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(scans), rng.standard_normal((scans, columns - 1))])
    return x, rng.standard_normal((scans, latents), dtype=np.float32)


def sample_of(x: np.ndarray, latents: Any) -> Any:
    """One scan a participant."""
    from brainscm.scm.sample import Sample

    return Sample.of(x, [f"x{i}" for i in range(x.shape[1])], latents, [str(i) for i in range(len(x))])


def in_turn(pairs: int, *runs: Callable[[], Any]) -> np.ndarray:
    """Processor seconds of each run in each round, (pairs, runs); a first round is not counted."""
    seconds = np.empty((pairs + 1, len(runs)))
    for row in seconds:
        for column, run in enumerate(runs):
            started = time.process_time()
            run()
            row[column] = time.process_time() - started
    return seconds[1:]


def fit_times(x: np.ndarray, z: np.ndarray, peer_columns: int, pairs: int) -> dict[str, Any]:
    import statsmodels.api as sm

    from brainscm.scm.image import DRAWS, fit_image
    from brainscm.scm.inference import wald_test

    (n, p), sample = x.shape, sample_of(x, z)

    def ours() -> None:
        """What statsmodels gives: parameters, standard errors, t and p; without draws, which it does not make."""
        model = fit_image(sample, seed=0, drawn=False)
        for row in np.eye(p):
            wald_test(model, row[None])

    def fit(drawn: bool) -> None:
        fit_image(sample, seed=0, drawn=drawn)

    def statsmodels() -> None:
        for y in z[:, :peer_columns].T.astype(np.float64):
            result = sm.OLS(y, x).fit()
            _ = result.params, result.bse, result.tvalues, result.pvalues

    q, whole = np.linalg.qr(x)[0], z.astype(np.float64)
    b, mix = np.zeros((p, z.shape[1])), np.zeros((DRAWS * p, n), dtype=np.float32)

    def products() -> None:
        """Q'Z and X·B in float64 and the draws' product in float32: all that the fit has to multiply."""
        _ = q.T @ whole
        _ = x @ b
        _ = mix @ z

    scale = np.array([1, z.shape[1] / peer_columns, 1, 1, 1])
    seconds = in_turn(pairs, ours, statsmodels, lambda: fit(True), products, lambda: fit(False)) * scale
    to_peer, to_products = seconds[:, 1] / seconds[:, 0], seconds[:, 2] / seconds[:, 3]
    names = ("fit_without_draws_with_tests_s", "statsmodels_s", "fit_with_draws_s", "bare_products_s")
    medians = np.median(seconds, axis=0)
    return {
        "fit": {
            **dict(zip((*names, "fit_without_draws_s"), medians, strict=True)),
            "statsmodels_timed_columns": peer_columns,
            "pairs": pairs,
            "times_faster_than_statsmodels_of_pairs": to_peer.tolist(),
            "times_the_bare_products_of_pairs": to_products.tolist(),
        },
        "times_faster_than_statsmodels": float(np.median(to_peer)),
        "times_the_bare_products": float(np.median(to_products)),
    }


def permutation_times(x: np.ndarray, z: np.ndarray, permutations: int) -> dict[str, Any]:
    from nilearn.mass_univariate import permuted_ols

    from brainscm.scm.permutation import max_statistics

    contrast, sample = np.eye(x.shape[1])[1:2], sample_of(x, z)

    def ours() -> None:
        max_statistics(sample, [contrast], permutations, 0)

    def peer() -> None:
        permuted_ols(
            x[:, 1], z, x[:, 2:], model_intercept=True, n_perm=permutations, n_jobs=1, output_type="dict", verbose=0
        )

    seconds = in_turn(2, ours, peer)
    ours_s, peer_s = np.median(seconds, axis=0)
    return {
        "permutation": {"permutations": permutations, "max_statistics_s": ours_s, "permuted_ols_s": peer_s},
        "times_faster_than_permuted_ols": float(np.median(seconds[:, 1] / seconds[:, 0])),
    }


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    peaks: dict[str, dict[str, float]] = {"fit": {}, "permutation": {}}
    for scans in arguments.memory_scans:
        with tempfile.TemporaryDirectory() as folder:
            write_store(Path(folder) / "latents.zarr", scans, arguments.memory_latents)
            for work, flag in (("fit", []), ("permutation", ["--permute"])):
                command = [sys.executable, __file__, "--peak-memory", str(Path(folder) / "latents.zarr"), *flag]
                command += ["--columns", str(arguments.columns)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                peaks[work][f"peak_mb_{scans}_scans"] = float(output)
    ratios = {f"{work}_ratio": max(found.values()) / min(found.values()) for work, found in peaks.items()}
    return {**peaks, **ratios, "latents": arguments.memory_latents}


def write_store(path: Path, scans: int, latents: int) -> None:
    """A store as the workflow writes it, one chunk a scan, of noise made a scan at a time."""
    import zarr

    store = zarr.create_array(path, shape=(scans, latents), chunks=(1, latents), dtype="float32")
    rng = np.random.default_rng(1)
    for scan in range(scans):
        store[scan] = rng.standard_normal(latents, dtype=np.float32)


def peak_memory_mb(path: Path, columns: int, permute: bool) -> float:
    """Peak resident size of a process that fits the store at `path`, or permutes it, in MB."""
    import zarr

    from brainscm.scm.image import fit_image
    from brainscm.scm.permutation import max_statistics

    store = zarr.open_array(path, mode="r")
    scans = store.shape[0]
    sample = sample_of(simulate(scans, 1, columns)[0], store)
    if permute:
        max_statistics(sample, [np.eye(columns)[1:2]], 2, 0)
    else:
        fit_image(sample, seed=0)
    # Not getrusage's figure, which a child process takes over from its parent.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main()
