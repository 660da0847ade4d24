"""Evaluate any encoding and any image node by the true counterfactuals of a `make bench-truth` run.

What `ablate_scm.py` and `ablate_autoencoder.py` share. Scans (of some test participants), questions, and truth are the
same for all candidates, so that a difference between two of them is their own.
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
from brainscm.counterfactuals.queries import plan_query
from brainscm.encoding.encoder import Encoder
from brainscm.encoding.layout import Layout
from brainscm.evaluation.agreement import change_agreement
from brainscm.evaluation.cases import simulated_cases
from brainscm.evaluation.methods import Method
from brainscm.evaluation.scan import Counterfactual
from brainscm.evaluation.truth import read_raw, true_volume
from brainscm.latents.store import LatentStore
from brainscm.parallel import side_by_side
from brainscm.preprocess.itk import read_matrix
from brainscm.questions import read_queries
from brainscm.scans import ScanTable
from brainscm.scm.model import Scm
from brainscm.tables import evenly_spaced
from brainscm.workflow.config_loading import load_config

MEASURES = ("change_correlation", "change_slope", "psnr_brain_db")
NO_CHANGE = "none"


@dataclass(frozen=True)
class Run:
    """The cohort of a bench-truth run that has come as far as preprocessing."""

    folder: Path
    study: Config
    scans: ScanTable

    @classmethod
    def load(cls, folder: Path) -> Run:
        results = folder / "results"
        scans = ScanTable.read(results / "cohort" / "scans.tsv", results / "preproc" / "qc.tsv")
        return cls(folder, load_config(ROOT, yaml.safe_load(STUDY.read_text())), scans)

    @property
    def bids_dir(self) -> Path:
        return self.folder / "work" / "simulation" / "bids"

    def small(self, participants: int) -> Run:
        """The same run with so many participants to train on, and the graph of the demo, which is meant for a few."""
        scm = load_config(ROOT, {}).scm
        trained = self.scans.of_split("train").sort_values(["diagnosis", "age"])
        trained = trained.drop_duplicates("participant")  # in this order, a few of them hold all diagnoses and ages
        dropped = set(trained["participant"]) - set(evenly_spaced(trained, participants)["participant"])
        rows = self.scans.rows
        split = rows["split"].mask(rows["participant"].isin(dropped), "dropped")
        scans = replace(self.scans, rows=rows.assign(split=split))
        return replace(self, study=self.study.model_copy(update={"scm": scm}), scans=scans)


@dataclass(frozen=True)
class Candidate:
    """An encoder, the latents of the run's scans, and an image node fitted on them."""

    encoder: Encoder
    store: LatentStore
    scm: Scm
    decode: str = "residual"


def fit_scm(run: Run, store: LatentStore, mirrored: bool = True, **image: Any) -> Scm:
    """The study's SCM on the run's training scans, with other options of the image node, or without the mirror."""
    options = run.study.scm.model_copy(update={"image": run.study.scm.image.model_copy(update=image)})
    layout = store.layout if mirrored else Layout(store.layout.parts)
    return Scm.fit(run.scans.rows.loc[list(store.scans)], store.latents, options, run.study.seed, layout)


def evaluate(run: Run, participants: int, candidates: Mapping[str, Candidate]) -> pd.DataFrame:
    """One row a candidate, scan and question: how its change agrees with the true one; `none` changes nothing."""
    answers = run.bids_dir / "derivatives" / "truth" / "counterfactuals.tsv"
    if not answers.exists():
        sys.exit(f"{answers} is missing: this run of bench-truth was stopped before its true answers; go on with it.")
    scans = run.scans
    cases = simulated_cases(run.bids_dir, scans.usable, read_queries(run.study.counterfactuals))
    asked = evenly_spaced(pd.Series([case.scan for case in cases]).drop_duplicates(), participants).tolist()
    one_of_all = next(iter(candidates.values())).scm  # the design, and with it a question's step, is that of all
    methods = {name: Method(name, each.encoder, each.scm.image) for name, each in candidates.items()}

    def answer(scan: str) -> list[dict[str, Any]]:
        volume, mask = scans.volume(scan), scans.mask(scan)
        raw, to_scan = read_raw(str(scans.require(scan)["path"])), read_matrix(scans.path(scan, "to_template"))
        # What an encoder makes of the scan itself is decoded once for all its candidates.
        factual = {
            each.encoder: methods[name].factual(
                volume, each.store.of(scan), [scans.levels(scan)] if each.encoder.is_aligned else []
            )
            for name, each in candidates.items()
        }
        rows: list[dict[str, Any]] = []
        for case in (case for case in cases if case.scan == scan):
            true = true_volume(volume, mask, raw, read_raw(case.answer), to_scan, scans.grid)
            if np.array_equal(true, volume * mask):
                continue  # a participant who is already healthy, made healthy
            step = plan_query(one_of_all, scans.rows.loc[[scan]], case.query).step[0]
            made = {NO_CHANGE: Counterfactual(volume, np.zeros_like(volume))}
            for name, each in candidates.items():
                made[name] = methods[name].predict(factual[each.encoder], step, each.decode)
            for name, found in made.items():
                found = found.masked(mask)
                agreement = change_agreement(found.volume, found.difference, true, true - volume * mask, mask)
                about = {"variant": name, "query": case.query.name, "scan": scan}
                rows.append({**about, **{measure: agreement[measure] for measure in MEASURES}})
        print(f"{scan}: {len(rows)} answers", file=sys.stderr)
        return rows

    return pd.DataFrame([row for rows in side_by_side(answer, asked) for row in rows])


def summarize(found: pd.DataFrame) -> dict[str, Any]:
    """Means over participants and questions of `evaluate`'s table: of all, of total effects, and of each question."""
    total = found[~found["query"].str.endswith("Direct")]
    return {
        "participants": found["scan"].nunique(),
        "all_questions": _means(found),
        "total_effects": _means(total),
        "by_question": {str(query): _means(part) for query, part in found.groupby("query", sort=False)},
    }


def _means(found: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Variant -> measure -> value; null where there is none."""
    table = found.groupby("variant", sort=False)[list(MEASURES)].mean()
    return {str(name): {measure: finite(row[measure]) for measure in MEASURES} for name, row in table.iterrows()}
