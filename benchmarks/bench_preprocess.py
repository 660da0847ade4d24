"""One head after another through BrainSCM's preprocessing, the plain ANTs recipe and deepbet's networks, in one run.

python benchmarks/bench_preprocess.py [--heads 2] [--voxel-mm 2.0]                       simulated heads
python benchmarks/bench_preprocess.py --bids <ixi-2mm> --labels <ixi-2mm>/derivatives/dlmuse --heads 3
python benchmarks/bench_preprocess.py --voxel-mm 1.0 --methods ours            the recipe takes more than an hour a head

The recipe is what ANTs users type to bring a template's mask and labels onto a scan: N4, then antsRegistrationSyN
(rigid, affine and SyN with cross-correlation at full resolution) of the whole-head target, on the same number of
threads. It gives a mask, as do the networks; BrainSCM gives the mask, the preprocessed brain, tissues and measures in
its time. Each runs in a process of its own, whose processor time and peak memory are told. Dice is against the
simulator's labels or those given. Writes benchmarks/results/preprocess_<voxel size>.json; a 2 mm head takes the recipe
some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from record import RESULTS, circumstances, write

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

SEED = 20260101
METHODS = ["ours", "ants", "deepbet"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--voxel-mm", type=float, default=2.0, help="of the simulated heads, and of the output grid")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bids", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)  # a method, the scan, the mask to write
    arguments = parser.parse_args()
    if arguments.run:
        method, scan, mask = arguments.run
        steps = {"ours": run_ours, "ants": run_ants, "deepbet": run_deepbet}[method](
            Path(scan), Path(mask), arguments.voxel_mm
        )
        print(json.dumps(steps))
        return

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, scan, truth in heads(arguments, Path(temporary)):
            row: dict[str, Any] = {"head": name}
            for method in arguments.methods:
                row[method] = measure(method, scan, truth, Path(temporary) / "mask.nii.gz", arguments)
                print(name, method, json.dumps(row[method]), flush=True)
            rows.append(row)

    def median(method: str, key: str) -> float:
        return float(np.median([row[method][key] for row in rows]))

    figures = {
        "heads": rows,
        "median": {
            method: {key: median(method, key) for key in ("seconds", "processor_seconds", "dice", "peak_memory_gb")}
            for method in arguments.methods
        },
        "times_faster": median("ants", "seconds") / median("ours", "seconds")
        if {"ours", "ants"} <= {*arguments.methods}
        else None,
        "goals": {"seconds_2mm": "<= 25", "seconds_1mm": "<= 120", "times_faster": ">= 3", "peak_memory_gb": "< 3"},
        **circumstances(
            f"{os.cpu_count()} cores", platform.system(), f"load {os.getloadavg()[0]:.1f}", command=command(arguments)
        ),
    }
    print(write(figures, arguments.output or RESULTS / f"preprocess_{arguments.voxel_mm:g}mm.json"))


def command(arguments: argparse.Namespace) -> str:
    """What was typed, without the names of this machine's folders."""
    typed = shlex.join(["python", "benchmarks/bench_preprocess.py", *sys.argv[1:]])
    for option in ("bids", "labels"):
        typed = typed.replace(f"--{option} {getattr(arguments, option)}", f"--{option} <{option}>")
    return typed


def heads(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path, np.ndarray]]:
    """Name, file and true mask of each head."""
    if arguments.bids:
        for path in sorted(arguments.bids.glob("sub-*/anat/*_T1w.nii.gz"))[: arguments.heads]:
            scan = path.name.removesuffix("_T1w.nii.gz")
            labels = next((arguments.labels / scan / "anat").glob("*_dseg.nii.gz"))
            yield scan, path, np.asarray(nib.load(labels).dataobj) > 0
        return
    from brainscm.simulation import causal_model
    from brainscm.simulation.anatomy import embedded_head
    from brainscm.simulation.imaging import HeadInScanner
    from brainscm.simulation.participant import draw_anatomy
    from brainscm.simulation.scanner import acquire

    for number in range(1, arguments.heads + 1):
        name = f"sub-{number:03d}"
        nodes = causal_model.draw_nodes(causal_model.draw_noise(SEED, number))
        acquisition = acquire(SEED, name, "ses-01", nodes.site, arguments.voxel_mm)
        head = HeadInScanner(draw_anatomy(embedded_head(), SEED, name, nodes.head_size), acquisition).read(nodes)
        path = folder / f"{name}_T1w.nii.gz"
        nib.save(nib.Nifti1Image(head.image, acquisition.affine), path)
        yield name, path, head.labels > 0


def measure(method: str, scan: Path, truth: np.ndarray, mask: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Wall seconds, peak memory and Dice of one method on one head, in a process of its own."""
    threads = str(arguments.threads)
    environment = os.environ | {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": threads, "OMP_NUM_THREADS": threads}
    command = [sys.executable, __file__, "--voxel-mm", str(arguments.voxel_mm), "--run", method, str(scan), str(mask)]
    started = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{method} failed on {scan}")
    found = np.asarray(nib.load(mask).dataobj) > 0
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gb": round(usage.ru_maxrss / 1e6, 2),
        "dice": round(2 * float((found & truth).sum()) / float(found.sum() + truth.sum()), 4),
        "steps": json.loads(said.splitlines()[-1]),
    }


def run_ours(scan: Path, mask: Path, voxel_mm: float) -> dict[str, float]:
    from brainscm.config import PreprocessOptions
    from brainscm.preprocess.scan import preprocess_scan
    from brainscm.preprocess.template_files import EMBEDDED

    with tempfile.TemporaryDirectory() as folder:
        options = PreprocessOptions(voxel_mm=voxel_mm)
        done = preprocess_scan("sub-1", scan, Path(folder), EMBEDDED, options, SEED)
        (Path(folder) / done["outputs"]["native_mask"]).replace(mask)
    return done["seconds"]


def run_ants(scan: Path, mask: Path, voxel_mm: float) -> dict[str, float]:
    import ants

    from brainscm.preprocess.itk import to_ants
    from brainscm.preprocess.template import load_template
    from brainscm.preprocess.template_files import EMBEDDED

    # The embedded template has no head of its own: the recipe gets the same whole-head target as BrainSCM.
    head, brain = load_template(EMBEDDED, voxel_mm).heads[2]
    started = time.perf_counter()
    fixed = ants.n4_bias_field_correction(ants.image_read(str(scan)))
    corrected = time.perf_counter()
    found = ants.registration(fixed, to_ants(head), "antsRegistrationSyN[s]", random_seed=SEED)
    registered = time.perf_counter()
    warped = ants.apply_transforms(fixed, to_ants(brain), found["fwdtransforms"], interpolator="linear")
    ants.image_write(ants.threshold_image(warped, 0.5), str(mask))
    return {"n4": round(corrected - started, 1), "registration": round(registered - corrected, 1)}


def run_deepbet(scan: Path, mask: Path, _: float) -> dict[str, float]:
    from bench_masks import by_deepbet

    started = time.perf_counter()
    found, _ = by_deepbet(scan)
    nib.save(nib.Nifti1Image(found.astype(np.uint8), nib.load(scan).affine), mask)
    return {"networks": round(time.perf_counter() - started, 1)}


if __name__ == "__main__":
    main()
