"""Gather every scan into qc.tsv, judge each by its metrics and its cohort, and finish the BIDS derivatives folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainscm.config import QualityOptions
from brainscm.errors import BrainSCMError
from brainscm.files import write_dataset_description, write_text
from brainscm.qc.limits import apply_limits
from brainscm.tables import read_table, write_table

logger = logging.getLogger("brainscm")

README = """T1w scans preprocessed by BrainSCM: brains in template space, masks, tissue probabilities and transforms.

qc.tsv has a row a scan: pass, warn or fail, the reasons, quality measures, volumes (ml) and files. status/ holds what
each scan's own job told, figures/ its pictures. The transforms (*_xfm.mat) are ITK affines, for ANTs.
"""


def collect_preprocessing(scans_path: Path, preproc_dir: Path, qc_path: Path, limits: QualityOptions) -> pd.DataFrame:
    """Write `qc.tsv`, one row a scan of `scans.tsv` in its order.

    Columns: scan, status (pass, warn or fail), reasons (joined by "; "), the metrics, `mask_volume_z` (robust z within
    the cohort), volumes as `<region>_ml`, and one column a role in `outputs` with its path relative to `preproc_dir`.
    A scan that failed stays failed; one that is done is judged by `limits`, and warns at least if something was noted
    about it, or if its robust z is beyond `volume_z_warn`.

    Raises:
        BrainSCMError: a status is missing, or an image that a status promises is gone.
    """
    scans = read_table(scans_path)
    rows = [_row(scan, preproc_dir, limits) for scan in scans["scan"]]
    _compare_within_cohort(rows, limits)
    table = pd.DataFrame(rows)
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


def _compare_within_cohort(rows: list[dict[str, Any]], limits: QualityOptions) -> None:
    """Add the robust z of each mask's volume among those of the scans that did not fail, and what its limit says."""
    volumes = [row["mask_volume_ml"] if row["status"] != "fail" else None for row in rows]
    for row, z in zip(rows, robust_z(pd.Series(volumes, dtype=float)), strict=True):
        row["mask_volume_z"] = z
        verdict, reasons = apply_limits({"mask_volume_z": z}, limits)
        if reasons:
            row |= {"status": verdict, "reasons": _joined([row["reasons"], *reasons])}


def _joined(reasons: Sequence[str]) -> str:
    return "; ".join(filter(None, reasons))


def _row(scan: str, preproc_dir: Path, limits: QualityOptions) -> dict[str, Any]:
    path = preproc_dir / "status" / f"{scan}.json"
    rerun = f"rerun it with: snakemake --cores all --force {path}"
    try:
        status = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BrainSCMError(f"{scan}: its status {path} is missing or unreadable; {rerun}") from error
    if status["status"] != "fail":
        gone = [name for name in status["outputs"].values() if not (preproc_dir / name).is_file()]
        if gone:
            raise BrainSCMError(f"{scan}: {preproc_dir / gone[0]} was written but is gone; {rerun}")
    verdict, reasons = ("fail", []) if status["status"] == "fail" else apply_limits(status["metrics"], limits)
    reasons = reasons + status["reasons"]
    if verdict == "pass" and reasons:
        verdict = "warn"
    row = {"scan": scan, "status": verdict, "reasons": _joined(reasons)}
    row |= status["metrics"]
    row |= {f"{region}_ml": volume for region, volume in status["volumes_ml"].items()}
    return row | status["outputs"]


def _describe_dataset(preproc_dir: Path, raw_paths: pd.Series) -> None:
    """What makes `preproc/` a BIDS derivatives dataset; its status and figures folders are not part of BIDS."""
    roots = {str(path).split("/sub-", 1)[0] for path in raw_paths}
    links = {"raw": f"file://{min(roots)}"} if roots else {}
    write_dataset_description(preproc_dir, "BrainSCM preprocessed T1w", links=links)
    # Folders without a slash: the BIDS validator does not take "status/" for the folder itself.
    write_text(preproc_dir / ".bidsignore", "status\nfigures\nqc.tsv\n*_xfm.mat\n")
    write_text(preproc_dir / "README", README)
