"""What each way to estimate the image node is worth, by the true counterfactuals of the same participants.

python benchmarks/ablate_scm.py [--run work/truth] [--participants 8] [--train 14] [--only "by component" ridge …]

Takes the latents of a `make bench-truth` run that has come as far as them and the true answers, fits the image node in
each variant on the same training scans, puts every question to some of the test participants and decodes the answers
as the study does. Differences between variants are the estimator's (or, of `not transported` and `as before`, also that
every scan is moved by the mean participant's effect): scans, latents, questions and decoding are the same. With
--train, the graph is the demo's and that many participants are learnt from: what is best for a hundred may fail a
cohort of fourteen. Writes benchmarks/results/ablation_scm.json (elsewhere with --output).
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_truth import ROOT
from known_answers import Candidate, Run, evaluate, fit_scm, summarize
from parts import APPEARANCE, DENSITY, DISPLACEMENT, of_parts
from record import RESULTS, circumstances, write

from brainscm.encoding.encoder import Encoder
from brainscm.encoding.model import load_encoder
from brainscm.latents.store import LatentStore
from brainscm.scm import shrinkage

VARIANTS: dict[str, dict[str, Any]] = {
    "by component": {},
    "by component, nothing left out": {"stands_out": 0.0},
    "by component, whole parts": {"window": 100.0},
    "by component, sides apart": {"mirrored": False},
    "by component, not transported": {"transported": False},
    "by component, without density": {"parts": DISPLACEMENT + APPEARANCE},
    "by component, density alone": {"parts": DENSITY},
    "least squares, without density": {"shrinkage": "none", "parts": DISPLACEMENT + APPEARANCE},
    "least squares": {"shrinkage": "none"},
    "ridge": {"shrinkage": "ridge"},
    "rank 2": {"shrinkage": "none", "rank": 2},
    "rank 4": {"shrinkage": "none", "rank": 4},
    "smoothed": {"shrinkage": "none", "smoothing_voxels": 1.0},
    "by component, smoothed": {"smoothing_voxels": 1.0},
    "by component, variance by site": {"variance_by": "site"},
}


def without_transport(encoder: Encoder) -> Encoder:
    """The same encoder, but that the mean participant's effect moves every scan as it is."""
    other = copy.copy(encoder)
    other.transport = lambda shift, latents, mean: shift  # type: ignore[method-assign]
    return other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "work" / "truth", help="folder of a bench-truth run")
    parser.add_argument("--participants", type=int, default=8)
    parser.add_argument("--train", type=int, help="participants to learn from, with the demo's graph; without: all")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "ablation_scm.json")
    arguments = parser.parse_args()

    run = Run.load(arguments.run)
    if arguments.train:
        run = run.small(arguments.train)
    results = run.folder / "results"
    encoder = load_encoder(results / "autoencoder" / "model.pt")
    store = LatentStore.open(results / "latents" / "latents.zarr")
    not_transporting = without_transport(encoder)

    def candidate(
        transported: bool = True,
        window: float = shrinkage.WINDOW,
        stands_out: float = shrinkage.STANDS_OUT,
        parts: Sequence[int] | None = None,
        **options: Any,
    ) -> Candidate:
        with mock.patch.multiple(shrinkage, WINDOW=window, STANDS_OUT=stands_out):
            scm = fit_scm(run, store, **options)
        if parts is not None:
            scm = of_parts(scm, store.layout, parts)
        return Candidate(encoder if transported else not_transporting, store, scm)

    candidates = {name: candidate(**VARIANTS[name]) for name in arguments.only}
    figures = {
        "run": run.folder.name,
        "trained_participants": int(run.scans.of_split("train")["participant"].nunique()),
        "variants": {name: VARIANTS[name] for name in arguments.only},
        **summarize(evaluate(run, arguments.participants, candidates)),
        **circumstances(platform.system(), f"{os.cpu_count()} cores"),
    }
    write(figures, arguments.output)
    print(pd.DataFrame(figures["all_questions"]).T.round(3).to_string())


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
