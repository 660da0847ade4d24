"""Make counterfactual volumes, a scan a thread in memory, with differences, uncertainty and a manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brainscm.config import QueryOptions
from brainscm.counterfactuals.decoding import STRATEGIES, pass_through
from brainscm.counterfactuals.manifest import manifest_row, manifest_table
from brainscm.counterfactuals.prediction import Factual, predict
from brainscm.counterfactuals.queries import Plan, plan_query, select_scans
from brainscm.encoding.encoder import Encoder
from brainscm.errors import ScanError
from brainscm.files import bids_uri, sidecar, write_dataset_description, write_json
from brainscm.images import Grid, read_mask, read_volume, write_volume
from brainscm.parallel import device_of, side_by_side
from brainscm.scm.graph import query_label
from brainscm.scm.model import Scm
from brainscm.scm.sample import Rows

logger = logging.getLogger("brainscm")

Volumes = NDArray[np.float32]
LOG_SECONDS = 30


@dataclass(frozen=True)
class Counterfactual:
    """Counterfactuals of n scans, all (n, 1, x, y, z), not masked, and `pass_through` (n,).

    `uncertainty` is the standard deviation over draws of all parameters of the SCM: how well the cohort fixes the
    model, not how much people differ.
    """

    volume: Volumes
    difference: Volumes
    uncertainty: Volumes
    pass_through: NDArray[np.float32]


def synthesize(
    scm: Scm,
    autoencoder: Encoder,
    table: pd.DataFrame,
    latents: Rows,
    latent_scans: Sequence[str],
    queries: Sequence[QueryOptions],
    preproc_dir: Path,
    out_dir: Path,
) -> pd.DataFrame:
    """Answer every query for every scan that it selects, and write volumes and side-cars as BIDS derivatives.

    Args:
        scm, autoencoder: fitted.
        table: the whole cohort, as `covariate_table` gives it.
        latents: the store; `latent_scans`: which scan each of its rows is.
        queries: from the config.
        preproc_dir: what the paths in the table are relative to.
        out_dir: receives the derivatives.

    Returns:
        The manifest. A scan that cannot be done has a row with status `fail` and the reason; the others go on.

    Raises:
        ConfigError: a query that no scan could answer (unknown node, level or scan).
    """
    latent_row = {scan: row for row, scan in enumerate(latent_scans)}
    problems = _unusable(scm, table, latent_row)
    # Everything that can fail for a reason of the config fails here, before the first volume.
    selected = {query.name: select_scans(table, query)["scan"].tolist() for query in queries}
    usable = table[problems == ""]
    plans = {q.name: plan_query(scm, usable[usable["scan"].isin(selected[q.name])], q) for q in queries}
    positions = {name: {s: i for i, s in enumerate(plan.table["scan"])} for name, plan in plans.items()}
    write_dataset_description(out_dir, "BrainSCM counterfactuals", links={"preproc": "../preproc"})

    device = device_of(autoencoder)
    reasons = dict(zip(table["scan"], problems, strict=True))
    asked_of = {scan: [q for q in queries if scan in selected[q.name]] for scan in table["scan"]}
    scans = table[[bool(asked_of[scan]) for scan in table["scan"]]]
    common = _first_grid(preproc_dir / path for path in scans.loc[scans["scan"].map(reasons) == "", "preproc_t1w"])

    def answer(index: int) -> dict[tuple[str, str], dict[str, Any]]:
        """The manifest's rows of all queries to one scan."""
        scan = scans.iloc[index]
        name = str(scan["scan"])
        try:
            if reasons[name]:
                raise ScanError(reasons[name])
            image_path = preproc_dir / scan["preproc_t1w"]
            grid = common or Grid.of(image_path)
            volume = read_volume(image_path, grid)[None, None]
            mask = read_mask(preproc_dir / scan["template_mask"])
            latent = np.asarray(latents[latent_row[name]], dtype=np.float32)[None]
        except ScanError as error:
            logger.warning("%s: no counterfactual: %s", name, error)
            failed = {"status": "fail", "reason": str(error)}
            return {(query.name, name): manifest_row(scan, query, **failed) for query in asked_of[name]}
        factual = Factual(autoencoder, *(torch.from_numpy(each).to(device) for each in (volume, latent)))
        rows = {}
        for query in asked_of[name]:
            plan, position = plans[query.name], positions[query.name][name]
            made = _answer(scm, plan, position, factual)
            paths = _write(made, plan, position, scm, mask, grid, Path(scan["preproc_t1w"]), out_dir)
            rows[query.name, name] = manifest_row(
                scan,
                query,
                status="pass",
                **_node_values(scm, plan, position),
                **_record(plan.support, position),
                pass_through=float(made.pass_through[0]),
                **paths,
            )
        return rows

    asked = sum(len(chosen) for chosen in selected.values())
    results: dict[tuple[str, str], dict[str, Any]] = {}
    start = last_log = time.monotonic()
    for rows_of_scan in side_by_side(answer, range(len(scans)), device):
        results |= rows_of_scan
        if time.monotonic() - last_log > LOG_SECONDS:
            last_log = time.monotonic()
            left = (last_log - start) / len(results) * (asked - len(results))
            logger.info("%d of %d counterfactuals made, about %.0f min left", len(results), asked, left / 60)
    rows = [results[query.name, scan] for query in queries for scan in selected[query.name]]
    manifest = manifest_table(rows, list(scm.covariates.columns))
    failed = int((manifest["status"] == "fail").sum())
    logger.info("%d counterfactuals asked for, %d made, %d failed", asked, asked - failed, failed)
    return manifest


def _first_grid(images: Iterable[Path]) -> Grid | None:
    """The grid of the first scan that can be read."""
    for image in images:
        try:
            return Grid.of(image)
        except ScanError:
            continue  # told when it is that scan's turn
    return None


def _unusable(scm: Scm, table: pd.DataFrame, latent_row: dict[str, int]) -> pd.Series:
    """Why each scan of the cohort cannot be synthesised; "" where it can."""
    reasons = scm.problems(table)
    no_latent = ~table["scan"].isin(latent_row.keys())
    reasons = reasons.mask(no_latent, "it has no latent; run encode_scans again")
    failed = table["preproc_status"].fillna("fail") == "fail"
    why = "preprocessing failed: " + table["preproc_reasons"].astype(object).fillna("no status").astype(str)
    return reasons.mask(failed, why)


def _answer(scm: Scm, plan: Plan, position: int, factual: Factual) -> Counterfactual:
    """The counterfactual of one scan, `position` in the plan, and how far the draws of the SCM lie apart."""
    at, decode = slice(position, position + 1), plan.query.decode
    made = predict(factual, scm.image, plan.step[at], decode)
    mean = torch.zeros_like(made.volume)
    squares = torch.zeros_like(made.volume)
    for k in range(scm.draws):  # Welford's running variance: K volumes are never held
        drawn = predict(factual, scm.image, plan.drawn_steps[k, at], decode, draw=k).volume
        step = drawn - mean
        mean += step / (k + 1)
        squares += step * (drawn - mean)
    uncertainty = (squares / (scm.draws - 1)).sqrt()
    with torch.inference_mode():
        share = pass_through(factual, made.shift)
    arrays = [tensor.cpu().numpy() for tensor in (made.volume, made.difference, uncertainty, share)]
    return Counterfactual(*arrays)


def _record(table: pd.DataFrame, position: int) -> dict[str, Any]:
    return {str(column): table[column].iloc[position] for column in table}


def _node_values(scm: Scm, plan: Plan, position: int) -> dict[str, Any]:
    factual = _record(scm.values(plan.table.iloc[[position]]), 0)
    changed = _record(scm.values(plan.changed.iloc[[position]]), 0)
    return {f"factual_{node}": value for node, value in factual.items()} | {
        f"counterfactual_{node}": value for node, value in changed.items()
    }


def _write(
    made: Counterfactual,
    plan: Plan,
    position: int,
    scm: Scm,
    mask: NDArray[np.bool_],
    grid: Grid,
    source: Path,
    out_dir: Path,
) -> dict[str, str]:
    """Write the three volumes, each with its side-car, and return their paths relative to `out_dir`."""
    query = plan.query
    label = query_label(query.name)
    strategy = (STRATEGIES[query.decode].__doc__ or "").partition("\n")[0]
    kinds = {
        "path": ("", made.volume, f"Counterfactual T1w. {strategy}"),
        "difference_path": ("Difference", made.difference, "Signed difference: counterfactual minus factual."),
        "uncertainty_path": (
            "Uncertainty",
            made.uncertainty,
            f"Standard deviation over {scm.draws} draws of the SCM's parameters.",
        ),
    }
    paths = {}
    support = plan.support.iloc[position]
    for column, (suffix, volume, description) in kinds.items():
        name = source.name.replace("_desc-preproc_", f"_desc-{label}{suffix}_")
        relative = source.parent / name
        told = {
            "Description": description,
            "Sources": [bids_uri(source, "preproc")],
            "SkullStripped": True,
            "Query": query.name,
            "Do": query.do,
            "Effect": query.effect,
            "Decode": query.decode,
            "NodeValues": {key: _plain(value) for key, value in _node_values(scm, plan, position).items()},
            "Extrapolation": bool(support["extrapolation"]),
            "Warning": support["warning"],
        }
        write_volume(out_dir / relative, np.where(mask, volume[0, 0], np.float32(0)), grid)
        write_json(sidecar(out_dir / relative), told)
        paths[column] = relative.as_posix()
    return paths


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int | float | np.number) else str(value)
