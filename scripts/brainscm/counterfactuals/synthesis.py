"""Make counterfactual volumes, a scan a thread in memory, with differences, uncertainty and a manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainscm.config import QueryOptions
from brainscm.counterfactuals.decoding import STRATEGIES, pass_through
from brainscm.counterfactuals.manifest import manifest_row, manifest_table
from brainscm.counterfactuals.prediction import Factual, predict
from brainscm.counterfactuals.queries import Plan, plan_for
from brainscm.encoding.encoder import Encoder
from brainscm.errors import ScanError
from brainscm.files import bids_uri, sidecar, write_dataset_description, write_json
from brainscm.identity import Identity
from brainscm.images import Mask, Volume, write_volume
from brainscm.latents.store import LatentStore
from brainscm.parallel import device_of, side_by_side
from brainscm.scans import ScanTable
from brainscm.scm.graph import query_label
from brainscm.scm.model import Scm

logger = logging.getLogger("brainscm")

LOG_SECONDS = 30
README = """Counterfactual T1w scans made by BrainSCM: what each scan would look like under an intervention.

manifest.tsv has a row a scan and query: whether it was made, the values of all nodes before and after, and the files.
Of each query there are three images in template space, desc-<query> (the counterfactual), desc-<query>Difference (it
minus the preprocessed scan) and desc-<query>Uncertainty (standard deviation over draws of the fitted parameters).
"""

ManifestRows = dict[tuple[str, str], dict[str, Any]]  # by query and scan


@dataclass(frozen=True)
class Counterfactual:
    """The counterfactual of a scan, not masked; each volume (x, y, z).

    Attributes:
        volume, difference: see `Prediction`.
        uncertainty: the root mean square distance of draws of all parameters of the SCM from `volume`: how well the
            cohort fixes the model, with what shrinkage took away, and not how much participants differ.
        pass_through: the share of the latent's shift that quantisation would let through.
    """

    volume: Volume
    difference: Volume
    uncertainty: Volume
    pass_through: float


def synthesize(
    scm: Scm,
    encoder: Encoder,
    encoder_identity: Identity,
    scans: ScanTable,
    store: LatentStore,
    queries: Sequence[QueryOptions],
    out_dir: Path,
) -> pd.DataFrame:
    """Answer every query for every scan that it selects, and write volumes and side-cars as BIDS derivatives.

    Args:
        scm: fitted on latents of `encoder`; encoder_identity: what scans that is for.
        scans: of the cohort; `store`: their latents.
        queries: from the config.
        out_dir: receives the derivatives.

    Returns:
        The manifest. A scan that cannot be done has a row with status `fail` and the reason; the others go on.

    Raises:
        BrainSCMError: the model, the latents and the encoder are not of one and the same encoder.
        ConfigError: a query that no scan could answer (unknown node, level or scan).
    """
    store.identity.check(encoder_identity, "the latents", "the encoder", "run encode_scans again")
    scm.check_latents(store.identity)
    scans = scans.leave_out(store.lacking(scans.rows["scan"])).leave_out(scm.problems(scans.rows))
    # Everything that can fail for a reason of the config fails here, before the first volume.
    plans = [plan_for(scm, scans, query) for query in queries]
    write_dataset_description(
        out_dir,
        "BrainSCM counterfactuals",
        sources={"preproc": Path("../preproc")},
        further={"Identity": store.identity.as_json()},
        readme=README,
        ignored=["manifest.tsv"],
    )
    made = _answer_all(_Synthesis(scm, encoder, scans, store, plans, out_dir))
    rows = [made[plan.query.name, scan] for plan in plans for scan in plan.asked]
    manifest = manifest_table(rows, list(scm.covariates.columns))
    failed = int((manifest["status"] == "fail").sum())
    logger.info("%d counterfactuals asked for, %d made, %d failed", len(rows), len(rows) - failed, failed)
    return manifest


def _answer_all(synthesis: _Synthesis) -> ManifestRows:
    """Scans side by side; the log tells how long it will take."""
    asked = sum(len(plan.asked) for plan in synthesis.plans)
    rows: ManifestRows = {}
    start = last_log = time.monotonic()
    for rows_of_scan in side_by_side(synthesis.answer, synthesis.asked_scans, device_of(synthesis.encoder)):
        rows |= rows_of_scan
        if time.monotonic() - last_log > LOG_SECONDS:
            last_log = time.monotonic()
            left = (last_log - start) / len(rows) * (asked - len(rows))
            logger.info("%d of %d counterfactuals made, about %.0f min left", len(rows), asked, left / 60)
    return rows


@dataclass(frozen=True)
class _Synthesis:
    """What it takes to answer all queries to one scan."""

    scm: Scm
    encoder: Encoder
    scans: ScanTable
    store: LatentStore
    plans: Sequence[Plan]
    out_dir: Path

    @cached_property
    def asked_scans(self) -> list[str]:
        """The scans of which something is asked, in the cohort's order."""
        asked = {scan for plan in self.plans for scan in plan.asked}
        return [scan for scan in self.scans.rows["scan"] if scan in asked]

    def answer(self, scan: str) -> ManifestRows:
        """Make and write the counterfactuals of one scan, which is read once for all queries."""
        plans = [plan for plan in self.plans if scan in plan.asked]
        row = self.scans.rows.loc[[scan]].iloc[0]
        try:
            self.scans.require(scan)
            volume, mask, latent = self.scans.volume(scan), self.scans.mask(scan), self.store.of(scan)
        except ScanError as error:
            logger.warning("%s: no counterfactual: %s", scan, error)
            failed = {"status": "fail", "reason": str(error)}
            return {(plan.query.name, scan): manifest_row(row, plan.query, **failed) for plan in plans}
        device = device_of(self.encoder)
        volumes, latents = (torch.from_numpy(each).to(device) for each in (volume[None, None], latent[None]))
        factual = Factual(self.encoder, volumes, latents)
        return {(plan.query.name, scan): self._answer_query(row, plan, factual, mask) for plan in plans}

    def _answer_query(self, row: pd.Series, plan: Plan, factual: Factual, mask: Mask) -> dict[str, Any]:
        position = plan.position(row["scan"])
        made = make_counterfactual(self.scm, plan, position, factual)
        values = _node_values(self.scm, plan, position)
        support = _record(plan.support, position)
        paths = self._write(made, plan.query, values, support, mask, Path(row["preproc_t1w"]))
        told = {**values, **support, "pass_through": made.pass_through, **paths}
        return manifest_row(row, plan.query, status="pass", **told)

    def _write(
        self,
        made: Counterfactual,
        query: QueryOptions,
        values: dict[str, Any],
        support: dict[str, Any],
        mask: Mask,
        source: Path,
    ) -> dict[str, str]:
        """Write the three volumes, each with its side-car, and return their paths relative to `out_dir`."""
        told = {
            "Sources": [bids_uri(source, "preproc")],
            **self.store.identity.space,
            "SkullStripped": True,
            "Query": query.name,
            "Do": query.do,
            "Effect": query.effect,
            "Decode": query.decode,
            "NodeValues": {key: _plain(value) for key, value in values.items()},
            "Extrapolation": bool(support["extrapolation"]),
            "Warning": support["warning"],
        }
        strategy = (STRATEGIES[query.decode].__doc__ or "").partition("\n")[0]
        kinds = {
            "path": ("", made.volume, f"Counterfactual T1w. {strategy}"),
            "difference_path": ("Difference", made.difference, "Signed difference: counterfactual minus factual."),
            "uncertainty_path": (
                "Uncertainty",
                made.uncertainty,
                f"Root mean square distance of {self.scm.draws} draws of the SCM's parameters, without shrinkage.",
            ),
        }
        paths = {}
        for column, (suffix, volume, description) in kinds.items():
            name = source.name.replace("_desc-preproc_", f"_desc-{query_label(query.name)}{suffix}_")
            relative = source.parent / name
            write_volume(self.out_dir / relative, np.where(mask, volume, np.float32(0)), self.scans.grid)
            write_json(sidecar(self.out_dir / relative), {"Description": description, **told})
            paths[column] = relative.as_posix()
        return paths


def make_counterfactual(scm: Scm, plan: Plan, position: int, factual: Factual) -> Counterfactual:
    """The counterfactual of one scan, row `position` of the plan, and how far the draws of the SCM lie apart."""
    at, decode = slice(position, position + 1), plan.query.decode
    made = predict(factual, scm.image, plan.step[at], decode)
    squares = torch.zeros_like(made.volume)
    for k in range(scm.draws):
        drawn = predict(factual, scm.image, plan.drawn_steps[k, at], decode, draw=k)
        squares += (drawn.volume - made.volume).square()
    uncertainty = (squares / scm.draws).sqrt()
    with torch.inference_mode():
        share = float(pass_through(factual, made.shift)[0])
    return Counterfactual(_volume(made.volume), _volume(made.difference), _volume(uncertainty), share)


def _volume(tensor: torch.Tensor) -> Volume:
    return tensor[0, 0].cpu().numpy()


def _record(table: pd.DataFrame, position: int) -> dict[str, Any]:
    return {str(column): table[column].iloc[position] for column in table}


def _node_values(scm: Scm, plan: Plan, position: int) -> dict[str, Any]:
    factual = _record(scm.values(plan.rows.iloc[[position]]), 0)
    changed = _record(scm.values(plan.changed.iloc[[position]]), 0)
    return {f"factual_{node}": value for node, value in factual.items()} | {
        f"counterfactual_{node}": value for node, value in changed.items()
    }


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int | float | np.number) else str(value)
