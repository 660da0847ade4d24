"""Judge any encoding and any image node by true counterfactuals: some test people of a `make bench-truth` run.

What `ablate_scm.py` and `ablate_autoencoder.py` share. Scans, questions, and truth are the same for all candidates, so
that a difference between two of them is their own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from bench_truth import ROOT, STUDY, finite

from brainscm.config import Config
from brainscm.config_loading import load_config
from brainscm.counterfactuals.queries import plan_query
from brainscm.encoding.encoder import Encoder
from brainscm.encoding.layout import Layout
from brainscm.evaluation.agreement import change_agreement
from brainscm.evaluation.cases import simulated_cases
from brainscm.evaluation.methods import Method
from brainscm.evaluation.truth import read_raw, true_volume
from brainscm.images import Grid, read_mask, read_volume
from brainscm.latents.store import LatentStore
from brainscm.parallel import side_by_side
from brainscm.preprocess.itk import read_matrix
from brainscm.scm.covariates import covariate_table
from brainscm.scm.model import Scm
from brainscm.tables import evenly_spaced

MEASURES = ("change_correlation", "change_slope", "psnr_brain_db")
NO_CHANGE = "none"


@dataclass(frozen=True)
class Run:
    """The cohort of a bench-truth run that has come as far as preprocessing; `table` is indexed by scan."""

    folder: Path
    study: Config
    table: pd.DataFrame
    grid: Grid

    @classmethod
    def load(cls, folder: Path) -> Run:
        preproc = folder / "results" / "preproc"
        table = covariate_table(folder / "results" / "cohort" / "scans.tsv", preproc / "qc.tsv")
        table = table[table["preproc_status"].isin(["pass", "warn"])].set_index("scan", drop=False).rename_axis(None)
        study = load_config(ROOT, yaml.safe_load(STUDY.read_text()))
        return cls(folder, study, table, Grid.of(preproc / table["preproc_t1w"].iloc[0]))

    def small(self, people: int) -> Run:
        """The same run with so many people to train on, and the graph of the demo, which is meant for a few."""
        scm = load_config(ROOT, {}).scm
        trained = self.table[self.table["split"] == "train"].sort_values(["diagnosis", "age"])
        trained = trained["participant"].drop_duplicates()  # in this order, a few of them hold all diagnoses and ages
        dropped = set(trained) - set(evenly_spaced(trained, people))
        split = self.table["split"].mask(self.table["participant"].isin(dropped), "dropped")
        return replace(self, study=self.study.model_copy(update={"scm": scm}), table=self.table.assign(split=split))

    def file(self, scan: str, kind: str) -> Path:
        """A file that preprocessing made of a scan; kind: its column in qc.tsv."""
        return self.folder / "results" / "preproc" / str(self.table.at[scan, kind])


@dataclass(frozen=True)
class Candidate:
    """An encoding, the latents it gives (a zarr group of `encode_scans`), and an image node fitted on them."""

    autoencoder: Encoder
    store: LatentStore
    scm: Scm
    decode: str = "residual"

    def latent(self, scan: str) -> np.ndarray:
        return np.asarray(self.latents["latents"][self.latents.attrs["scans"].index(scan)])


def fit_scm(run: Run, store: LatentStore, mirrored: bool = True, **image: Any) -> Scm:
    """The study's SCM on the run's training scans, with other options of the image node, or without the mirror."""
    options = run.study.scm.model_copy(update={"image": run.study.scm.image.model_copy(update=image)})
    table = run.table.loc[list(store.scans)].reset_index(drop=True)
    layout = store.layout if mirrored else Layout(store.layout.parts)
    return Scm.fit(table, store.latents, options, run.study.seed, layout)


def judge(run: Run, people: int, candidates: Mapping[str, Candidate]) -> pd.DataFrame:
    """One row a candidate, scan and question: how its change agrees with the true one; `none` changes nothing."""
    answers = run.folder / "work" / "simulation" / "bids" / "derivatives" / "truth" / "counterfactuals.tsv"
    if not answers.exists():
        sys.exit(f"{answers} is missing: this run of bench-truth was stopped before its true answers; go on with it.")
    cases = simulated_cases(run.folder / "work" / "simulation" / "bids", run.table, run.study.counterfactuals)
    asked = evenly_spaced(pd.Series([case.scan for case in cases]).drop_duplicates(), people).tolist()
    one_of_all = next(iter(candidates.values())).scm  # the design, and with it a question's step, is that of all

    def answer(scan: str) -> list[dict[str, Any]]:
        volume, mask = read_volume(run.file(scan, "preproc_t1w"), run.grid), read_mask(run.file(scan, "template_mask"))
        raw, to_scan = read_raw(run.table.at[scan, "path"]), read_matrix(run.file(scan, "to_template"))
        methods = {name: Method(name, each.autoencoder, each.scm.image) for name, each in candidates.items()}
        # What an autoencoder makes of the scan itself is decoded once for all its candidates.
        factual = {
            each.autoencoder: methods[name].factual(volume, each.latent(scan)) for name, each in candidates.items()
        }
        rows = []
        for case in (case for case in cases if case.scan == scan):
            true = true_volume(volume, mask, raw, read_raw(case.answer), to_scan, run.grid)
            if np.array_equal(true, volume * mask):
                continue  # a person who is already healthy, made healthy
            step = plan_query(one_of_all, run.table.loc[[scan]], case.query).step[0]
            predicted = {NO_CHANGE: (volume * mask, np.zeros_like(volume))}
            for name, each in candidates.items():
                picture, change = methods[name].predict(factual[each.autoencoder], step, each.decode)
                predicted[name] = picture * mask, change * mask
            for name, (picture, change) in predicted.items():
                agreement = change_agreement(picture, change, true, true - volume * mask, mask)
                rows.append({"variant": name, "query": case.query.name, "scan": scan})
                rows[-1] |= {measure: agreement[measure] for measure in MEASURES}
        print(f"{scan}: {len(rows)} answers", file=sys.stderr)
        return rows

    return pd.DataFrame([row for rows in side_by_side(answer, asked) for row in rows])


def summarize(found: pd.DataFrame) -> dict[str, Any]:
    """Means over people and questions of `judge`'s table: of all, of total effects alone, and of each question."""
    total = found[~found["query"].str.endswith("Direct")]
    return {
        "people": found["scan"].nunique(),
        "all_questions": _means(found),
        "total_effects": _means(total),
        "by_question": {str(query): _means(part) for query, part in found.groupby("query", sort=False)},
    }


def _means(found: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Variant -> measure -> value; null where there is none."""
    table = found.groupby("variant", sort=False)[list(MEASURES)].mean()
    return {str(name): {measure: finite(row[measure]) for measure in MEASURES} for name, row in table.iterrows()}
