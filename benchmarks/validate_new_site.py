"""What is gained by estimating a site that a fitted study has not seen from controls of the new scans.

python benchmarks/validate_new_site.py [--work folder]

A study of simulated heads of scanner A (see placed_cohort.py) is put to heads of scanner B, which has another contrast.
Held-out heads of B: how far their mean latent lies from what the model expects of them, in each part of the latent, as
a multiple of how far a mean of as many heads lies off by chance. Unknown, they count as A's. Writes
benchmarks/results/new_site.json.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import numpy as np
import pandas as pd
import torch
from bench_synthesis import OPTIONS
from placed_cohort import GRAPH, encode_cohort, make_cohort
from record import RESULTS, circumstances, write

from brainscm.config import ScmOptions
from brainscm.encoding.model import encoder_identity
from brainscm.latents.encode import encode_scans
from brainscm.latents.store import LatentStore
from brainscm.preprocess.template import EMBEDDED, load_template
from brainscm.scans import ScanTable
from brainscm.scm.model import Scm
from brainscm.scm.new_levels import with_new_levels

VOXEL_MM = 3.0
PARTICIPANTS = 40
NEW, HELD_OUT = 36, 12  # heads of scanner B
CONTROLS = (10, 24)
PARTS = ("fine displacement", "coarse displacement", "fine density", "coarse density", "appearance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the cohorts are kept")
    work = parser.parse_args().work or Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    template, folder, new = load_template(EMBEDDED, VOXEL_MM, work / "template"), work / f"{VOXEL_MM:g}mm", work / "new"
    make_cohort(folder, PARTICIPANTS, template)
    encoded = encode_cohort(folder, template, OPTIONS)
    make_cohort(new, NEW, template, seed=2, site="B")
    scans = ScanTable.read(new / "cohort" / "scans.tsv", new / "preproc" / "qc.tsv")
    encode_scans(scans, encoded.encoder, encoder_identity(folder / "model.pt"), new / "latents.zarr")
    store = LatentStore.open(new / "latents.zarr")

    # The site is a node that all scans of the study agree in but for a second, made-up one, as a factor needs two.
    table = encoded.scans.rows.assign(site=np.where(np.arange(len(encoded.scans.rows)) % 2, "A1", "A2"))
    graph = {"nodes": {**GRAPH["nodes"], "site": {}}, "image": {"formula": f"{GRAPH['image']['formula']} + site"}}
    layout, identity = encoded.store.layout, encoded.store.identity
    table = table.loc[list(encoded.store.scans)]
    scm = Scm.fit(table, encoded.store.latents, ScmOptions.model_validate(graph), 1, layout, identity)
    rows = scans.usable.assign(site="B", number=np.arange(len(scans.usable)))
    held = rows.iloc[-HELD_OUT:]
    found = {"unknown": _off(scm, held.assign(site="A1"), store)}
    for controls in CONTROLS:
        known = with_new_levels(scm, rows, {"site": f"number < {controls}"}, store)
        found[f"{controls} controls"] = _off(known, held, store)
    figures = {"held_out": HELD_OUT, "times_chance": found, **circumstances(platform.system())}
    print(write(figures, RESULTS / "new_site.json"))


def _off(scm: Scm, rows: pd.DataFrame, store: LatentStore) -> dict[str, float]:
    """By part: the mean residual of some scans, root mean square, over what chance makes of a mean of as many."""
    x = scm.design_matrix(rows)
    left = np.stack([store.of(scan) - scm.image.predict(x[[at]])[0] for at, scan in enumerate(rows["scan"])])
    chance = left.var(axis=0, ddof=1) / len(left)
    ends = np.cumsum([0, *store.layout.parts])
    spans = [slice(start, end) for start, end in pairwise(ends)]
    square = np.square(left.mean(axis=0))
    return {part: float(np.sqrt(square[at].mean() / chance[at].mean())) for part, at in zip(PARTS, spans, strict=True)}


if __name__ == "__main__":
    main()
