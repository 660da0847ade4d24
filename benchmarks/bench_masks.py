"""Brain masks of heads of every look, whose intracranial space is known, and of real heads, by trait and by method.

python benchmarks/bench_masks.py --anatomies <label maps> --drawn 117 --bids <ixi> --labels <dlmuse> --real 138
    [--kinds drawn brightened]

Heads are drawn from the label maps (drawn_heads.py says how). Real heads are taken as they are, and once more with the
fat and muscles of their scalps brightened. `auto` and `ants` are `preprocess.skull_strip`; `deepbet` is the outline of
its two networks alone. The first `DEVELOPMENT` heads that could be drawn are left out: limits and constants were chosen
on them. What is measured of each head is kept in --work, so that the same command goes on where it was stopped, and a
later one adds heads or methods. Seconds are the processor's, of the whole of preprocessing (deepbet: of the networks).
Writes benchmarks/results/masks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from drawn_heads import Traits, draw_head
from record import RESULTS, circumstances, write
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

SEED = 20260101
KINDS = ["drawn", "real", "brightened"]
METHODS = ["auto", "ants", "deepbet"]
OF_THE_MASK = ("ncc", "mask_volume_ml", "outline_dice", "mask_fit", "contrast")
GOOD, BAD = 0.95, 0.90  # Dice
DEVELOPMENT = 45  # three of each of fifteen label maps
SKULL_MM = 4.0  # around the intracranial space


@dataclass(frozen=True)
class Case:
    """A head to mask: its name, kind (`drawn`, `real`, `brightened`), traits and files."""

    name: str
    kind: str
    traits: list[str]
    seed: int
    source: Path  # a label map, or a scan
    labels: Path | None = None  # of a real head

    def read(self) -> tuple[Any, np.ndarray]:
        """The scan (an Image) and its true intracranial mask on the same grid."""
        from brainscm.images import Image
        from brainscm.preprocess.skullstrip import solid

        if self.labels is None:
            drawn = draw_head(self.source, self.seed)
            return drawn.image, drawn.mask.data
        nifti = nib.load(self.source)
        inside = solid(np.asarray(nib.load(self.labels).dataobj) > 0)
        data = nifti.get_fdata(dtype=np.float32)
        if self.kind == "brightened":
            data = brightened(data, inside, nib.affines.voxel_sizes(nifti.affine), self.seed)
        return Image(data, nifti.affine), inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomies", type=Path, required=True, help="folder of label maps of whole heads")
    parser.add_argument("--drawn", type=int, default=15, help="heads to draw")
    parser.add_argument("--bids", type=Path, help="real heads")
    parser.add_argument("--labels", type=Path, help="their label maps; above 0 is intracranial")
    parser.add_argument("--real", type=int, default=10, help="of the real heads, evenly over the folder")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of heads to take")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="to try now")
    parser.add_argument("--jobs", type=int, default=1, help="heads at once")
    parser.add_argument("--work", type=Path, default=Path("work/masks"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)

    cases = [*drawn_cases(arguments.anatomies, arguments.drawn)]
    if arguments.bids:
        cases += real_cases(arguments.bids, arguments.labels, arguments.real)
    cases = [case for case in cases if case.kind in arguments.kinds]
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        rows = list(pool.map(partial(complete, methods=arguments.methods, work=arguments.work), cases))
    figures = {
        "kinds": {kind: kind_summary([row for row in rows if row["kind"] == kind]) for kind in arguments.kinds},
        "by_trait": by_trait([row for row in rows if row["kind"] == "drawn"]),
        "rows": [in_short(row) for row in rows],
        **circumstances(
            f"{os.cpu_count()} cores",
            platform.system(),
            command=f"python benchmarks/bench_masks.py --anatomies <anatomies> --drawn {arguments.drawn}"
            + (f" --bids <bids> --labels <labels> --real {arguments.real}" if arguments.bids else "")
            + f" --kinds {' '.join(arguments.kinds)}",
        ),
    }
    write(figures, RESULTS / "masks.json")
    print(json.dumps({key: figures[key] for key in ("kinds", "by_trait")}, indent=2))


def drawn_cases(anatomies: Path, heads: int) -> Iterator[Case]:
    paths = sorted(anatomies.glob("*.nii.gz"))
    for number in range(DEVELOPMENT, DEVELOPMENT + heads):
        seed = SEED + number
        traits = Traits.draw(np.random.default_rng(seed)).names
        yield Case(f"drawn-{number:03d}", "drawn", traits, seed, paths[number % len(paths)])


def real_cases(bids: Path, labels: Path, heads: int) -> Iterator[Case]:
    """Each head as it is and brightened, one after the other."""
    scans = sorted(bids.glob("sub-*/anat/*_T1w.nii.gz"))
    for index in np.linspace(0, len(scans) - 1, heads).round().astype(int):
        scan = scans[index].name.removesuffix("_T1w.nii.gz")
        found = next((labels / scan / "anat").glob("*_dseg.nii.gz"))
        yield Case(scan, "real", [], SEED, scans[index], found)
        yield Case(f"{scan}-brightened", "brightened", [], SEED + int(index), scans[index], found)


def brightened(data: np.ndarray, inside: np.ndarray, voxel_mm: np.ndarray, seed: int) -> np.ndarray:
    """A head whose scalp, from `SKULL_MM` around its intracranial space on, is 1.6 to 3 times as bright.

    What is darker than grey matter, as bone and air are, stays.
    """
    white = np.percentile(data[inside], 85)
    outside_mm = ndimage.distance_transform_edt(~inside, sampling=voxel_mm)
    share = np.clip(outside_mm / SKULL_MM - 1, 0, 1) * np.clip(data / white / 0.6 - 0.5, 0, 1)
    return data * (1 + (np.random.default_rng(seed).uniform(1.6, 3) - 1) * share).astype(np.float32)


def complete(case: Case, methods: list[str], work: Path) -> dict[str, Any]:
    """What is known of a head, after the methods that it was not tried with yet."""
    path = work / f"{case.name}.json"
    row: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    row = {"head": case.name, "kind": case.kind, "traits": case.traits} | row
    missing = [method for method in methods if method not in row]
    if missing:
        head = case.read()
    for method in missing:
        row[method] = measure(method, *head, work)
        path.write_text(json.dumps(row))
        print(case.name, case.traits, method, json.dumps(row[method]), flush=True)
    return row


def measure(method: str, image: Any, truth: np.ndarray, work: Path) -> dict[str, Any]:
    """Dice, processor seconds, and what quality control says of one method on one head."""
    from brainscm.preprocess.outline import dice

    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "sub-1_T1w.nii.gz"
        nib.save(nib.Nifti1Image(image.data, image.affine), scan)
        started = time.process_time()
        mask, told = by_deepbet(scan) if method == "deepbet" else preprocessed(method, scan, Path(folder), work)
        seconds = time.process_time() - started
    found = 0.0 if mask is None else dice(mask, truth)
    return {"dice": round(found, 4), "seconds": round(seconds, 1)} | told


def preprocessed(method: str, scan: Path, folder: Path, work: Path) -> tuple[np.ndarray | None, dict[str, Any]]:
    from brainscm.config import PreprocessOptions
    from brainscm.preprocess.scan import preprocess_scan
    from brainscm.preprocess.template_files import EMBEDDED

    options = PreprocessOptions.model_validate({"skull_strip": method})
    done = preprocess_scan("sub-1", scan, folder, EMBEDDED, options, SEED, cache_dir=work / "template")
    if done["status"] != "done":
        return None, {"reasons": done["reasons"]}
    mask = np.asarray(nib.load(folder / done["outputs"]["native_mask"]).dataobj) > 0
    return mask, {"metrics": done["metrics"], "reasons": done["reasons"]}


def by_deepbet(scan: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The outline of the two networks alone, as a mask on the scan's own grid."""
    from brainscm.preprocess.head import read_scan, working_head
    from brainscm.preprocess.network import brain_probability
    from brainscm.preprocess.skullstrip import solid
    from brainscm.resampling import sample

    raw = read_scan(scan)
    head = working_head(raw)
    outline = head.with_data(brain_probability(head))
    return solid(sample(outline, raw.affine, raw.data.shape, order=1) > 0.5), {}


def in_short(row: dict[str, Any]) -> dict[str, Any]:
    """A head's row without the measures that say nothing of its mask."""
    short = dict(row)
    for method in METHODS:
        if method in row:
            metrics = row[method].get("metrics", {})
            short[method] = {key: row[method][key] for key in ("dice", "seconds")}
            short[method] |= {name: round(metrics[name], 4) for name in OF_THE_MASK if name in metrics}
    return short


def kind_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each method on the heads that it was tried on, and the first on those of each other."""
    tried = {method: [row for row in rows if method in row] for method in METHODS}
    figures = {method: summary(heads, method) for method, heads in tried.items() if heads}
    first, *others = METHODS
    for method in others:
        both = [row for row in tried[method] if first in row]
        if both and len(both) < len(tried[first]):
            figures[f"{first} on the heads of {method}"] = summary(both, first)
    return figures


def summary(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    dice = {row["head"]: row[method]["dice"] for row in rows}
    values = np.array(list(dice.values()))
    figures: dict[str, Any] = {
        "heads": len(rows),
        "median": round(float(np.median(values)), 4),
        "worst": values.min(),
        "worst_head": min(dice, key=dice.__getitem__),
        f"below_{BAD}": int((values < BAD).sum()),
        "below_0.94": int((values < 0.94).sum()),
        "seconds": float(np.median([row[method]["seconds"] for row in rows])),
    }
    if method != "deepbet":
        figures |= quality_control(rows, method)
    return figures


def quality_control(rows: list[dict[str, Any]], method: str) -> dict[str, int]:
    """What the limits of `quality` say of good and of bad masks; and of good ones, by those that speak of the mask.

    A good mask's scan may rightly warn or fail: of a brain that is cut off, of ghosts, of noise.
    """
    good, bad = [], []
    for row in rows:
        dice, metrics = row[method]["dice"], row[method].get("metrics")
        if dice > GOOD:
            good.append(
                (status_of(metrics), status_of({name: metrics[name] for name in OF_THE_MASK if name in metrics}))
            )
        elif dice < BAD:
            bad.append(status_of(metrics))
    figures = {"good": len(good)}
    for number, which in enumerate(("", "_by_the_mask")):
        for status in ("fail", "warn"):
            figures[f"good_{status}{which}"] = [of_scan[number] for of_scan in good].count(status)
    return figures | {"bad": len(bad), "bad_passed": bad.count("pass")}


def status_of(metrics: dict[str, float] | None) -> str:
    from brainscm.config import QualityOptions
    from brainscm.qc.limits import apply_limits

    return apply_limits(metrics, QualityOptions())[0] if metrics else "fail"  # no brain was found


def by_trait(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst Dice of the heads that have a trait."""
    table = {}
    for trait in sorted({trait for row in rows for trait in row["traits"]}):
        having = [row for row in rows if trait in row["traits"]]
        dice = {method: [row[method]["dice"] for row in having if method in row] for method in METHODS}
        table[trait] = {"heads": len(having)} | {
            method: {"median": round(float(np.median(values)), 4), "worst": min(values)}
            for method, values in dice.items()
            if values
        }
    return table


if __name__ == "__main__":
    main()
