"""Do counterfactuals look like real scans of other participants who have those covariates? No feature is downloaded.

Two sets are told apart by their maximum mean discrepancy (Gretton et al., JMLR 13, 2012), with a Gaussian kernel whose
width is the median distance. Each counterfactual has one real partner, so that under the null hypothesis the two can be
exchanged within a pair: that gives the permutation null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from brainscm.config import QueryOptions
from brainscm.images import Mask, Volume
from brainscm.regions import COMPARED
from brainscm.scans import records
from brainscm.scm.design import Array
from brainscm.scm.model import Scm

PAIRS_NEEDED = 8
PERMUTATIONS = 2000
CALIPER = 0.5  # standard deviations, in every number; levels must be equal
COLUMNS = (
    "query", "method", "decode", "features", "pairs", "mmd2", "null_mean", "null_95", "p", "why_null",
)  # fmt: skip
IMAGE = tuple(f"image_{place}" for place in range(9))  # see `image_features`
FEATURES = ("query", "method", "decode", "scan", *(f"{region}_ml" for region in COMPARED), *IMAGE)


@dataclass(frozen=True)
class CounterfactualFeatures:
    """What is compared of one counterfactual: its table row under the intervention, regions in ml, image features."""

    query: str
    method: str
    decode: str
    covariates: pd.Series
    regions_ml: Mapping[str, float]
    image: Array


def feature_row(
    about: Mapping[str, str], regions_ml: Mapping[str, float], volume: Volume, mask: Mask
) -> dict[str, str | float]:
    """The features of a counterfactual as a row of a table, with the columns `FEATURES`.

    Args:
        about: query, method, decode and scan. volume, mask: (x, y, z).
    """
    named = {f"{region}_ml": volume_ml for region, volume_ml in regions_ml.items()}
    return {**about, **named, **dict(zip(IMAGE, image_features(volume, mask).tolist(), strict=True))}


def features_of(
    features: pd.DataFrame, scm: Scm, queries: Sequence[QueryOptions], table: pd.DataFrame
) -> list[CounterfactualFeatures]:
    """The features that stand in a table of `feature_row`s.

    Args:
        table: the scans, indexed by scan id, with the nodes' columns.
    """
    changed: dict[str, pd.DataFrame] = {}
    for query in queries:
        asked = features.loc[features["query"] == query.name, "scan"].unique()
        if len(asked):
            changed[query.name] = scm.intervene(table.loc[asked], query.do, query.effect)
    return [
        CounterfactualFeatures(
            query=row["query"],
            method=row["method"],
            decode=row["decode"],
            covariates=changed[row["query"]].loc[row["scan"]],
            regions_ml={region: row[f"{region}_ml"] for region in COMPARED},
            image=np.array([row[name] for name in IMAGE]),
        )
        for row in records(features)
    ]


def image_features(volume: Volume, mask: Mask) -> Array:
    """Contrast and sharpness: five percentiles of the intensities, and the log energy of four bands of detail.

    Bands are differences of Gaussians of width 0, 0.5, 1, 2 and 4 voxels, over the brain (x, y, z).
    """
    inside = volume[mask].astype(np.float64)
    widths = (0.0, 0.5, 1.0, 2.0, 4.0)
    blurred = [gaussian_filter(volume, width) if width else volume for width in widths]
    energy = [np.mean((fine - coarse)[mask] ** 2) for fine, coarse in pairwise(blurred)]
    return np.concatenate([np.percentile(inside, [5, 25, 50, 75, 95]), np.log(np.maximum(energy, 1e-12))])


def realism_table(
    features: Sequence[CounterfactualFeatures],
    scm: Scm,
    real: pd.DataFrame,
    regions: Sequence[str],
    real_image: Callable[[str], Array],
    seed: int,
) -> pd.DataFrame:
    """One row a query, method, decoding and kind of features: MMD² against matched real scans, and its null.

    Args:
        features: of the counterfactuals.
        real: usable scans, indexed by scan id, with the nodes' columns and `<region>_ml`.
        regions: compared as shares of their sum. real_image: image features of a real scan.
    """
    rows: list[dict[str, Any]] = []
    groups: dict[tuple[str, str, str], list[CounterfactualFeatures]] = {}
    for made in features:
        groups.setdefault((made.query, made.method, made.decode), []).append(made)
    first = real.drop_duplicates("participant")
    cached: dict[str, Array] = {}
    columns = [f"{region}_ml" for region in regions]
    for (query, method, decode), group in groups.items():
        about = {"query": query, "method": method, "decode": decode}
        matched, partners = _matched(group, scm, first)
        if len(matched) < PAIRS_NEEDED:
            why = (
                f"only {len(matched)} of {len(group)} counterfactuals have a real scan of another participant near them"
            )
            rows += [
                {**about, "features": kind, "pairs": len(matched), "why_null": why} for kind in ("regions", "image")
            ]
            continue
        for scan in partners:
            if scan not in cached:
                cached[scan] = real_image(scan)
        volumes = np.array([[made.regions_ml[region] for region in regions] for made in matched])
        pairs = {
            "regions": (_shares(volumes), _shares(first.loc[partners, columns].to_numpy(dtype=float))),
            "image": (np.array([made.image for made in matched]), np.array([cached[scan] for scan in partners])),
        }
        for kind, (a, b) in pairs.items():
            rng = np.random.default_rng([seed, *f"{query}{method}{decode}{kind}".encode()])
            rows.append({**about, "features": kind, "pairs": len(matched), **mmd_test(a, b, rng)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def mmd_test(a: Array, b: Array, rng: np.random.Generator) -> dict[str, float]:
    """MMD² of paired samples a, b (n, features), and its null under exchange within pairs.

    Features are standardised over both. With labels s = ±1, MMD² = s'Ks / n² (the biased estimate); p is
    the share of the permutations that reach it, the observed one included.
    """
    both = np.concatenate([a, b])
    both = (both - both.mean(axis=0)) / np.maximum(both.std(axis=0), 1e-12)
    distances = cdist(both, both)
    width = np.median(distances[np.triu_indices(len(both), 1)])
    kernel = np.exp(-0.5 * (distances / max(float(width), 1e-12)) ** 2)
    signs = rng.choice([-1.0, 1.0], size=(PERMUTATIONS, len(a)))
    signs[0] = 1  # as observed
    labels = np.concatenate([signs, -signs], axis=1)
    values = np.einsum("pi,pi->p", labels @ kernel, labels) / len(a) ** 2
    observed, null = values[0], values[1:]
    return {
        "mmd2": float(observed),
        "null_mean": float(null.mean()),
        "null_95": float(np.percentile(null, 95)),
        "p": float(np.mean(values >= observed - 1e-12)),
    }


def _shares(volumes: Array) -> Array:
    return volumes / volumes.sum(axis=1, keepdims=True)


def _matched(
    group: Sequence[CounterfactualFeatures], scm: Scm, real: pd.DataFrame
) -> tuple[list[CounterfactualFeatures], list[str]]:
    """Counterfactuals and their real partners: other participants, each used once, as near as the covariates allow.

    What preprocessing measured is left out of the matching: volumes are what is compared, as shares of the head.
    """
    wanted = scm.values(pd.DataFrame([made.covariates for made in group]))
    there = scm.values(real)
    training = scm.training_values
    distance = np.zeros((len(group), len(real)))
    allowed = np.ones_like(distance, dtype=bool)
    for node, column in scm.covariates.columns.items():
        if column.endswith("_ml") or column == "head_size":
            continue
        if scm.covariates.levels[node] is None:
            a, b = (values[node].to_numpy(dtype=float) for values in (wanted, there))
            apart = np.abs(a[:, None] - b) / max(float(training[node].std()), 1e-12)
            distance += apart
            allowed &= apart <= CALIPER
        else:
            allowed &= wanted[node].astype(str).to_numpy()[:, None] == there[node].astype(str).to_numpy()
    asked = np.array([made.covariates["participant"] for made in group])
    allowed &= asked[:, None] != real["participant"].to_numpy()
    cost = np.where(allowed, distance, 1e6)
    rows, columns = linear_sum_assignment(cost)
    kept = [(row, column) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]
    return [group[row] for row, _ in kept], [str(real.index[column]) for _, column in kept]
