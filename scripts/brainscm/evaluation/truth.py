"""Where the true answer to a counterfactual question is known: the simulator's own heads, and follow-up scans.

A simulated true counterfactual has the same scanner, pose and noise as its scan, so the raw difference of the two
heads is the true change and nothing else. It is brought to template space through the *factual* scan's transform and
intensity scaling: whatever preprocessing would make of the other head never enters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from brainscm.config import QueryOptions
from brainscm.errors import ScanError
from brainscm.images import Grid, Mask, Volume
from brainscm.images import Image as WorldVolume
from brainscm.resampling import gaussian_for_voxels, sample
from brainscm.tables import evenly_spaced, read_table

Matrix = NDArray[np.float64]

FOLLOW_UP = "follow-up"
GAIN_WINDOW_MM = 6.0  # standard deviation: narrow beside a bias field (on simulated heads the gain is right to 2 %)
SHORTEST_INTERVAL_YEARS = 0.25
UNANSWERED_SCANS = 32


@dataclass(frozen=True)
class Brain:
    """One usable scan: volume and mask (x, y, z), latent (c, x', y', z'), and its scaling to the template."""

    volume: Volume
    mask: Mask
    latent: NDArray[np.float32]
    head_size: float


@dataclass(frozen=True)
class Truth:
    """The true answer to a case in template space, (x, y, z), and its regional volumes in ml."""

    volume: Volume
    regions_ml: Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One question to one scan.

    Attributes:
        source: `simulated` (the answer is the simulator's true counterfactual head), `follow-up` (a later scan of the
            person), or `unanswered`: nobody knows, and only what needs no truth is measured.
        scan: the factual scan. query: what is asked of it.
        answer: the raw head of a simulated case (a path), the scan id of the follow-up, or "".
    """

    source: Literal["simulated", "follow-up", "unanswered"]
    scan: str
    participant: str
    query: QueryOptions
    answer: str


def simulated_cases(bids_dir: Path, table: pd.DataFrame, queries: list[QueryOptions]) -> list[Case]:
    """Cases of the usable test scans in `table` for which the simulator wrote the true counterfactual of a query."""
    path = bids_dir / "derivatives" / "truth" / "counterfactuals.tsv"
    if not path.exists():
        return []
    truth = read_table(path)
    written = truth[truth["path"].notna()].to_dict("records")
    path_of = {(row["scan"], row["query"], row["effect"]): bids_dir / row["path"] for row in written}
    cases = []
    for query in queries:
        for scan in table[table["split"] == "test"].to_dict("records"):
            answer = path_of.get((scan["scan"], query.name, query.effect))
            if answer is not None:
                cases.append(Case("simulated", scan["scan"], scan["participant"], query, str(answer)))
    return cases


def unanswered_cases(table: pd.DataFrame, queries: list[QueryOptions], answered: list[Case]) -> list[Case]:
    """Queries to which no answer is known, each put to at most `UNANSWERED_SCANS` test scans, evenly spaced."""
    known = {case.query.name for case in answered}
    test = evenly_spaced(table[table["split"] == "test"].drop_duplicates("participant"), UNANSWERED_SCANS)
    asked = [(query, scan) for query in queries if query.name not in known for scan in test.to_dict("records")]
    return [Case("unanswered", scan["scan"], scan["participant"], query, "") for query, scan in asked]


def follow_up_cases(table: pd.DataFrame, age_column: str) -> list[Case]:
    """Each later scan of a test participant as the answer to do(age = age then), asked of the first scan."""
    test = table[(table["split"] == "test") & table[age_column].notna()].sort_values([age_column, "scan"])
    cases = []
    for participant, scans in test.groupby("participant"):
        first, *later = scans.to_dict("records")
        for scan in later:
            if scan[age_column] - first[age_column] >= SHORTEST_INTERVAL_YEARS:
                query = QueryOptions(name=FOLLOW_UP, do={"age": float(scan[age_column])})
                cases.append(Case("follow-up", first["scan"], str(participant), query, scan["scan"]))
    return cases


def read_raw(path: str | Path) -> nib.Nifti1Image:
    """Read a raw head with its voxels.

    Raises:
        ScanError: it is missing or cut short.
    """
    try:
        image = nib.load(path)
        image.get_fdata(dtype=np.float32)
    except (OSError, EOFError, ImageFileError) as error:
        raise ScanError(f"{path}: cannot be read ({error}); simulate or copy it again.") from error
    return image


def true_volume(
    factual: Volume, mask: Mask, factual_raw: nib.Nifti1Image, answer_raw: nib.Nifti1Image, to_scan: Matrix, grid: Grid
) -> Volume:
    """The true counterfactual in template space, (x, y, z): the preprocessed scan plus the resampled true raw change.

    Preprocessing divides a raw scan by a smooth bias field and a scale. That gain is read off the scan itself, as the
    local least-squares slope of preprocessed on raw intensities (Gaussian window), so that the change is scaled exactly
    as the scan was and equal heads give back the scan to the last bit.

    Args:
        factual, mask: the preprocessed scan on `grid`.
        factual_raw, answer_raw: the scan and the true counterfactual as the scanner gave them.
        to_scan: (4, 4) map from template to scan world coordinates (RAS+, mm), the factual scan's own.

    Raises:
        ScanError: the two raw heads are not on one grid, so that their difference would hold more than the change.
    """
    if answer_raw.shape != factual_raw.shape or not np.allclose(answer_raw.affine, factual_raw.affine, atol=1e-4):
        raise ScanError("the true counterfactual lies on another grid than its scan; simulate the cohort again.")

    voxel_mm = float(voxel_sizes(grid.affine)[0])
    window = GAIN_WINDOW_MM / voxel_mm

    def resampled(data: Volume) -> Volume:
        blurred = gaussian_for_voxels(WorldVolume(data, factual_raw.affine), voxel_mm)
        return sample(blurred, grid.affine, grid.shape, to_scan)

    raw = factual_raw.get_fdata(dtype=np.float32)
    change = resampled(answer_raw.get_fdata(dtype=np.float32) - raw)
    brightness = resampled(raw) * mask
    spread = gaussian_filter(brightness * brightness, window)
    gain = gaussian_filter(factual * brightness, window) / np.maximum(spread, np.finfo(np.float32).tiny)
    # As in preprocessing, no intensity is negative.
    return (np.maximum(factual + gain * change, np.minimum(factual, 0)) * mask).astype(np.float32)
