"""What each way to estimate the image node is worth, judged by the true counterfactuals of the same people.

python benchmarks/ablate_scm.py [--run work/truth] [--people 8] [--only spectral ridge …]

Takes the latents of a finished `make bench-truth` run, fits the image node in each variant on the same training scans,
puts every question to some of the test people and decodes the answers as the study does. Differences between variants
are the estimator's: scans, latents, questions and decoding are the same. Writes benchmarks/results/ablation_scm.json
(elsewhere with --output).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
import zarr

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_truth import ROOT, STUDY, finite
from record import RESULTS, circumstances, write

from brainscm.autoencoder.model import load_autoencoder
from brainscm.autoencoder.volumes import Grid, read_mask, read_volume
from brainscm.config import Config
from brainscm.counterfactuals.queries import plan_query
from brainscm.evaluation.agreement import change_agreement
from brainscm.evaluation.methods import Method
from brainscm.evaluation.truth import read_raw, simulated_cases, true_volume
from brainscm.parallel import side_by_side
from brainscm.preprocess.register import read_matrix
from brainscm.scm.covariates import covariate_table
from brainscm.scm.model import Scm
from brainscm.study import load_study

VARIANTS: dict[str, dict[str, Any]] = {
    "spectral": {},
    "least squares": {"shrinkage": "none"},
    "ridge": {"shrinkage": "ridge"},
    "rank 2": {"shrinkage": "none", "rank": 2},
    "rank 4": {"shrinkage": "none", "rank": 4},
    "smoothed": {"shrinkage": "none", "smoothing_voxels": 1.0},
    "spectral, smoothed": {"smoothing_voxels": 1.0},
    "spectral, variance by site": {"variance_by": "site"},
}
MEASURES = ("change_correlation", "change_slope", "psnr_brain_db")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "work" / "truth", help="folder of a bench-truth run")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "ablation_scm.json")
    arguments = parser.parse_args()

    found = judge(arguments.run, arguments.people, arguments.only)
    means = found.drop(columns="scan").groupby(["query", "variant"], sort=False).mean()
    total = found[~found["query"].str.endswith("Direct")]
    overall = {
        name: part.groupby("variant", sort=False)[list(MEASURES)].mean()
        for name, part in (("all_questions", found), ("total_effects", total))
    }
    figures = {
        "run": arguments.run.name,
        "people": found["scan"].nunique(),
        "variants": {name: VARIANTS[name] for name in arguments.only},
        **{name: plain(table) for name, table in overall.items()},
        "by_question": {str(query): plain(part.droplevel(0)) for query, part in means.groupby(level=0)},
        **circumstances(platform.system(), f"{os.cpu_count()} cores"),
    }
    write(figures, arguments.output)
    print(means.round(3).to_string())
    print(overall["all_questions"].round(3).to_string())


def plain(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Variant -> measure -> value; null where there is none."""
    return {str(name): {measure: finite(row[measure]) for measure in MEASURES} for name, row in table.iterrows()}


def judge(run: Path, people: int, variants: list[str]) -> pd.DataFrame:
    """One row a variant, scan and question: how its change agrees with the true one; `none` changes nothing."""
    results = run / "results"
    study = load_study(ROOT / "config.yaml", yaml.safe_load(STUDY.read_text()))
    store = zarr.open_group(results / "latents" / "latents.zarr", mode="r")
    names = list(store.attrs["scans"])
    table = covariate_table(results / "cohort" / "scans.tsv", results / "preproc" / "qc.tsv")
    table = table.set_index("scan", drop=False).rename_axis(None).loc[names]
    models = {name: fitted(study, table.reset_index(drop=True), store, VARIANTS[name]) for name in variants}
    autoencoder = load_autoencoder(results / "autoencoder" / "model.pt")
    preproc = results / "preproc"
    grid = Grid.of(preproc / table["preproc_t1w"].iloc[0])
    cases = simulated_cases(run / "work" / "simulation" / "bids", table, study.counterfactuals)
    asked = list(dict.fromkeys(case.scan for case in cases))
    asked = [asked[place] for place in np.linspace(0, len(asked) - 1, people).astype(int)]

    def answer(scan: str) -> list[dict[str, Any]]:
        row = table.loc[scan]
        volume, mask = read_volume(preproc / row["preproc_t1w"], grid), read_mask(preproc / row["template_mask"])
        method = {name: Method(name, autoencoder, scm.image) for name, scm in models.items()}
        factual = method[variants[0]].factual(volume, np.asarray(store["latents"][names.index(scan)]))
        raw, to_scan = read_raw(row["path"]), read_matrix(preproc / row["to_template"])
        rows = []
        for case in (case for case in cases if case.scan == scan):
            true = true_volume(volume, mask, raw, read_raw(case.answer), to_scan, grid)
            if np.array_equal(true, volume * mask):
                continue  # a person who is already healthy, made healthy
            predicted = {"none": (volume * mask, np.zeros_like(volume))}
            step = plan_query(models[variants[0]], table.loc[[scan]], case.query).step[
                0
            ]  # one design serves all variants
            for name in models:
                predicted[name] = tuple(each * mask for each in method[name].predict(factual, step))
            for name, (picture, change) in predicted.items():
                agreement = change_agreement(picture, change, true, true - volume * mask, mask)
                rows.append({"variant": name, "query": case.query.name, "scan": scan})
                rows[-1] |= {measure: agreement[measure] for measure in MEASURES}
        print(f"{scan}: {len(rows)} answers", file=sys.stderr)
        return rows

    return pd.DataFrame([row for rows in side_by_side(answer, asked) for row in rows])


def fitted(study: Config, table: pd.DataFrame, store: zarr.Group, image: dict[str, Any]) -> Scm:
    options = study.scm.model_copy(update={"image": study.scm.image.model_copy(update=image)})
    return Scm.fit(table, store["latents"], options, study.seed, store.attrs["parts"])


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
