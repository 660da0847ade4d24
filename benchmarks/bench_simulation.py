"""How long the simulator takes for a raw head on one core, and how much memory.

python benchmarks/bench_simulation.py [--voxel-mm 2] [--heads 10]

Simulates participants in one process, one thread, as a worker of `simulate_cohort` does: image, labels and volumes,
written to disk. What a process does once (the canonical head) is told apart. Nothing else simulates raw heads with a
causal model behind them, so there is no peer; the aim is at most 2 s a head at 2 mm and 1 GB.
Writes benchmarks/results/simulation.json.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from record import RESULTS, circumstances, write

from brainscm.config import SimulationOptions
from brainscm.simulation.cohort import simulate_cohort

FEWEST = 8  # participants of a cohort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--heads", type=int, default=10)
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    main()
