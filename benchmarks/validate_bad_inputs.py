"""What becomes of inputs that are wrong on purpose: each must end as warn or fail, or be right, and never be nonsense.

python benchmarks/validate_bad_inputs.py [--also name=T1w.nii.gz …] [--only case …] [--figures docs/images]

One simulated head is spoilt in a dozen ways, preprocessed and held against the default limits. `--also` adds files of
your own (their pictures are kept nowhere). Writes benchmarks/results/bad_inputs.json; about a minute a case.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")  # read when ITK loads

import nibabel as nib
import numpy as np
from record import RESULTS, circumstances, write
from scipy import ndimage

from brainscm.config import PreprocessOptions, QualityOptions
from brainscm.preprocess.scan import preprocess_scan
from brainscm.preprocess.template_files import EMBEDDED
from brainscm.qc.limits import apply_limits
from brainscm.simulation import causal_model
from brainscm.simulation.anatomy import embedded_head
from brainscm.simulation.imaging import LABELS, HeadInScanner
from brainscm.simulation.participant import draw_anatomy
from brainscm.simulation.scanner import acquire

SEED, VOXEL_MM = 20260101, 2.0
VENTRICLES = next(label for label, name in LABELS.items() if name == "ventricles")
SHOWN = (
    "ncc",
    "mask_volume_ml",
    "border_cm2",
    "fov_cut_percent",
    "holes_ml",
    "slice_jump",
    "contrast",
    "cnr",
    "outline_dice",
    "outline_fit",
    "mask_fit",
    "size_ratio",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--also", nargs="*", default=[], metavar="name=path")
    parser.add_argument("--only", nargs="*", default=None, metavar="case")
    parser.add_argument("--figures", type=Path, help="keep the pictures of the spoilt simulated heads here")
    arguments = parser.parse_args()

    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = {name: folder / f"sub-{name}_T1w.nii.gz" for name in spoil_heads(folder, arguments.only)}
        inputs |= {name: Path(path) for name, path in (item.split("=", 1) for item in arguments.also)}
        for name, path in inputs.items():
            found[name] = outcome(name, path, folder / "preproc")
            told = "; ".join(found[name]["reasons"])
            print(f"{name:14} {found[name]['status']:5} {told}\n{'':20} {found[name]['metrics']}", flush=True)
            pictures = folder / "preproc" / "figures"
            if arguments.figures and path.parent == folder:
                for kind in ("mask", "registration"):
                    if (pictures / f"sub-{name}_{kind}.png").exists():
                        shutil.copy(pictures / f"sub-{name}_{kind}.png", arguments.figures / f"qc_{name}_{kind}.png")
    figures = {
        "cases": found,
        **circumstances(platform.system(), command="python benchmarks/validate_bad_inputs.py"),
    }
    if arguments.only is None:
        write(figures, RESULTS / "bad_inputs.json")


def outcome(name: str, path: Path, preproc_dir: Path) -> dict[str, Any]:
    """Status, reasons and the metrics that decide."""
    options = PreprocessOptions(voxel_mm=VOXEL_MM)
    done = preprocess_scan(f"sub-{name}", path, preproc_dir, EMBEDDED, options, SEED, cache_dir=preproc_dir / "cache")
    status, reasons = ("fail", []) if done["status"] == "fail" else apply_limits(done["metrics"], QualityOptions())
    reasons = [reason.replace(str(path), path.name) for reason in [*reasons, *done["reasons"]]]
    if status == "pass" and reasons:
        status = "warn"
    shown = {key: done["metrics"].get(key) for key in SHOWN}
    return {"status": status, "reasons": reasons, "metrics": shown}


def spoil_heads(folder: Path, only: list[str] | None) -> list[str]:
    """Write the spoilt scans; returns their names."""
    nodes = causal_model.draw_nodes(causal_model.draw_noise(SEED, 1))
    acquisition = acquire(SEED, "sub-001", "ses-01", "A", VOXEL_MM)
    head = HeadInScanner(draw_anatomy(embedded_head(), SEED, "sub-001", nodes.head_size), acquisition).read(nodes)
    image, brain, affine = head.image.astype(np.float32), head.labels > 0, acquisition.affine
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {"good": (image, affine)}

    radius = np.linalg.norm((np.indices(image.shape).T - np.array(image.shape) / 2) * VOXEL_MM, axis=3).T
    noise = np.random.default_rng(SEED).normal(0, 15, image.shape)
    made["phantom"] = (np.clip(np.where(radius < 85, 600, 0) + noise, 0, None), affine)
    made["noise"] = (abs(noise), affine)

    turned = np.diag([1.0, -1.0, -1.0, 1.0]) @ affine
    made["upsidedown"] = (image, turned)
    bright = np.percentile(image, 99)
    made["t2like"] = (np.where(image > 0.05 * bright, np.clip(1.25 * bright - image, 0, None), image), affine)

    levels = np.flatnonzero(brain.any((0, 1)))
    middle = int(levels.mean())
    made["half"] = (image[:, :, :middle], affine)
    top = np.array(image)
    top[:, :, middle:] = 0
    made["halfzero"] = (top, affine)
    crown = np.flatnonzero(brain.any((0, 1))).max()
    made["crown"] = (image[:, :, : crown - round(15 / VOXEL_MM)], affine)
    gap = np.array(image)
    gap[:, :, middle : middle + 4] = 0
    made["gap"] = (gap, affine)
    made["squeezed"] = (np.delete(image, np.arange(middle, middle + 10), axis=2), affine)

    made["brainonly"] = (image * ndimage.binary_dilation(brain, iterations=1), affine)
    front = np.flatnonzero(brain.any((0, 2))).max()
    faceless = np.array(image)
    faceless[:, int(front - 20 / VOXEL_MM) :, : int(levels.min() + 30 / VOXEL_MM)] = 0
    made["defaced"] = (faceless, affine)
    made["motion"] = (np.mean([np.roll(image, shift, axis=1) for shift in (-6, -3, 0, 3, 6)], axis=0), affine)
    made["ghost"] = (image + 2 / 3 * np.roll(image, round(60 / VOXEL_MM), axis=1), affine)
    depth_mm = VOXEL_MM * ndimage.distance_transform_edt(brain & (head.labels != VENTRICLES))
    centre = np.unravel_index(np.argmax(depth_mm), image.shape)  # as far from the surface as there is room
    distance_mm = VOXEL_MM * np.linalg.norm(np.indices(image.shape).T - np.array(centre), axis=3).T
    made["lesion"] = (np.where(distance_mm < 22, 0.25 * bright, image), affine)
    small = affine.copy()
    small[:3, :3] *= 0.7
    made["wrongunits"] = (image, small)
    names = [name for name in made if only is None or name in only]
    for name in names:
        data, to_world = made[name]
        nib.save(nib.Nifti1Image(np.asarray(data, np.float32), to_world), folder / f"sub-{name}_T1w.nii.gz")
    return names


if __name__ == "__main__":
    main()
