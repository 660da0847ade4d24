"""How long the simulator takes for a raw head on one core, and how much memory.

python benchmarks/bench_simulation.py [--voxel-mm 2] [--heads 10] [--anatomies folder]

Simulates participants in one process, one thread, as a worker of `simulate_cohort` does: image, labels and volumes,
written to disk. What a process does once (the canonical head) is told apart. Nothing else simulates raw heads with a
causal model behind them, so there is no peer; the aim is at most 2 s a head at 2 mm and 1 GB.
Writes benchmarks/results/simulation.json.

With label maps of real people it tells instead whether a head of each has the volumes that its causal model declares:
12 participants a map at 3 mm, the true volumes over the declared ones by map, the coefficients fitted to the true
volumes of all, and what each map could not be given. Writes benchmarks/results/simulation_anatomies.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import pandas as pd
from bench_truth import recovered_coefficients
from record import RESULTS, circumstances, write

from brainscm.config import SimulationOptions
from brainscm.simulation.anatomies import find_label_maps
from brainscm.simulation.cohort import TRUTH, simulate_cohort
from brainscm.tables import read_table

FEWEST = 8  # participants of a cohort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--anatomies", type=Path, help="folder of whole-head label maps")
    parser.add_argument("--participants-of-a-map", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.anatomies:
        figures = on_anatomies(arguments.anatomies, arguments.participants_of_a_map)
        figures |= circumstances(platform.system(), f"{os.cpu_count()} cores, one of them used")
        print(write(figures, RESULTS / "simulation_anatomies.json"))
        return
    with tempfile.TemporaryDirectory() as folder:
        first = seconds(Path(folder, "first"), FEWEST, arguments.voxel_mm)
        each = seconds(Path(folder, "all"), arguments.heads, arguments.voxel_mm) / arguments.heads
    figures = {
        "voxel_mm": arguments.voxel_mm,
        "heads": arguments.heads,
        "seconds_a_head": round(each, 2),
        "seconds_once_a_process": round(first - FEWEST * each, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "aims": {"seconds_a_head": "at most 2 at 2 mm", "peak_gb": "at most 1"},
        **circumstances(platform.system(), f"{os.cpu_count()} cores, one of them used"),
    }
    print(write(figures, RESULTS / "simulation.json"))


def seconds(folder: Path, participants: int, voxel_mm: float) -> float:
    options = SimulationOptions(participants=participants, voxel_mm=voxel_mm, follow_up_share=0, truncated_scans=0)
    start = time.perf_counter()
    simulate_cohort(folder, options, seed=1, workers=1)
    return time.perf_counter() - start


def on_anatomies(folder: Path, participants_of_a_map: int) -> dict[str, Any]:
    """Whether heads of label maps have the volumes that are declared: by map, and the coefficients from all."""
    maps = find_label_maps(folder)
    options = SimulationOptions(
        participants=participants_of_a_map * len(maps),
        voxel_mm=3.0,
        follow_up_share=0,
        truncated_scans=0,
        anatomies=folder,
    )
    with tempfile.TemporaryDirectory() as bids:
        start = time.perf_counter()
        simulate_cohort(Path(bids), options, seed=1, workers=1)
        seconds_a_head = (time.perf_counter() - start) / options.participants
        truth = Path(bids, TRUTH)
        coefficients = recovered_coefficients(truth)
        heads = read_table(truth / "nodes.tsv").merge(read_table(truth / "volumes.tsv"), on="scan")
        heads["participant_id"] = heads["scan"].str.partition("_")[0]
        heads = heads.merge(read_table(Path(bids, "participants.tsv"))[["participant_id", "anatomy"]])
        refused = read_table(truth / "refused.tsv") if (truth / "refused.tsv").exists() else None
    heads["intracranial_ml"] = heads[["gm_ml", "wm_ml", "csf_ml", "ventricles_ml"]].sum(axis=1)
    pairs = {node: f"{node}_ml" for node in ("ventricles", "medial_temporal_gm")} | {"head_size": "intracranial_ml"}
    ratios = pd.DataFrame({node: heads[true] / heads[node] for node, true in pairs.items()})
    ratios["csf_share"] = heads["csf_ml"] / heads["intracranial_ml"]
    by_map = ratios.groupby(heads["anatomy"])
    return {
        "anatomies": len(maps),
        "participants": options.participants,
        "seconds_a_head_with_preparation": round(seconds_a_head, 2),
        "refused": [] if refused is None else refused.to_dict("records"),
        "true_over_declared": {
            str(name): {
                node: {"mean": round(part[node].mean(), 3), "least": round(part[node].min(), 3)}
                | {"most": round(part[node].max(), 3)}
                for node in pairs
            }
            | {"csf_share": round(part["csf_share"].mean(), 3), "heads": len(part)}
            for name, part in by_map
        },
        "coefficients": coefficients,
    }


if __name__ == "__main__":
    main()
