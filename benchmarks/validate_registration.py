"""Is the brain where the template's is? BrainSCM's affine beside a plain ants.registration("Affine") of the raw head.

python benchmarks/validate_registration.py --preproc results/preproc --bids <bids> --labels <bids>/derivatives/dlmuse \
    --ventricles 49 50 51 52 --name ixi [--scans 10]

For each scan: the correlation with the template inside its brain mask, and the Dice of the scan's own ventricle label
(from a label map on the raw grid, as DLMUSE's lateral ventricles) with the template's lateral ventricles, both brought
to the template's grid by the affine. The plain registration sees the raw head and the template's brain, as a first
attempt would. Writes benchmarks/results/registration_<name>.json; some ten seconds a scan, one on each core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")  # read when ITK loads

import ants
import nibabel as nib
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from record import RESULTS, circumstances, write

from brainscm.images import Image
from brainscm.preprocess.itk import read_matrix, to_ants
from brainscm.preprocess.template import Template, load_template
from brainscm.preprocess.template_files import EMBEDDED
from brainscm.resampling import sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preproc", type=Path, required=True)
    parser.add_argument("--bids", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--ventricles", type=int, nargs="+", required=True)
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--scans", type=int, help="only the first so many")
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()

    template = load_template(EMBEDDED, arguments.voxel_mm)
    qc = pd.read_csv(arguments.preproc / "qc.tsv", sep="\t").set_index("scan")
    usable = qc[qc["status"] != "fail"].iloc[: arguments.scans]
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for row in pool.map(partial(compare, arguments, template), usable.index, usable["to_template"]):
            print(json.dumps(row), flush=True)
            rows.append(row)
    table = pd.DataFrame(rows).set_index("scan")
    figures = {
        "scans": len(table),
        "mean": table.mean().round(4).to_dict(),
        "worst": table.min().round(4).to_dict(),
        **circumstances(
            platform.system(),
            command=f"python benchmarks/validate_registration.py --preproc <{arguments.preproc.name}> --bids "
            f"<{arguments.bids.name}> --labels <{arguments.labels.name}> --ventricles "
            f"{' '.join(map(str, arguments.ventricles))} --name {arguments.name}",
        ),
    }
    print(write(figures, RESULTS / f"registration_{arguments.name}.json"))


def compare(arguments: argparse.Namespace, template: Template, scan: str, to_template: str) -> dict[str, Any]:
    """Both registrations of one scan, scored alike."""
    folder = scan.replace("_", "/")
    raw = read(arguments.bids / folder / "anat" / f"{scan}_T1w.nii.gz")
    labels = read(next((arguments.labels / folder / "anat").glob("*_dseg.nii.gz")))
    ventricles = labels.with_data(np.isin(labels.data, arguments.ventricles).astype(np.float32))
    maps = {"ours": read_matrix(arguments.preproc / to_template), "plain": plain_affine(template, raw)}
    scores = [score(name, template, raw, ventricles, world) for name, world in maps.items()]
    return {"scan": scan} | scores[0] | scores[1]


def read(path: Path) -> Image:
    image = nib.load(path)
    return Image(np.asarray(image.dataobj, dtype=np.float32), image.affine)


def plain_affine(template: Template, raw: Image) -> np.ndarray:
    """Map (4, 4) from template to scan, RAS+ mm, of ANTs' affine registration with its defaults."""
    found = ants.registration(to_ants(template.brain_volume), to_ants(raw), "Affine", random_seed=1)
    return read_matrix(Path(found["fwdtransforms"][0]))


def score(name: str, template: Template, raw: Image, ventricles: Image, world: np.ndarray) -> dict[str, float]:
    """Correlation with the template inside its brain, and Dice of the lateral ventricles."""
    grid = (template.affine, template.shape, world)
    image = sample(raw, *grid, order=1)
    label = sample(ventricles, *grid, order=1) > 0.5
    own = template.ventricles & (template.csf > 0.5)
    index_z = np.linalg.inv(template.affine) @ [0, 0, -6, 1]
    own[:, :, : int(index_z[2])] = False  # below lies the fourth ventricle, which the labels leave out
    inside = template.brain_mask
    return {
        f"{name}_ncc": round(float(np.corrcoef(image[inside], template.brain[inside])[0, 1]), 4),
        f"{name}_ventricle_dice": round(2 * float((label & own).sum()) / max(1.0, float(label.sum() + own.sum())), 4),
    }


if __name__ == "__main__":
    main()
