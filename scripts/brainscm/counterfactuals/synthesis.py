"""Make counterfactual volumes, a scan a thread in memory, with differences, uncertainty and a manifest.

Each volume's side-car holds the `Fingerprint` of all that it was made from. Where that is there and the same, a volume
is kept: so a job that was stopped goes on, and a row that is added to a table is all that is made.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import pandas as pd
import torch

from brainscm.config import QueryOptions, VolumeOptions
from brainscm.counterfactuals.decoding import STRATEGIES, pass_through
from brainscm.counterfactuals.growth import log_growth
from brainscm.counterfactuals.intervals import IntervalFactors, regions_table
from brainscm.counterfactuals.manifest import JACOBIAN, NATIVE, manifest_row, manifest_table, volume_suffixes
from brainscm.counterfactuals.native import Motion, NativeScan, raw_path
from brainscm.counterfactuals.prediction import Draws, predict
from brainscm.counterfactuals.queries import Plan, plan_for
from brainscm.counterfactuals.regional import RegionChange, as_json, measure_change, of_json
from brainscm.encoding.encoder import Factual
from brainscm.errors import ScanError
from brainscm.files import bids_uri, derivative_name, sha256, sidecar, write_json
from brainscm.images import SCANNER, Mask, Volume, write_image, write_volume
from brainscm.latents.encoded import EncodedScans
from brainscm.parallel import device_of, side_by_side, workers_on
from brainscm.provenance import options_fingerprint
from brainscm.questions import query_label
from brainscm.regions import MeasureRegions, RegionMeasure
from brainscm.scm.model import Scm
from brainscm.shards import WHOLE, Shard

logger = logging.getLogger("brainscm")

LOG_SECONDS = 30
# The files of a scan that a counterfactual is made from and measured by; the last where it was aligned.
MADE_FROM = ("preproc_t1w", "template_mask", "deformation_inverse")

ManifestRows = dict[tuple[str, str], dict[str, Any]]  # by query and scan


@dataclass(frozen=True)
class Counterfactual:
    """The counterfactual of a scan, not masked; each volume (x, y, z).

    Attributes:
        volume, difference: see `Prediction`.
        uncertainty: the root mean square distance of draws of all parameters of the SCM from `volume`: how well the
            cohort fixes the model, with what shrinkage took away, and not how much participants differ.
        pass_through: the share of the latent's shift that quantisation would let through.
        regions: what it does to regional volumes.
        motion: where each voxel lay in the scan, minus the voxel, if the query needs that.
    """

    volume: Volume
    difference: Volume
    uncertainty: Volume
    pass_through: float
    regions: dict[str, RegionChange]
    motion: Motion | None = None


@dataclass(frozen=True)
class Answers:
    """What was made: the manifest, and a row a counterfactual and region (see `regions_table`)."""

    manifest: pd.DataFrame
    regions: pd.DataFrame


def synthesize(
    scm: Scm,
    encoded: EncodedScans,
    queries: Sequence[QueryOptions],
    measure: MeasureRegions,
    factors: IntervalFactors,
    out_dir: Path,
    origin: Mapping[str, Any] | None = None,
    derivatives: Path | None = None,
    shard: Shard = WHOLE,
    volumes: VolumeOptions | None = None,
) -> Answers:
    """Answer queries for every scan of a shard that each selects, and write volumes and side-cars as BIDS derivatives.

    Args:
        scm: fitted on latents of the encoder of `encoded`.
        encoded: the cohort.
        queries: of a study, or some of them.
        measure: regional volumes, as preprocessing measured those of the scans.
        factors: of the intervals of regional changes.
        out_dir: receives the derivatives.
        origin: what else makes the volumes what they are, for side-cars: code, model files, options, versions.
        derivatives: of another program, if the scans were preprocessed from them.
        volumes: how they are written.

    Returns:
        The manifest and the regions. A scan that cannot be done has a row of the manifest with status `fail` and the
        reason; the others go on.

    Raises:
        BrainSCMError: the model was fitted on latents of another encoder.
        ConfigError: a query that no scan could answer (unknown node, level or scan).
    """
    encoded = scm.answerable(encoded)
    # Everything that can fail for a reason of the config fails here, before the first volume. Plans are of all scans:
    # worked out for those of a shard alone they could differ in the last bit.
    plans = [plan_for(scm, encoded.scans, query) for query in queries]
    given = scm, encoded, plans, measure, out_dir, origin or {}, derivatives, shard, volumes or VolumeOptions()
    made = _answer_all(_Synthesis(*given))
    rows = [row for plan in plans for scan in plan.asked if (row := made.get((plan.query.name, scan)))]
    manifest = manifest_table(rows, list(scm.covariates.columns))
    failed = int((manifest["status"] == "fail").sum())
    logger.info("%d counterfactuals asked for: %d are there, %d failed", len(rows), len(rows) - failed, failed)
    return Answers(manifest, regions_table(rows, factors))


def _answer_all(synthesis: _Synthesis) -> ManifestRows:
    """Scans side by side; the log tells how long it will take.

    One more than compute at once, so that files are read and written meanwhile.
    """
    asked = sum(len(synthesis.plans_of[scan]) for scan in synthesis.asked_scans)
    rows: ManifestRows = {}
    start = last_log = time.monotonic()
    device = device_of(synthesis.encoded.encoder)
    answer = partial(synthesis.answer, computing=BoundedSemaphore(workers_on(device)))
    for rows_of_scan in side_by_side(answer, synthesis.asked_scans, device, more=1):
        rows |= rows_of_scan
        if time.monotonic() - last_log > LOG_SECONDS:
            last_log = time.monotonic()
            left = (last_log - start) / len(rows) * (asked - len(rows))
            logger.info("%d of %d counterfactuals made, about %.0f min left", len(rows), asked, left / 60)
    return rows


@dataclass(frozen=True)
class ReadScan:
    """A scan in memory, which is decoded once for all that is asked of it; volume and mask (x, y, z)."""

    volume: Volume
    mask: Mask
    factual: Factual
    measure: RegionMeasure


def read_factual(encoded: EncodedScans, scan: str, measure: MeasureRegions) -> ReadScan:
    """Read a scan with its latent.

    Raises:
        ScanError: one of its files cannot be read.
    """
    encoded.scans.require(scan)
    device = device_of(encoded.encoder)
    volume, geometry, latent = encoded.scans.volume(scan), encoded.scans.geometry(scan), encoded.store.of(scan)
    volumes, latents = (torch.from_numpy(each).to(device) for each in (volume[None, None], latent[None]))
    factual = Factual(encoded.encoder, volumes, latents, encoded.levels(scan))
    return ReadScan(volume, geometry.mask, factual, measure(volume, geometry))


@dataclass(frozen=True)
class _Synthesis:
    """What it takes to answer all queries to one scan."""

    scm: Scm
    encoded: EncodedScans
    plans: Sequence[Plan]
    measure: MeasureRegions
    out_dir: Path
    origin: Mapping[str, Any]
    derivatives: Path | None
    shard: Shard
    volumes: VolumeOptions

    @cached_property
    def draws(self) -> Draws:
        return Draws(self.encoded.encoder, self.scm.image)

    @cached_property
    def plans_of(self) -> dict[str, list[Plan]]:
        """What is asked of each scan."""
        plans: dict[str, list[Plan]] = {}
        for plan in self.plans:
            for scan in plan.asked:
                plans.setdefault(scan, []).append(plan)
        return plans

    @cached_property
    def asked_scans(self) -> list[str]:
        """The scans of the shard of which something is asked, in the cohort's order."""
        scans = self.encoded.scans.rows["scan"]
        return [scan for scan in scans if scan in self.plans_of and self.shard.holds(scan)]

    def answer(self, scan: str, computing: AbstractContextManager[object]) -> ManifestRows:
        """Make and write the counterfactuals of one scan, which is read, and decoded, once for all queries.

        Args:
            computing: held while a counterfactual is computed, and not while files are read or written.
        """
        plans = self.plans_of[scan]
        scans, row = self.encoded.scans, self.encoded.scans.rows.loc[[scan]].iloc[0]
        try:
            scans.require(scan)
            levels = self.encoded.levels(scan)
            given = [sha256(scans.path(scan, role)) for role in MADE_FROM if isinstance(row.get(role), str)]
            given += [str(each) for each in levels]
            raw = None
            if any(plan.query.native != "none" for plan in plans):
                raw = raw_path(scans, scan, self.derivatives)
                given.append(sha256(raw))
            fingerprints = {plan.query.name: self._fingerprint(plan, scan, given) for plan in plans}
            kept = {plan.query.name: self._kept(row, plan.query, fingerprints[plan.query.name]) for plan in plans}
            asked = None if all(kept.values()) else read_factual(self.encoded, scan, self.measure)
            native = NativeScan.read(scans, scan, raw, asked.volume) if asked and raw else None
        except (ScanError, OSError) as error:
            logger.warning("%s: no counterfactual: %s", scan, error)
            failed = {"status": "fail", "reason": str(error)}
            return {(plan.query.name, scan): manifest_row(row, plan.query, **failed) for plan in plans}
        rows = {}
        for plan in plans:
            outcome = kept[plan.query.name]
            if outcome is None:
                assert asked is not None
                at = plan.positions[scan]
                with computing:
                    made = make_counterfactual(self.scm, plan, at, asked.factual, asked.measure, self.draws)
                outcome = self._write(row, plan, asked, native, made, fingerprints[plan.query.name])
            told = {**plan.told(scan), **outcome, "years": float(plan.years[plan.positions[scan]])}
            rows[plan.query.name, scan] = manifest_row(row, plan.query, status="pass", **told)
        return rows

    def _fingerprint(self, plan: Plan, scan: str, given: Sequence[str]) -> str:
        """A hash of all that makes a volume: the scan, its values, the question, and what all volumes share."""
        query = plan.query.model_dump(mode="json", exclude={"scans", "trajectory", "group"})
        values = {key: _plain(value) for key, value in plan.told(scan).items()}
        written = self.volumes.model_dump(mode="json")
        made_from = [dict(self.origin), self.encoded.store.identity.as_json(), query, values, list(given), written]
        return options_fingerprint(made_from)

    def _paths(self, row: pd.Series, query: QueryOptions) -> dict[str, Path]:
        """Where a query's volumes of a scan lie, by column of the manifest, relative to `out_dir`."""
        source, label, paths = Path(row["preproc_t1w"]), query_label(query.name), {}
        for column, suffix in volume_suffixes(query).items():
            name = source.name.replace("_desc-preproc_", f"_desc-{label}{suffix}_")
            if column in NATIVE:
                name = derivative_name(row["scan"], {"desc": f"{label}{suffix}"}, "T1w.nii.gz")
            elif column in JACOBIAN:
                name = name.replace("_T1w.", "_map.")
            paths[column] = source.parent / name
        return paths

    def _kept(self, row: pd.Series, query: QueryOptions, fingerprint: str) -> dict[str, Any] | None:
        """What the manifest tells of volumes that are there already, made from the same; None where one is not."""
        paths, told = self._paths(row, query), {}
        for path in paths.values():
            beside = sidecar(self.out_dir / path)
            if not beside.exists() or not (self.out_dir / path).exists():
                return None
            told = json.loads(beside.read_text(encoding="utf-8"))
            if told.get("Fingerprint") != fingerprint:
                return None
        made = {"pass_through": told["PassThrough"], "regions": of_json(told["Regions"])}
        return {**made, **{column: path.as_posix() for column, path in paths.items()}}

    def _write(
        self,
        row: pd.Series,
        plan: Plan,
        asked: ReadScan,
        native: NativeScan | None,
        made: Counterfactual,
        fingerprint: str,
    ) -> dict[str, Any]:
        """Write a query's volumes, each with its side-car; what the manifest tells of them."""
        query, identity, grid = plan.query, self.encoded.store.identity, self.encoded.scans.grid
        how: Any = {"dtype": self.volumes.float_type, "gzip_level": self.volumes.gzip_level}
        values, support = (
            {str(column): _plain(table[column].iloc[plan.positions[row["scan"]]]) for column in table}
            for table in (plan.values, plan.support)
        )
        told = {
            "Query": query.name,
            **({"Trajectory": query.trajectory} if query.trajectory else {}),
            "Do": query.do,
            "Effect": query.effect,
            "Decode": query.decode,
            "Draws": query.uncertainty,
            "NodeValues": values,
            "Extrapolation": support["extrapolation"],
            "Warning": support["warning"],
            "Support": {key: support[key] for key in ("leverage", "leverage_ratio", "positivity")},
            "PassThrough": made.pass_through if math.isfinite(made.pass_through) else None,
            "Regions": as_json(made.regions),
            **self.origin,
            "Fingerprint": fingerprint,
        }
        strategy = (STRATEGIES[query.decode].__doc__ or "").partition("\n")[0]
        descriptions = {
            "path": f"Counterfactual T1w. {strategy}",
            "difference_path": "Signed difference: counterfactual minus factual.",
            "uncertainty_path": f"Root mean square distance of {self.scm.draws} draws of the SCM's parameters, without "
            "shrinkage.",
            "jacobian_path": "Logarithm of how much larger a place is than in the scan, by displacement.",
        }
        source = bids_uri(Path(row["preproc_t1w"]), "preproc")
        here = {"Sources": [source], **identity.space, "SkullStripped": True}
        volumes = {"path": made.volume, "difference_path": made.difference, "uncertainty_path": made.uncertainty}
        if query.jacobian:
            assert made.motion is not None
            volumes["jacobian_path"] = log_growth(made.motion)
        paths = self._paths(row, query)
        for column, volume in volumes.items():
            with _written(self.out_dir / paths[column], {"Description": descriptions[column], **here, **told}) as path:
                write_volume(path, np.where(asked.mask, volume, np.float32(0)), grid, **how)
        if query.native != "none":
            assert native is not None
            motion = made.motion if query.decode == "residual" else None
            there = native.bring(query.native, made.volume, made.difference, made.uncertainty, motion)
            roles = ((row["native_mask"], "preproc"), (row["path"], "raw"))
            about: dict[str, Any] = {
                "Sources": [source, *(bids_uri(Path(path), dataset) for path, dataset in roles)],
                "SpatialReference": "orig",
                "SkullStripped": query.native == "brain",
                "Units": "of the raw scan",
            }
            for column, volume in zip(NATIVE, (there.volume, there.difference, there.uncertainty), strict=True):
                description = {"Description": descriptions[column.removeprefix("native_")]}
                with _written(self.out_dir / paths[column], {**description, **about, **told}) as path:
                    write_image(path, native.raw.with_data(volume), SCANNER, **how)
        return {
            "pass_through": made.pass_through,
            "regions": made.regions,
            **{column: path.as_posix() for column, path in paths.items()},
        }


@contextmanager
def _written(path: Path, told: Mapping[str, Any]) -> Iterator[Path]:
    """A volume with its side-car, first away, then written last: it never speaks of another volume than its own."""
    sidecar(path).unlink(missing_ok=True)
    yield path
    write_json(sidecar(path), told)


def make_counterfactual(
    scm: Scm, plan: Plan, position: int, factual: Factual, measure: RegionMeasure, draws: Draws
) -> Counterfactual:
    """The counterfactual of one scan, row `position` of the plan, and how far the draws of the SCM lie apart.

    Args:
        measure: of that scan. draws: of the model, which all scans share.
    """
    at, decode = slice(position, position + 1), plan.query.decode
    made = predict(factual, scm.image, plan.step[at], decode)
    squares, drawn_ml = torch.zeros_like(made.volume), []
    decoded = plan.query.uncertainty == "decoded"
    for drawn in draws.volumes(factual, made, plan.step[at], plan.drawn_steps[:, at], decode, decoded):
        squares += (drawn - made.volume).square()
        drawn_ml.append(measure.volumes_ml(_volume(drawn)))
    uncertainty = (squares / scm.draws).sqrt()
    with torch.inference_mode():
        share = float(pass_through(factual, made.shift)[0])
    volume, difference = _volume(made.volume), _volume(made.difference)
    regions = measure_change(measure, volume, difference, drawn_ml)
    motion = None
    if plan.query.native != "none" or plan.query.jacobian:
        with torch.inference_mode():
            motion = factual.encoder.motion(factual, made.shift)[0].cpu().numpy()
    return Counterfactual(volume, difference, _volume(uncertainty), share, regions, motion)


def _volume(tensor: torch.Tensor) -> Volume:
    return tensor[0, 0].cpu().numpy()


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    return float(value) if isinstance(value, int | float | np.number) else str(value)
