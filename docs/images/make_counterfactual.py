"""Draw docs/images/counterfactual.png from the standing benchmark: a scan, BrainSCM's answers, and the true ones.

python docs/images/make_counterfactual.py work/truth

Of the participants it tests, the healthy one whose age is nearest to 55 is drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

from brainscm.evaluation.truth import read_raw, true_volume
from brainscm.images import Volume, read_volume
from brainscm.preprocess.itk import read_matrix
from brainscm.scans import ScanTable
from brainscm.tables import read_table

QUERIES = {"older20": "20 years older", "ill": "with Alzheimer's disease"}
PREFERRED_AGE = 55
DARKER_TO_BRIGHTER = LinearSegmentedColormap.from_list("", ["#b5dcff", "#3f8fd2", "black", "#c8552d", "#ffc9ae"])
CHANGE = 0.35  # of the white-matter intensity, end of the colour scale


def main(folder: Path) -> None:
    results, bids = folder / "results", folder / "work" / "simulation" / "bids"
    scans = ScanTable.read(results / "cohort" / "scans.tsv", results / "preproc" / "qc.tsv")
    manifest = read_table(results / "counterfactuals" / "manifest.tsv")
    truth = read_table(bids / "derivatives" / "truth" / "counterfactuals.tsv").set_index(["scan", "query"])
    asked = manifest[(manifest["query"] == "older20") & (manifest["factual_diagnosis"] == "CN")]
    asked = asked[asked["scan"].isin(truth.index.get_level_values("scan"))]
    scan = str(asked["scan"].iloc[(asked["factual_age"] - PREFERRED_AGE).abs().argmin()])

    factual, mask = scans.volume(scan), scans.mask(scan)
    raw, to_scan = read_raw(str(scans.require(scan)["path"])), read_matrix(scans.path(scan, "to_template"))
    columns: list[tuple[str, Volume, Volume | None]] = [("the scan", factual, None)]
    for query, words in QUERIES.items():
        row = manifest[(manifest["scan"] == scan) & (manifest["query"] == query)].iloc[0]
        made = read_volume(results / "counterfactuals" / str(row["path"]), scans.grid)
        answer = read_raw(bids / str(truth.loc[(scan, query), "path"]))
        true = true_volume(factual, mask, raw, answer, to_scan, scans.grid)
        columns += [(f"{words}:\nBrainSCM", made, made - factual), (f"{words}:\nthe truth", true, true - factual)]

    figure, axes = plt.subplots(3, len(columns), figsize=(11, 7.2), facecolor="black", layout="constrained")
    for axis, (title, volume, change) in zip(axes.T, columns, strict=True):
        axis[0].set_title(title, color="white", fontsize=11)
        for panel, cut in zip(axis, (_coronal, _axial), strict=False):
            panel.imshow(cut(volume), cmap="gray", vmin=0, vmax=1.2, interpolation="bicubic")
        if change is not None:
            axis[2].imshow(_axial(change), cmap=DARKER_TO_BRIGHTER, vmin=-CHANGE, vmax=CHANGE, interpolation="bicubic")
    legend = "change\nblue: darker\nred: brighter"
    axes[2, 0].text(0.5, 0.5, legend, color="white", ha="center", va="center", fontsize=11)
    axes[2, 0].set(xlim=(0, 1), ylim=(0, 1))
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(Path(__file__).with_name("counterfactual.png"), dpi=90)


def _coronal(volume: Volume) -> Volume:
    return volume[::-1, int(volume.shape[1] * 0.45)].T[::-1]


def _axial(volume: Volume) -> Volume:
    return volume[::-1, :, int(volume.shape[2] * 0.52)].T[::-1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
