"""Rules that a counterfactual must keep whatever the truth is (Sun et al. 2025, arXiv 2508.02880)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.counterfactuals.queries import plan_query
from brainscm.evaluation.methods import Method
from brainscm.evaluation.summary import Row, measured
from brainscm.evaluation.truth import Brain
from brainscm.images import Mask, Volume
from brainscm.scm.design import Array
from brainscm.scm.model import Scm
from brainscm.training.fidelity import ssim

SCANS = 2  # each costs some twenty round trips through the autoencoder
COMPOSITION = (1, 10)
REVERSIBILITY = (1, 3)


def check_axioms(
    scm: Scm, method: Method, scans: pd.DataFrame, query: QueryOptions, read_brain: Callable[[str], Brain], threads: int
) -> list[Row]:
    """Composition and reversibility under one query, with residual and with direct decoding, on the first scans."""

    def check(scan: str, participant: str) -> list[Row]:
        rows: list[Row] = []
        brain = read_brain(scan)
        step = plan_query(scm, scans.loc[[scan]], query).step[0]
        about = {"source": "axiom", "query": query.name, "effect": query.effect, "scan": scan}
        for decode in ("residual", "direct"):
            kept = composition(method, brain.volume, brain.mask, decode)
            kept |= reversibility(method, brain.volume, brain.mask, step, decode)
            rows += measured({**about, "participant": participant, "method": method.name, "decode": decode}, kept)
        return rows

    first = scans.head(SCANS)
    with ThreadPoolExecutor(threads) as pool:
        return [row for rows in pool.map(check, first["scan"], first["participant"]) for row in rows]


def composition(method: Method, volume: Volume, mask: Mask, decode: str) -> dict[str, float]:
    """Distance to the scan after k null interventions, each fed the result of the last.

    Residual decoding returns the scan itself; direct decoding drifts as far as the autoencoder's round trips carry it.
    """
    null = np.zeros(len(method.image.columns))
    result: dict[str, float] = {}
    current = volume
    settled = False
    for k in range(1, max(COMPOSITION) + 1):
        if not settled:
            after = method.predict(method.factual(current), null, decode)[0] * mask
            settled, current = np.array_equal(after, current), after
        if k in COMPOSITION:
            result |= _distance(f"composition_{k}", current, volume, mask)
    return result


def reversibility(method: Method, volume: Volume, mask: Mask, step: Array, decode: str) -> dict[str, float]:
    """Distance to the scan after k rounds of an intervention and its reverse; step: (p,) change of the design row."""
    result: dict[str, float] = {}
    current = volume
    for k in range(1, max(REVERSIBILITY) + 1):
        for direction in (step, -step):
            current = method.predict(method.factual(current), direction, decode)[0] * mask
        if k in REVERSIBILITY:
            result |= _distance(f"reversibility_{k}", current, volume, mask)
    return result


def _distance(name: str, current: Volume, volume: Volume, mask: Mask) -> dict[str, float]:
    return {
        f"{name}_l1": float(np.abs(current - volume)[mask].mean()),
        f"{name}_ssim": ssim(current, volume, mask=mask),
    }
