"""Brain masks of heads of every look, whose intracranial space is known, and of real heads, by trait and by method.

python benchmarks/bench_masks.py --anatomies <label maps> --heads 24 [--bids <ixi> --labels <dlmuse> --real 10]

Heads are drawn from the label maps (drawn_heads.py says how). `auto` and `ants` are `preprocess.skull_strip`; `deepbet`
is the outline of its two networks alone. What is measured of each head is kept in --work, so that the same command goes
on where it was stopped. Seconds are the processor's, of the whole of preprocessing (deepbet: of the networks). Writes
benchmarks/results/masks.json.
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
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from record import RESULTS, circumstances, write

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

SEED = 20260101
METHODS = ["auto", "ants", "deepbet"]
MEASURED = ("outline_dice", "outline_fit", "mask_fit", "size_ratio", "ncc", "cnr", "contrast", "head_size")
GOOD, BAD = 0.95, 0.90  # Dice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomies", type=Path, required=True, help="folder of label maps of whole heads")
    parser.add_argument("--heads", type=int, default=24, help="to draw")
    parser.add_argument("--bids", type=Path, help="real heads")
    parser.add_argument("--labels", type=Path, help="their label maps; above 0 is intracranial")
    parser.add_argument("--real", type=int, default=10, help="of the real heads, evenly over the folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="to try now")
    parser.add_argument("--work", type=Path, default=Path("work/masks"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)

    rows = []
    for name, traits, head in heads(arguments):
        path = arguments.work / f"{name}.json"
        row: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"head": name, "traits": traits}
        for method in arguments.methods:
            if method not in row:
                row[method] = measure(method, *head(), arguments.work)
                path.write_text(json.dumps(row))
                print(name, traits, method, json.dumps(row[method]), flush=True)
        rows.append(row)
    drawn, real = ([row for row in rows if row["head"].startswith("drawn") is is_drawn] for is_drawn in (True, False))
    figures = {
        "drawn": {method: summary(drawn, method) for method in METHODS},
        "by_trait": by_trait(drawn),
        "real": {method: summary(real, method) for method in METHODS},
        "rows": rows,
        **circumstances(
            f"{os.cpu_count()} cores",
            platform.system(),
            command=f"python benchmarks/bench_masks.py --anatomies <anatomies> --heads {arguments.heads}"
            + (f" --bids <bids> --labels <labels> --real {arguments.real}" if real else ""),
        ),
    }
    write(figures, RESULTS / "masks.json")
    print(json.dumps({key: figures[key] for key in ("drawn", "by_trait", "real")}, indent=2))


def heads(arguments: argparse.Namespace) -> Iterator[tuple[str, list[str], Any]]:
    """Name, traits, and a function that gives the scan (an Image) and the true mask on its grid."""
    from drawn_heads import draw_head

    from brainscm.images import Image
    from brainscm.preprocess.skullstrip import solid

    anatomies = sorted(arguments.anatomies.glob("*.nii.gz"))
    for number in range(arguments.heads):
        kept: list[Any] = []

        def draw(number: int = number, kept: list[Any] = kept) -> tuple[Image, np.ndarray]:
            if not kept:
                kept.append(draw_head(anatomies[number % len(anatomies)], SEED + number))
            return kept[0].image, kept[0].mask.data

        yield f"drawn-{number:03d}", draw_traits(SEED + number).names, draw
    if not arguments.bids:
        return
    scans = sorted(arguments.bids.glob("sub-*/anat/*_T1w.nii.gz"))
    for index in np.linspace(0, len(scans) - 1, arguments.real).round().astype(int):
        scan = scans[index].name.removesuffix("_T1w.nii.gz")

        def read(path: Path = scans[index], scan: str = scan) -> tuple[Image, np.ndarray]:
            image = nib.load(path)
            labels = next((arguments.labels / scan / "anat").glob("*_dseg.nii.gz"))
            inside = solid(np.asarray(nib.load(labels).dataobj) > 0)
            return Image(image.get_fdata(dtype=np.float32), image.affine), inside

        yield scan, [], read


def draw_traits(seed: int) -> Any:
    from drawn_heads import Traits

    return Traits.draw(np.random.default_rng(seed))


def measure(method: str, image: Any, truth: np.ndarray, work: Path) -> dict[str, Any]:
    """Dice, processor seconds, and what quality control says of one method on one head."""
    from brainscm.preprocess.outline import dice

    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "sub-1_T1w.nii.gz"
        nib.save(nib.Nifti1Image(image.data, image.affine), scan)
        started = time.process_time()
        run = by_deepbet if method == "deepbet" else preprocessed
        mask, told = run(method, scan, Path(folder), work)
        seconds = time.process_time() - started
    found = 0.0 if mask is None else dice(mask, truth)
    return {"dice": round(found, 4), "seconds": round(seconds, 1)} | told


def preprocessed(method: str, scan: Path, folder: Path, work: Path) -> tuple[np.ndarray | None, dict[str, Any]]:
    from brainscm.config import PreprocessOptions, QualityOptions
    from brainscm.preprocess.scan import preprocess_scan
    from brainscm.preprocess.template_files import EMBEDDED
    from brainscm.qc.limits import apply_limits

    options = PreprocessOptions.model_validate({"skull_strip": method})
    done = preprocess_scan("sub-1", scan, folder, EMBEDDED, options, SEED, cache_dir=work / "template")
    if done["status"] != "done":
        return None, {"status": "fail", "reasons": done["reasons"]}
    status, reasons = apply_limits(done["metrics"], QualityOptions())
    mask = np.asarray(nib.load(folder / done["outputs"]["native_mask"]).dataobj) > 0
    measured = {name: done["metrics"][name] for name in MEASURED if name in done["metrics"]}
    return mask, {"status": status, "reasons": reasons, "metrics": measured}


def by_deepbet(_: str, scan: Path, __: Path, ___: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from brainscm.preprocess.head import read_scan, working_head
    from brainscm.preprocess.network import brain_probability
    from brainscm.preprocess.skullstrip import solid
    from brainscm.resampling import sample

    raw = read_scan(scan)
    head = working_head(raw)
    outline = head.with_data(brain_probability(head))
    return solid(sample(outline, raw.affine, raw.data.shape, order=1) > 0.5), {}


def summary(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    rows = [row for row in rows if method in row]  # a method may have been tried on fewer heads
    if not rows:
        return {"heads": 0}
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
        good = [row[method]["status"] for row in rows if row[method]["dice"] > GOOD]
        bad = [row[method]["status"] for row in rows if row[method]["dice"] < BAD]
        figures |= {"good": len(good), "good_failed": good.count("fail"), "good_warned": good.count("warn")}
        figures |= {"bad": len(bad), "bad_passed": bad.count("pass")}
    return figures


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
