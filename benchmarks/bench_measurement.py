"""Is a known movement measured as large as it is, and do volumes differ between participants as silver labels do?

python benchmarks/bench_measurement.py --anatomies <label maps> --preproc results/preproc --bids <ixi-2mm> [--name …]

Either half can be run alone. Writes benchmarks/results/measurement.json (or measurement_<name>.json):

- `gain`: measured ÷ true change of volumes, by what was moved. *Anatomies* are label maps of real heads whose pial,
  ventricular or grey / white boundary was moved as a signed distance at 1 mm and drawn in the template's voxels, with
  partial volume, noise and a residual bias field. *Heads* are preprocessed scans, pulled through smooth known maps; the
  true volumes are those of the silver labels pulled through the same maps.
- `slope_against_labels`: slope on age beside sex and intracranial volume, ÷ that of the silver labels (DLMUSE), and
  correlation of the volumes, over participants.

`new` is the workflow's measure; `anew` fits three classes to every image, as the workflow did before.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from known_movements import BOUNDARIES, Anatomy, place, seen, signal
from record import RESULTS, circumstances, write

from brainscm.images import Image, Mask, Volume
from brainscm.preprocess.itk import read_matrix
from brainscm.preprocess.template import EMBEDDED, Template, load_template
from brainscm.preprocess.tissues import MeasureTissues, regions_of, segment_tissues, tissue_volumes
from brainscm.regions import Geometry
from brainscm.resampling import sample
from brainscm.tables import read_table

MOVED_MM = (0.2, 0.5, 1.0)
MOVED = {"pial": ("gm", "csf"), "ventricular": ("ventricles", "csf"), "grey/white": ("gm", "wm")}
NOISE = 0.03  # standard deviation; white matter is 1
SHADING = 0.03  # of a residual bias field, at the template's edges
SULCAL, VENTRICLES = 1, (4, 11, 49, 50, 51, 52)  # of DLMUSE's labels
SILVER = {
    "gm": ["601_GM"],
    "wm": ["604_WM"],
    "csf": ["600_CorticalCSF", "509_Ventricles"],
    "ventricles": ["509_Ventricles"],
}
# Those that are moved, half a minute each.
ANATOMIES, HEADS = slice(0, 10, 2), slice(0, 12, 6)

Gains = dict[tuple[str, ...], list[float]]


@dataclass(frozen=True)
class Head:
    """A preprocessed scan (x, y, z), white-matter peak at 1."""

    name: str
    volume: Volume
    mask: Mask
    head_size: float
    mask_ml: float
    to_scan: np.ndarray

    @classmethod
    def read(cls, folder: Path, name: str) -> Head:
        def only(pattern: str) -> Path:
            (found,) = (folder / name / "anat").glob(f"{name}_{pattern}")
            return found

        metrics = json.loads((folder / "status" / f"{name}.json").read_text())["metrics"]
        return cls(
            name,
            np.asarray(nib.load(only("space-*_desc-preproc_T1w.nii.gz")).dataobj, np.float32),
            np.asarray(nib.load(only("space-*_desc-brain_mask.nii.gz")).dataobj) > 0,
            metrics["head_size"],
            metrics["mask_volume_ml"],
            read_matrix(only("from-T1w_to-*_xfm.mat")),
        )


def anew(volume: Volume, mask: Mask, template: Template, head_size: float) -> dict[str, float]:
    """Classes fitted to this very image, whatever it stands for."""
    tissues = segment_tissues(volume, mask, template)
    return tissue_volumes(tissues, regions_of(template), template.voxel_ml / head_size)


def move_anatomies(folder: Path, template: Template) -> Iterator[tuple[tuple[str, ...], float]]:
    """Measured ÷ true by movement, mm, region and measure."""
    axes = [
        np.linspace(-1, 1, n).reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, n in enumerate(template.shape)
    ]
    bias = 1 + SHADING * axes[0] - SHADING * axes[1] * axes[0]
    for number, path in list(enumerate(sorted(folder.glob("*.nii*"))))[ANATOMIES]:
        anatomy = Anatomy.read(path)
        to_anatomy = place(anatomy, template)
        head_size = 1 / float(np.linalg.det(to_anatomy[:3, :3]))
        skull = Image(anatomy.skull, anatomy.affine)
        mask = sample(skull, template.affine, template.shape, to_anatomy, order=1, outside=-9.0) > 0
        noise = np.random.default_rng(number).normal(0, NOISE, template.shape)

        def look(boundary: str = "pial", by_mm: float = 0.0) -> tuple[Volume, dict[str, float]]:
            tissue = anatomy.moved(boundary, by_mm)  # noqa: B023
            volume = np.clip(seen(signal(tissue), anatomy, template, to_anatomy) * bias + noise, 0, None)  # noqa: B023
            return (volume * mask).astype(np.float32), tissue.volumes_ml()  # noqa: B023

        scan, before = look()
        measure = MeasureTissues(template)(scan, Geometry(mask, head_size))
        own = {"new": measure.volumes_ml(scan), "anew": anew(scan, mask, template, head_size)}
        for boundary in BOUNDARIES:
            for by_mm in MOVED_MM:
                image, after = look(boundary, by_mm)
                found = {"new": measure.volumes_ml(image)}
                if by_mm == 0.5:
                    found["anew"] = anew(image, mask, template, head_size)
                for which, volumes in found.items():
                    for region in MOVED[boundary]:
                        ratio = (volumes[region] - own[which][region]) / (after[region] - before[region])
                        yield (boundary, f"{by_mm:g} mm", region, which), ratio
        print(path.name, flush=True)


def move_heads(heads: list[Head], labels: Path, template: Template) -> Iterator[tuple[tuple[str, ...], float]]:
    """The same on real scans: the brain drawn together around its centre, and ventricles widened around theirs.

    Half of a movement is made backwards for the start and half forwards for the end, so that both are interpolated.
    """
    movements = (
        ("brain drawn together", "brain", "shrink"),
        ("ventricles widened", "ventricles", "widen"),
    )
    for head in heads:
        silver = _labels(labels, head.name)
        for movement, region, kind in movements:
            for by in (0.005, 0.015) if kind == "shrink" else (0.03, 0.08):
                start, end = ({kind: sign * by / 2} for sign in (-1, 1))
                scan, image = (_seen_through(head, template, **pull) for pull in (start, end))
                true_start, true_end = (_true_ml(head, silver, template, **pull)[region] for pull in (start, end))
                measure = MeasureTissues(template)(scan, Geometry(head.mask, head.head_size))
                found = {"new": [measure.volumes_ml(volume)[region] for volume in (scan, image)]}
                found["anew"] = [anew(volume, head.mask, template, head.head_size)[region] for volume in (scan, image)]
                for which, (before, after) in found.items():
                    yield (movement, f"{100 * by:g} %", region, which), (after - before) / (true_end - true_start)


def _seen_through(head: Head, template: Template, **pull: float) -> Volume:
    at = apply(np.linalg.inv(template.affine), _pulled(template.affine, template.shape, template, **pull))
    return np.clip(ndimage.map_coordinates(head.volume, at, order=3), 0, None) * head.mask


def _true_ml(head: Head, silver: Image, template: Template, **pull: float) -> dict[str, float]:
    """Volumes of the silver labels, pulled through the same map on a grid of 1 mm."""
    fine = np.eye(4)
    fine[:3, 3] = template.affine[:3, 3]
    shape = tuple(round(n * template.voxel_mm) for n in template.shape)
    at = apply(np.linalg.inv(silver.affine) @ head.to_scan, _pulled(fine, shape, template, **pull))
    ventricles = np.isin(silver.data, VENTRICLES)
    parts = {"brain": (silver.data > 0) & (silver.data != SULCAL) & ~ventricles, "ventricles": ventricles}
    return {
        name: float(ndimage.map_coordinates(part.astype(np.float32), at, order=1).sum()) / 1000 / head.head_size
        for name, part in parts.items()
    }


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`points`: (3, x, y, z)."""
    return np.tensordot(affine[:3, :3].astype(np.float32), points, 1) + affine[:3, 3].reshape(3, 1, 1, 1)


def _pulled(
    affine: np.ndarray, shape: tuple[int, ...], template: Template, shrink: float = 0.0, widen: float = 0.0
) -> np.ndarray:
    """Where each voxel of a grid takes its brightness from: (3, x, y, z) in the template's world coordinates, mm."""
    world = apply(affine, np.indices(shape, dtype=np.float32))
    middle = ndimage.center_of_mass(template.brain_mask), ndimage.center_of_mass(template.ventricles)
    brain, ventricles = (template.affine[:3, :3] @ np.array(m) + template.affine[:3, 3] for m in middle)
    from_ventricles = world - ventricles.reshape(3, 1, 1, 1)
    near = np.exp(-0.5 * (from_ventricles**2).sum(0) / 35.0**2)
    return world + shrink * (world - brain.reshape(3, 1, 1, 1)) - widen * near * from_ventricles


def _labels(folder: Path, name: str) -> Image:
    (path,) = (folder / name).rglob("*.nii.gz")
    image = nib.load(path)
    return Image(np.asarray(image.dataobj), image.affine)


def compare_participants(heads: list[Head], bids: Path, template: Template) -> dict[str, dict[str, dict[str, float]]]:
    """By measure and region: slope on age ÷ the silver labels', correlation of the volumes and median ratio."""
    participants = read_table(bids / "participants.tsv").set_index("participant_id")
    silver = read_table(bids / "derivatives" / "dlmuse" / "volumes.tsv").set_index("participant_id") / 1000
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for head in heads:
        measure = MeasureTissues(template)(head.volume, Geometry(head.mask, head.head_size))
        rows["new"].append(measure.volumes_ml(head.volume))
        rows["anew"].append(anew(head.volume, head.mask, template, head.head_size))
    names = [head.name for head in heads]
    participants, silver = participants.loc[names], silver.loc[names]
    known = participants["age"].notna().to_numpy()
    masks = pd.Series([head.mask_ml for head in heads], names)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for measure, volumes in rows.items():
        table = pd.DataFrame(volumes, names)
        found[measure] = {}
        for region, columns in SILVER.items():
            theirs = silver[columns].sum(axis=1)
            ours, across = (
                _slope(table[region], masks, participants, known),
                _slope(theirs, silver["702_ICV"], participants, known),
            )
            found[measure][region] = {
                "slope_ml_a_year": ours,
                "labels_slope_ml_a_year": across,
                "slope_ratio": ours / across,
                "correlation": float(np.corrcoef(table[region], theirs)[0, 1]),
                "median_volume_ratio": float((table[region] / theirs).median()),
            }
    return found


def _slope(volumes: pd.Series, masks: pd.Series, participants: pd.DataFrame, known: np.ndarray) -> float:
    ones = np.ones(len(participants))
    design = np.column_stack([ones, participants["age"], participants["sex"] == "M", masks]).astype(float)
    return float(np.linalg.lstsq(design[known], volumes.to_numpy(float)[known], rcond=None)[0][1])


def gathered(ratios: Iterator[tuple[tuple[str, ...], float]]) -> list[dict[str, object]]:
    """A row a movement, region and measure: mean, and the smallest and largest of the heads."""
    gains: Gains = defaultdict(list)
    for key, ratio in ratios:
        gains[key].append(float(ratio))
    return [
        {
            **dict(zip(("moved", "by", "region", "measure"), key, strict=True)),
            "gain": float(np.mean(found)),
            "smallest": min(found),
            "largest": max(found),
            "heads": len(found),
        }
        for key, found in gains.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomies", type=Path)
    parser.add_argument("--preproc", type=Path, help="preprocessed at 2 mm on the embedded template; needs --bids")
    parser.add_argument("--bids", type=Path, help="participants.tsv and derivatives/dlmuse")
    parser.add_argument("--name", default="", help="of another data set: measurement_<name>.json")
    given = parser.parse_args()
    if not (given.anatomies or (given.preproc and given.bids)):
        parser.error("give --anatomies, or --preproc and --bids, or all of them")

    path = RESULTS / ("_".join(["measurement", *([given.name] if given.name else [])]) + ".json")
    template = load_template(EMBEDDED, 2.0)
    if given.anatomies:
        rows = gathered(move_anatomies(given.anatomies, template))
        keep(path, "gain", "anatomies", rows, f"--anatomies <{given.anatomies.name}>")
    if given.preproc:
        options = f"--preproc <{given.preproc.name}> --bids <{given.bids.name}>"
        options += f" --name {given.name}" if given.name else ""
        names = sorted(path.name for path in given.preproc.glob("sub-*"))
        heads = [Head.read(given.preproc, name) for name in names]
        found = compare_participants(heads, given.bids, template)
        keep(path, "slope_against_labels", "heads", {"participants": len(heads), **found}, options)
        rows = gathered(move_heads(heads[HEADS], given.bids / "derivatives" / "dlmuse", template))
        keep(path, "gain", "heads", rows, options)
    print(path.read_text())


def keep(path: Path, figure: str, data: str, found: object, options: str) -> None:
    """Record a part with its own circumstances beside the parts that were measured before."""
    figures = json.loads(path.read_text()) if path.is_file() else {}
    command = f"python benchmarks/bench_measurement.py {options}"
    part = {"found": found, **circumstances(platform.system(), command=command)}
    figures[figure] = figures.get(figure, {}) | {data: part}
    write(figures, path)


if __name__ == "__main__":
    main()
