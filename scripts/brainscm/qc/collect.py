"""Gather every scan into qc.tsv, apply the limits to each, and finish the BIDS derivatives folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import QualityOptions
from brainscm.files import write_dataset_description
from brainscm.qc.limits import apply_limits
from brainscm.qc.status import read_status
from brainscm.regions import LABELS, TISSUE_LABELS
from brainscm.tables import read_table, write_table

logger = logging.getLogger("brainscm")

README = """T1w scans preprocessed by BrainSCM: brains in template space, masks, tissues, transforms and deformations.

qc.tsv has a row a scan: pass, warn or fail, the reasons, quality measures, volumes (ml) and files. status/ and
alignment/ hold what each scan's own jobs told, figures/ its pictures.

The transforms are ITK's, for ANTs. *_xfm.mat is linear, *_desc-deformable_xfm.nii.gz the deformation between the
linearly registered scan and the template; its side-car says how the two are applied together. *_desc-jacobian_map is
the deformation's Jacobian determinant, and dseg.tsv names the labels of the segmentations (*_dseg).
"""
# Column and the measure whose robust z it is: what differs by age, scanner or template.
WITHIN_COHORT = {
    "mask_volume_z": "mask_volume_ml",
    "ncc_z": "ncc",
    "alignment_similarity_z": "alignment_similarity",
}
NOT_BIDS = ("status", "alignment", "figures", "qc.tsv", "*_xfm.*", "*_desc-jacobian_map.*")


def collect_preprocessing(
    scans_path: Path, preproc_dir: Path, qc_path: Path, limits: QualityOptions, is_aligned: bool
) -> pd.DataFrame:
    """Write `qc.tsv`, one row a scan of `scans.tsv` in its order.

    Columns: scan, status (pass, warn or fail), reasons (joined by "; "), the metrics, volumes as `<region>_ml`, one
    column a role in `outputs` with its path relative to `preproc_dir`, and the robust z within the cohort of what
    `WITHIN_COHORT` lists. A scan whose preprocessing or alignment failed has failed; one that is done is what the
    limits say, and warns at least if something was noted about it.

    Args:
        is_aligned: the scans have been aligned to the template, too.

    Raises:
        BrainSCMError: a status is missing, or an image that a status promises is gone.
    """
    scans = read_table(scans_path)
    rows = [_row(scan, preproc_dir, limits, is_aligned) for scan in scans["scan"]]
    _tell_copies(rows)
    _compare_within_cohort(rows, limits)
    table = pd.DataFrame(rows)
    table["reasons"] = table["reasons"].map("; ".join)
    write_table(table, qc_path)
    _describe_dataset(preproc_dir, scans["path"])
    counts = table["status"].value_counts()
    told = ", ".join(f"{counts.get(key, 0)} {key}" for key in ("pass", "warn", "fail"))
    logger.info("%d scans: %s", len(table), told)
    for row in table[table["status"] == "fail"].itertuples():
        logger.warning("failed: %s: %s", row.scan, row.reasons)
    return table


def robust_z(values: pd.Series) -> pd.Series:
    """(value - median) / (1.4826 × median absolute deviation); missing where under 5 values are there, or all alike."""
    robust_sd = 1.4826 * (values - values.median()).abs().median()
    if values.count() < 5 or not robust_sd > 0:
        return pd.Series(np.nan, index=values.index)
    return (values - values.median()) / robust_sd


def _row(scan: str, preproc_dir: Path, limits: QualityOptions, is_aligned: bool) -> dict[str, Any]:
    """A scan's row, whose reasons are still a list: first those why it failed, last what was noted about it."""
    statuses = [read_status(preproc_dir, "status", scan)]
    if is_aligned:
        statuses.append(read_status(preproc_dir, "alignment", scan))
    failed = [status for status in statuses if status["status"] == "fail"]
    done = [status for status in statuses if status["status"] == "done"]
    outcome, broken = apply_limits(_merged(done, "metrics"), limits)
    reasons = [reason for status in failed for reason in status["reasons"]] + broken
    reasons += [note for status in done for note in status["reasons"]]
    if failed:
        outcome = "fail"
    elif reasons and outcome == "pass":
        outcome = "warn"
    volumes = {f"{region}_ml": volume for region, volume in _merged(statuses, "volumes_ml").items()}
    of_scan = {"scan": scan, "status": outcome, "reasons": reasons, "inputs": statuses[0].get("inputs", [])}
    return of_scan | _merged(statuses, "metrics") | volumes | _merged(statuses, "outputs")


def _tell_copies(rows: list[dict[str, Any]]) -> None:
    """Warn of a raw file that two participants have, byte for byte; takes the scans' `inputs` out of the rows."""
    owners: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        for sha256 in {file["sha256"] for file in row.pop("inputs")}:
            owners.setdefault(sha256, []).append(k)
    participants = [row["scan"].partition("_")[0] for row in rows]
    for shared in owners.values():
        for k in shared:
            others = [rows[other]["scan"] for other in shared if participants[other] != participants[k]]
            if others:
                told = f"its file is that of {', '.join(others)}, byte for byte; find out whose it is"
                rows[k]["reasons"].append(told)
                rows[k]["status"] = "warn" if rows[k]["status"] == "pass" else rows[k]["status"]


def _merged(statuses: list[dict[str, Any]], key: str) -> dict[str, Any]:
    return {name: value for status in statuses for name, value in status[key].items()}


def _compare_within_cohort(rows: list[dict[str, Any]], limits: QualityOptions) -> None:
    """Add each scan's robust z among the scans that did not fail, and what its limit says."""
    has_failed = [row["status"] == "fail" for row in rows]
    for name, measure in WITHIN_COHORT.items():
        if not any(measure in row for row in rows):
            continue
        values = [None if failed else row.get(measure) for row, failed in zip(rows, has_failed, strict=True)]
        for row, z in zip(rows, robust_z(pd.Series(values, dtype=float)), strict=True):
            row[name] = z
            outcome, reasons = apply_limits({name: z}, limits)
            if reasons:
                row["status"] = outcome
                row["reasons"] += reasons


def _describe_dataset(preproc_dir: Path, raw_paths: pd.Series) -> None:
    """What makes `preproc/` a BIDS derivatives dataset."""
    roots = {str(path).split("/sub-", 1)[0] for path in raw_paths}
    sources = {"raw": Path(min(roots))} if roots else {}
    write_dataset_description(
        preproc_dir, "BrainSCM preprocessed T1w", sources=sources, readme=README, ignored=NOT_BIDS
    )
    labels = [(0, "background", "BG"), *((k, LABELS[name], name.upper()) for name, k in TISSUE_LABELS.items())]
    write_table(pd.DataFrame(labels, columns=["index", "name", "abbreviation"]), preproc_dir / "dseg.tsv")
