"""Compare brain masks and tissue volumes with label maps made by another tool on the same raw scans.

python benchmarks/validate_masks.py --preproc results/preproc --labels <bids>/derivatives/dlmuse --name ixi

`--labels` holds `sub-X/anat/*_dseg.nii.gz` on the raw scans' grids (label > 0 is the intracranial mask) and
`volumes.tsv` in mm³ with the columns 601_GM, 604_WM and 509_Ventricles. Writes benchmarks/results/masks_<name>.json.

The masks lie on the raw scans' own grids, so the same command serves any template. For Colin27, preprocess with
`template: {name: Colin27, t1w: colin27_wholehead.nii.gz, brain_mask: colin27_brain.nii.gz}` (a brain image is taken for
its mask) into an `output_dir` of its own, and give `--name ixi_colin27`.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from record import RESULTS, circumstances, write

VOLUMES = {"gm": "601_GM", "wm": "604_WM", "ventricles": "509_Ventricles"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preproc", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()

    qc = pd.read_csv(arguments.preproc / "qc.tsv", sep="\t").set_index("scan")
    usable = qc[qc["status"] != "fail"]
    reference = pd.read_csv(arguments.labels / "volumes.tsv", sep="\t").set_index("participant_id").loc[usable.index]
    dice = pd.Series(
        {
            scan: dice_of(arguments.preproc / row["native_mask"], arguments.labels / scan)
            for scan, row in usable.iterrows()
        }
    )
    figures = {
        "scans": len(qc),
        "status": qc["status"].value_counts().to_dict(),
        "dice": {
            "median": dice.median(),
            "worst": dice.min(),
            "worst_scan": dice.idxmin(),
            "below_0.94": int((dice < 0.94).sum()),
        },
        "correlation": {name: usable[f"{name}_ml"].corr(reference[column]) for name, column in VOLUMES.items()},
        "median_ratio": {
            name: (usable[f"{name}_ml"] / reference[column] * 1000).median() for name, column in VOLUMES.items()
        },
        **circumstances(
            platform.system(),
            command=f"python benchmarks/validate_masks.py --preproc <{arguments.preproc.name}> "
            f"--labels <{arguments.labels.name}> --name {arguments.name}",
        ),
    }
    print(write(figures, RESULTS / f"masks_{arguments.name}.json"))


def dice_of(mask_path: Path, labels_folder: Path) -> float:
    mask = np.asarray(nib.load(mask_path).dataobj) > 0
    labels = np.asarray(nib.load(next(labels_folder.glob("anat/*_dseg.nii.gz"))).dataobj) > 0
    return 2 * float((mask & labels).sum()) / float(mask.sum() + labels.sum())


if __name__ == "__main__":
    main()
