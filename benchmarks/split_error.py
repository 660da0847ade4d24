"""Where a counterfactual's error arises: in encoding a change, in what participants share of it, or in estimating it.

python benchmarks/split_error.py [--run work/truth] [--participants 12] [--queries older20 …]

Takes a `make bench-truth` run that has come as far as the fitted causal model and the true answers, and moves the same
test scans by three shifts of their latents, decoded as the study does:

- `own change, encoded`: the latent of the true answer minus that of the scan. What is lost, encoding and decoding lose.
- `mean of the others' changes`: of the other participants' true answers. What is lost beside, participants differ in.
- `estimated`: by the study's causal model, from scans of different participants. The rest is its error.

Writes benchmarks/results/split_error.json (elsewhere with --output).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_truth import ROOT
from known_answers import MEASURES, NO_CHANGE, Run, fit_scm, summarize
from record import RESULTS, circumstances, write

from brainscm.counterfactuals.decoding import residual
from brainscm.counterfactuals.prediction import predict
from brainscm.counterfactuals.queries import plan_query
from brainscm.encoding.encoder import Encoder, Factual
from brainscm.encoding.model import load_encoder
from brainscm.evaluation.agreement import change_agreement
from brainscm.evaluation.cases import Case, simulated_cases
from brainscm.evaluation.truth import read_raw, true_volume
from brainscm.images import Mask, Volume
from brainscm.latents.store import LatentStore
from brainscm.parallel import side_by_side
from brainscm.preprocess.itk import read_matrix
from brainscm.questions import read_queries
from brainscm.tables import evenly_spaced

OWN, OTHERS, ESTIMATED = "own change, encoded", "mean of the others' changes", "estimated"


@dataclass(frozen=True)
class Known:
    """A scan (x, y, z), its true answer to a case, and by how much the two latents differ, (1, c, x', y', z')."""

    case: Case
    mask: Mask
    factual: Factual
    true: Volume
    change: Tensor

    @cached_property
    def scan(self) -> Volume:
        return self.factual.volumes[0, 0].numpy()

    def agreement(self, made: Volume) -> dict[str, float]:
        before = self.scan * self.mask
        found = change_agreement(made * self.mask, made * self.mask - before, self.true, self.true - before, self.mask)
        return {measure: found[measure] for measure in MEASURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "work" / "truth", help="folder of a bench-truth run")
    parser.add_argument("--participants", type=int, default=12)
    parser.add_argument("--queries", nargs="+", default=["older20", "younger20", "ill", "older20Direct"])
    parser.add_argument("--output", type=Path, default=RESULTS / "split_error.json")
    arguments = parser.parse_args()

    run = Run.load(arguments.run)
    results = run.folder / "results"
    encoder = load_encoder(results / "autoencoder" / "model.pt")
    store = LatentStore.open(results / "latents" / "latents.zarr")
    scm = fit_scm(run, store)
    cases = simulated_cases(run.bids_dir, run.scans.usable, read_queries(run.study.counterfactuals))
    cases = [case for case in cases if case.query.name in arguments.queries]
    asked = evenly_spaced(pd.Series([case.scan for case in cases]).drop_duplicates(), arguments.participants).tolist()
    known = [
        each
        for found in side_by_side(
            lambda scan: answers(run, encoder, store, [case for case in cases if case.scan == scan]), asked
        )
        for each in found
    ]

    def scores(of: Known) -> list[dict[str, Any]]:
        others = [each.change for each in known if each.case.query == of.case.query and each.case.scan != of.case.scan]
        step = plan_query(scm, run.scans.rows.loc[[of.case.scan]], of.case.query).step
        with torch.inference_mode():
            made = {
                NO_CHANGE: of.scan,
                OWN: residual(of.factual, of.change)[0][0, 0].numpy(),
                OTHERS: residual(of.factual, torch.stack(others).mean(dim=0))[0][0, 0].numpy(),
                ESTIMATED: predict(of.factual, scm.image, step, "residual").volume[0, 0].numpy(),
            }
        about = {"query": of.case.query.name, "scan": of.case.scan}
        return [{"variant": name, **about, **of.agreement(volume)} for name, volume in made.items()]

    table = pd.DataFrame([row for rows in side_by_side(scores, known) for row in rows])
    figures = {
        "run": run.folder.name,
        "trained_participants": int(run.scans.of_split("train")["participant"].nunique()),
        **summarize(table),
        **circumstances(platform.system(), f"{os.cpu_count()} cores"),
    }
    write(figures, arguments.output)
    for effects in ("total_effects", "all_questions"):
        print(effects, pd.DataFrame(figures[effects]).T.round(3).to_string(), sep="\n")


def answers(run: Run, encoder: Encoder, store: LatentStore, cases: list[Case]) -> list[Known]:
    """Of one scan, the cases in which something truly changes."""
    scans, scan = run.scans, cases[0].scan
    volume, mask, levels = scans.volume(scan), scans.mask(scan), [scans.levels(scan)]
    raw, to_scan = read_raw(str(scans.require(scan)["path"])), read_matrix(scans.path(scan, "to_template"))
    latent = torch.from_numpy(store.of(scan))[None]
    factual = Factual(encoder, torch.from_numpy(volume)[None, None], latent, levels)
    found = []
    for case in cases:
        true = true_volume(volume, mask, raw, read_raw(case.answer), to_scan, scans.grid)
        if np.array_equal(true, volume * mask):
            continue  # a participant who is already ill, made ill
        with torch.inference_mode():
            change = encoder.encode(torch.from_numpy(true)[None, None], levels=levels) - latent
        found.append(Known(case, mask, factual, true, change))
    print(f"{scan}: {len(found)} answers", file=sys.stderr)
    return found


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
