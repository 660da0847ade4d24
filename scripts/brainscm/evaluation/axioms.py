"""Rules that a counterfactual must keep whatever the truth is (Sun et al. 2025, arXiv 2508.02880)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.counterfactuals.queries import plan_query
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.measurements import Row, measured
from brainscm.evaluation.methods import Method
from brainscm.evaluation.scan import Scan
from brainscm.images import Volume
from brainscm.parallel import side_by_side
from brainscm.scans import records
from brainscm.scm.design import Array
from brainscm.shards import WHOLE, Shard
from brainscm.training.fidelity import ssim

SCANS = 2  # each costs some twenty round trips through the encoder
COMPOSITION = (1, 10)
REVERSIBILITY = (1, 3)


def axiom_scans(inputs: EvaluationInputs) -> pd.DataFrame:
    """The rows of the first test scans, which axioms are checked on."""
    return inputs.scans.of_split("test").head(SCANS)


def check_axioms(inputs: EvaluationInputs, query: QueryOptions, shard: Shard = WHOLE) -> list[Row]:
    """Composition and reversibility under one query, with residual and direct decoding, of those of a shard."""
    method = Method("latent_glm", inputs.encoder, inputs.scm.image)
    first = axiom_scans(inputs)
    own = [row for row in records(first) if shard.holds(row["scan"])]
    rows = side_by_side(partial(_check, inputs, method, query, first), own)
    return [row for of_scan in rows for row in of_scan]


def _check(inputs: EvaluationInputs, method: Method, query: QueryOptions, scans: pd.DataFrame, asked: Row) -> list[Row]:
    rows: list[Row] = []
    scan = inputs.read_scan(asked["scan"])
    step = plan_query(inputs.scm, scans.loc[[asked["scan"]]], query).step[0]
    about = {"source": "axiom", "query": query.name, "effect": query.effect, "method": method.name}
    about |= {"scan": asked["scan"], "participant": asked["participant"]}
    for decode in ("residual", "direct"):
        kept = composition(method, scan, decode) | reversibility(method, scan, step, decode)
        rows += measured({**about, "decode": decode}, kept)
    return rows


def composition(method: Method, scan: Scan, decode: str) -> dict[str, float]:
    """Distance to the scan after k null interventions, each fed the result of the last.

    Residual decoding returns the scan itself; direct decoding drifts as far as the encoder's round trips take it.
    """
    null = np.zeros(len(method.image.columns))
    result: dict[str, float] = {}
    current = scan.volume
    settled = False
    for k in range(1, max(COMPOSITION) + 1):
        if not settled:
            after = _intervene(method, scan, current, null, decode)
            settled, current = np.array_equal(after, current), after
        if k in COMPOSITION:
            result |= _distance(f"composition_{k}", current, scan)
    return result


def reversibility(method: Method, scan: Scan, step: Array, decode: str) -> dict[str, float]:
    """Distance to the scan after k rounds of an intervention and its reverse; step: (p,) change of the design row."""
    result: dict[str, float] = {}
    current = scan.volume
    for k in range(1, max(REVERSIBILITY) + 1):
        for direction in (step, -step):
            current = _intervene(method, scan, current, direction, decode)
        if k in REVERSIBILITY:
            result |= _distance(f"reversibility_{k}", current, scan)
    return result


def _intervene(method: Method, scan: Scan, current: Volume, step: Array, decode: str) -> Volume:
    """The scan itself starts from its stored latent, what became of it is encoded anew, which takes a second."""
    factual = method.factual(current, scan.latent if current is scan.volume else None, scan.levels)
    return method.predict(factual, step, decode).masked(scan.mask).volume


def _distance(name: str, current: Volume, scan: Scan) -> dict[str, float]:
    return {
        f"{name}_l1": float(np.abs(current - scan.volume)[scan.mask].mean()),
        f"{name}_ssim": ssim(current, scan.volume, mask=scan.mask),
    }
