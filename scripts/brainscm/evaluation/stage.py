"""The evaluation stage: from the study's files to the summary, the metrics and the regional slopes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainscm.config import QueryOptions
from brainscm.encoding.encoder import Encoder
from brainscm.errors import BrainSCMError, ScanError
from brainscm.evaluation.axioms import check_axioms
from brainscm.evaluation.intervals import PEOPLE_NEEDED
from brainscm.evaluation.judge import Judge, Verdict
from brainscm.evaluation.methods import Method, pca_glm, voxel_glm, voxel_shrunken
from brainscm.evaluation.minimality import minimality_table
from brainscm.evaluation.realism import image_features, realism_table
from brainscm.evaluation.regions import RegionalModel
from brainscm.evaluation.repeats import Repeats, measure_repeats
from brainscm.evaluation.slopes import regional_slopes
from brainscm.evaluation.summary import metrics_table, summarise
from brainscm.evaluation.truth import (
    Brain,
    Case,
    Matrix,
    Truth,
    follow_up_cases,
    read_raw,
    simulated_cases,
    true_volume,
    unanswered_cases,
)
from brainscm.images import Grid, Mask, Volume, read_mask, read_volume
from brainscm.scans import ScanTable
from brainscm.scm.design import Array
from brainscm.scm.image import Rows
from brainscm.scm.model import Scm
from brainscm.tables import evenly_spaced
from brainscm.training.volume_store import VolumeStore

logger = logging.getLogger("brainscm")

NO_TRUTH = "no true counterfactual and no follow-up scan of a usable test participant"
SLOPE_SCANS = 100
ASKED = ("scan", "participant", "query", "effect")

Segment = Callable[[Volume, Mask, float], Mapping[str, float]]


@dataclass(frozen=True)
class Study:
    """What the evaluation reads.

    Attributes:
        scm, autoencoder: fitted.
        table: every scan of the cohort, as `covariate_table` gives it.
        latents: the store, one row a scan; `latent_scans`: which scan each row is.
        manifest: of the counterfactuals that were made; `reconstruction`: the autoencoder's fidelity by scan.
        queries: of the config.
        bids_dir, preproc_dir, counterfactuals_dir: what the paths in the tables are relative to.
        components: of the PCA baseline.
        segment: regional volumes in ml of a volume in template space, given its mask and its `head_size`; what gave the
            `<region>_ml` columns of the table.
        regions: the names of those regions that are compared.
        to_scan: for a row of the table, the (4, 4) map from template to scan world coordinates.
    """

    scm: Scm
    autoencoder: Encoder
    table: pd.DataFrame
    latents: Rows
    latent_scans: Sequence[str]
    manifest: pd.DataFrame
    reconstruction: pd.DataFrame
    queries: list[QueryOptions]
    bids_dir: Path
    preproc_dir: Path
    counterfactuals_dir: Path
    components: int
    segment: Segment
    regions: Sequence[str]
    to_scan: Callable[[Mapping[str, Any]], Matrix]


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation writes: the contract's summary and the tables (see docs/reference/outputs.md)."""

    summary: dict[str, Any]
    metrics: pd.DataFrame
    regional_slopes: pd.DataFrame
    minimality: pd.DataFrame
    realism: pd.DataFrame


def evaluate(study: Study, seed: int, threads: int) -> Evaluation:
    """Evaluate a study. What needs a truth is null, with the reason, where there is none; the rest is computed.

    Raises:
        BrainSCMError: a participant of the test split is among those that the causal model was fitted on.
    """
    torch.set_num_threads(1)  # whole scans go side by side instead
    usable = _usable(study)
    _refuse_leak(study)
    grid = Grid.of(study.preproc_dir / usable["preproc_t1w"].iloc[0])
    about = {row["scan"]: row for row in _records(usable)}
    latent_glm = Method("latent_glm", study.autoencoder, study.scm.image)

    def read_brain(scan: str) -> Brain:
        return _read_brain(study, about[scan], grid)

    cases = simulated_cases(study.bids_dir, usable, study.queries)
    cases += unanswered_cases(usable, study.queries, cases)
    if "age" in study.scm.covariates.ranges:
        cases += follow_up_cases(usable, study.scm.covariates.columns["age"])
    answered = sum(case.source != "unanswered" for case in cases)
    logger.info("%d questions, %d of which have a known answer", len(cases), answered)
    repeats = measure_repeats(usable, study.scm, study.regions)
    logger.info("noise floor of the regions: %s", repeats.source)
    verdict = Verdict([], [])
    if cases:
        # The baselines read every training scan several times: decoded once, to a file that is gone at the end.
        with tempfile.TemporaryDirectory() as folder:
            judge = _judge(study, usable, grid, latent_glm, read_brain, repeats, Path(folder))
            verdict = judge.hear(cases, threads)
    rows = verdict.rows
    if study.queries:
        test = usable[usable["split"] == "test"]
        rows += check_axioms(study.scm, latent_glm, test, study.queries[0], read_brain, threads)
    metrics = metrics_table(rows, study.scm, usable, seed)
    people = usable[usable["split"].isin(["train", "test"])]

    def real_features(scan: str) -> Array:
        brain = read_brain(scan)
        return image_features(brain.volume, brain.mask)

    return Evaluation(
        summary=summarise(metrics, study.reconstruction, NO_TRUTH, _why_no_interval(cases, repeats)),
        metrics=metrics,
        regional_slopes=regional_slopes(
            study.scm, people, _counterfactual_changes(study, about, grid, threads), study.regions
        ),
        minimality=minimality_table(rows, usable, study.regions, repeats, seed),
        realism=realism_table(verdict.looks, study.scm, usable, study.regions, real_features, seed),
    )


def _refuse_leak(study: Study) -> None:
    """Stop where the test split was fitted on: every figure would look better than it is."""
    tested = study.table.loc[study.table["split"] == "test", "participant"]
    leaked = sorted(set(study.scm.training["participant"]) & set(tested))
    if leaked:
        raise BrainSCMError(
            f"evaluation: {len(leaked)} participants of the test split ({leaked[0]}, …) are among those that the "
            "causal model was fitted on; run fit_scm again with the present split."
        )


def _why_no_interval(cases: Sequence[Case], repeats: Repeats) -> str:
    if all(case.source != "simulated" for case in cases) and not repeats.sd_ml:
        return f"how far two scans of a person come apart is not known: {repeats.source}"
    return f"fewer than {PEOPLE_NEEDED} people outside the test split to calibrate intervals on"


def _usable(study: Study) -> pd.DataFrame:
    """Scans that went all the way: preprocessed, encoded, and with every covariate; indexed by scan id."""
    table = study.table
    kept = table["preproc_status"].isin(["pass", "warn"]) & table["scan"].isin(study.latent_scans)
    kept &= study.scm.problems(table) == ""
    return table[kept].set_index("scan", drop=False).rename_axis(None)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _read_brain(study: Study, row: Mapping[str, Any], grid: Grid) -> Brain:
    return Brain(
        volume=read_volume(study.preproc_dir / row["preproc_t1w"], grid),
        mask=read_mask(study.preproc_dir / row["template_mask"]),
        latent=np.asarray(study.latents[study.latent_scans.index(row["scan"])], np.float32),
        head_size=float(row["head_size"]),
    )


def _judge(
    study: Study,
    usable: pd.DataFrame,
    grid: Grid,
    latent_glm: Method,
    read_brain: Callable[[str], Brain],
    repeats: Repeats,
    folder: Path,
) -> Judge:
    scans = ScanTable(usable, pd.Series("", index=usable.index), study.preproc_dir)
    volumes = VolumeStore.open_or_build(scans, study.scm.training["scan"].tolist(), folder).volumes
    about = {row["scan"]: row for row in _records(usable)}

    def segment(volume: Volume, brain: Brain) -> dict[str, float]:
        found = study.segment(volume, brain.mask, brain.head_size)
        return {region: found[region] for region in study.regions}

    def read_truth(case: Case, brain: Brain) -> Truth | None:
        if case.source == "unanswered":
            return None
        if case.source == "follow-up":
            later = about[case.answer]
            volume = read_volume(study.preproc_dir / later["preproc_t1w"], grid) * brain.mask
            return Truth(volume, {region: float(later[f"{region}_ml"]) for region in study.regions})
        row = about[case.scan]
        raw, answer = read_raw(row["path"]), read_raw(case.answer)
        volume = true_volume(brain.volume, brain.mask, raw, answer, study.to_scan(row), grid)
        return Truth(volume, segment(volume, brain))

    return Judge(
        regional=RegionalModel.fit(study.scm, usable, study.regions),
        voxel_glm=voxel_glm(study.scm, volumes, grid.shape),
        voxel_shrunken=voxel_shrunken(study.scm, volumes, grid.shape, latent_glm.autoencoder.layout.mirror is not None),
        pca_glm=pca_glm(study.scm, volumes, study.components),
        latent_glm=latent_glm,
        table=usable,
        read_brain=read_brain,
        read_truth=read_truth,
        segment=segment,
        repeat_sd=repeats.sd_ml,
    )


def _counterfactual_changes(
    study: Study, about: Mapping[str, Mapping[str, Any]], grid: Grid, threads: int
) -> pd.DataFrame:
    """What the written counterfactuals of queries on a single number change in each region (ml).

    At most `SLOPE_SCANS` scans a query, evenly spaced: a mean slope needs no more.
    """
    node_of = {query.name: next(iter(query.do)) for query in study.queries if len(query.do) == 1}
    made = study.manifest[study.manifest["path"].notna() & study.manifest["scan"].isin(list(about))]
    chosen: list[dict[str, Any]] = []
    for query, node in node_of.items():
        if node in study.scm.covariates.ranges:
            chosen += _records(evenly_spaced(made[made["query"] == query], SLOPE_SCANS))

    def change(item: dict[str, Any]) -> dict[str, Any] | None:
        node, scan = node_of[item["query"]], about[item["scan"]]
        step = float(item[f"counterfactual_{node}"]) - float(item[f"factual_{node}"])
        if step == 0:
            return None
        try:
            after = read_volume(study.counterfactuals_dir / item["path"], grid)
            # Not the scan but what the difference starts from: for direct decoding that is the reconstruction.
            before = after - read_volume(study.counterfactuals_dir / item["difference_path"], grid)
            mask = read_mask(study.preproc_dir / scan["template_mask"])
        except ScanError as error:
            logger.warning("%s: its slope is left out: %s", item["scan"], error)
            return None
        ml_before, ml_after = (study.segment(v, mask, float(scan["head_size"])) for v in (before, after))
        changes = {f"{region}_ml": ml_after[region] - ml_before[region] for region in study.regions}
        return {**{key: item[key] for key in ASKED}, "node": node, "step": step, **changes}

    with ThreadPoolExecutor(threads) as pool:
        rows = [row for row in pool.map(change, chosen) if row is not None]
    return pd.DataFrame(rows, columns=None if rows else [*ASKED, "node", "step"])
