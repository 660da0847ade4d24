"""Contrasts as regional volumes in ml with 95 % intervals: of the volumes that preprocessing measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import scipy.stats

from brainscm.config import QueryOptions, Scalar
from brainscm.scm.design import Array
from brainscm.scm.image import fit_image
from brainscm.scm.inference import (
    EFFECTS,
    partial_r2,
    pooled_test,
    robust_errors_of,
    standardised_effect,
    wald_test,
)
from brainscm.scm.model import Scm
from brainscm.scm.sample import Sample
from brainscm.scm.sensitivity import robustness_value

COLUMNS = [
    "contrast", "effect", "region", "source", "estimate_ml", "standard_error_ml", "ci95_low_ml", "ci95_high_ml",
    "estimate_percent", "cohens_d", "robustness_value", "p", "missing_information", "mean_ml", "scans",
]  # fmt: skip
# Draws of the node models behind the interval of an effect that runs through them.
DRAWS = 50


Effect = Literal["total", "direct"]


@dataclass(frozen=True)
class Change:
    """What is asked of the regions: a contrast, on average over the training scans, or a query, over its own scans.

    Attributes:
        effects: total, direct, or both.
        low, high: the nodes' values between which it changes; an empty `low` is as observed.
        scans: rows that it is put to; None for the training scans, whichever those are.
    """

    name: str
    effects: tuple[Effect, ...]
    low: Mapping[str, Scalar]
    high: Mapping[str, Scalar]
    scans: pd.DataFrame | None = None

    def average(self, scm: Scm, effect: Effect) -> tuple[Array, dict[str, float]]:
        """Mean change of the design row (p,), and of each numeric node."""
        rows = scm.training if self.scans is None else self.scans
        low, high = (scm.intervene(rows, ends, effect) for ends in (self.low, self.high))
        numeric = [node for node, levels in scm.covariates.levels.items() if levels is None]
        change = (scm.values(high)[numeric] - scm.values(low)[numeric]).mean()
        row = (scm.design_matrix(high) - scm.design_matrix(low)).mean(axis=0)
        return row, {node: float(change[node]) for node in numeric}


def contrast_change(scm: Scm, name: str) -> Change:
    """A declared contrast."""
    ends = scm.options.contrasts[name]
    low, high = ({node: values[i] for node, values in ends.items()} for i in (0, 1))
    return Change(name, EFFECTS, low, high)


def query_change(query: QueryOptions, scans: pd.DataFrame) -> Change:
    """A query that is put to these scans."""
    return Change(query.name, (query.effect,), {}, query.do, scans)


def measured_effects(
    scm: Scm, table: pd.DataFrame, regions: Sequence[str], changes: Sequence[Change] | None = None
) -> pd.DataFrame:
    """Each contrast's effect on the regional volumes that preprocessing measured, by the image's own design.

    A volume takes the latent's place: v = x·b + e on the training scans, effect C·b with the C of the tests. Its
    variance adds what the node models leave uncertain to that of b: Var(C·b) over b, plus Var(C_k·b) over draws k of
    the node models. A region that is itself a node has its total effect from the node model.

    Args:
        scm: the fitted model.
        table: scan, and the columns `<region>_ml`.
        regions: names of the regions; one without a column is left out.
        changes: what is asked in place of the contrasts.

    Returns:
        One row a contrast, effect and region, with `source` "measured"; see `COLUMNS`.
    """
    volumes = table.set_index("scan").loc[scm.training["scan"]]
    x, participants = scm.design_matrix(scm.training), scm.training["participant"].to_numpy()
    records = []
    if changes is None:
        changes = [contrast_change(scm, name) for name in scm.options.contrasts]
    for change in changes:
        for effect in change.effects:
            row, moved = change.average(scm, effect)
            mediated = effect == "total" and scm.graph.descendants(tuple(change.high))
            drawn = [change.average(scm.draw_nodes(k), effect) for k in range(DRAWS)] if mediated else []
            for region, node in _responding(scm, volumes, regions, change, effect):
                measured = volumes[f"{region}_ml"].to_numpy(dtype=np.float64)
                used = np.isfinite(measured)
                if node is None:
                    rows = np.array([drawn_row for drawn_row, _ in drawn])
                    volume = measured[used][:, None]
                    sample = Sample.of(x[used], scm.design.columns, volume, participants[used].tolist())
                    sample = replace(sample, imputed=[each[used] for each in scm.imputed_designs])
                    found = _glm(scm, row, rows, sample)
                else:
                    freedom = scm.training["participant"].nunique() - len(scm.nodes[node].design.columns)
                    error = float(np.std([by_draw[node] for _, by_draw in drawn], ddof=1))
                    found = _of_node(moved[node], error, max(freedom, 1))
                records.append(
                    {
                        "contrast": change.name,
                        "effect": effect,
                        "region": region,
                        "source": "measured",
                        **interval(found.ml, found.error_ml, found.freedom),
                        "cohens_d": found.cohens_d,
                        "robustness_value": found.robustness_value,
                        "missing_information": found.missing_information,
                        "mean_ml": float(measured[used].mean()),
                        "scans": int(used.sum()),
                    }
                )
    return finished(records)


def estimates(scm: Scm, volumes: pd.DataFrame, regions: Sequence[str], change: Change) -> dict[tuple[str, str], float]:
    """The estimates of `measured_effects` alone, ml, by effect and region.

    Args:
        volumes: the columns `<region>_ml`, one row a scan of `scm.training`.
    """
    x = scm.design_matrix(scm.training)
    found: dict[tuple[str, str], float] = {}
    for effect in change.effects:
        row, moved = change.average(scm, effect)
        for region, node in _responding(scm, volumes, regions, change, effect):
            if node is None:
                measured = volumes[f"{region}_ml"].to_numpy(dtype=np.float64)
                used = np.isfinite(measured)
                found[effect, region] = float(row @ np.linalg.lstsq(x[used], measured[used])[0])
            else:
                found[effect, region] = moved[node]
    return found


def _responding(
    scm: Scm, volumes: pd.DataFrame, regions: Sequence[str], change: Change, effect: str
) -> Iterator[tuple[str, str | None]]:
    """The measured regions that can change, each with the node that it is, if any.

    A node that is held, or set, does not respond.
    """
    node_of = {column: node for node, column in scm.covariates.columns.items()}
    below = scm.graph.descendants(tuple(change.high)) if effect == "total" else ()
    for region in regions:
        node = node_of.get(f"{region}_ml")
        is_measured = f"{region}_ml" in volumes and volumes[f"{region}_ml"].notna().any()
        if is_measured and (node is None or node in below):
            yield region, node


def interval(estimate: float, error: float, freedom: float) -> dict[str, float]:
    """Estimate, standard error, 95 % interval and p of a t-distributed estimate."""
    half = scipy.stats.t.ppf(0.975, freedom) * error
    return {
        "estimate_ml": estimate,
        "standard_error_ml": error,
        "ci95_low_ml": estimate - half,
        "ci95_high_ml": estimate + half,
        "p": float(2 * scipy.stats.t.sf(abs(estimate) / error, freedom)) if error > 0 else float("nan"),
    }


def finished(records: Sequence[dict[str, object]]) -> pd.DataFrame:
    """The table of rows like those of `measured_effects`, with the effect in per cent of the mean volume."""
    found = pd.DataFrame(records, columns=COLUMNS)
    found["estimate_percent"] = 100 * found["estimate_ml"] / found["mean_ml"]
    return found


@dataclass(frozen=True)
class _Estimate:
    """An effect on one region, its standard error and the degrees of freedom of that, and what describes it."""

    ml: float
    error_ml: float
    freedom: float
    cohens_d: float = np.nan
    robustness_value: float = np.nan
    missing_information: float = np.nan


def _of_node(ml: float, error_ml: float, freedom: float) -> _Estimate:
    """The effect on a region that is a node; its partial R² is that of its t."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t2 = np.square(np.float64(ml) / error_ml)
        return _Estimate(ml, error_ml, freedom, robustness_value=float(robustness_value(t2 / (t2 + freedom))))


def _glm(scm: Scm, row: Array, drawn_rows: Array, sample: Sample) -> _Estimate:
    """Effect of the contrast `row` (p,) on one volume, pooled where covariates were imputed several times."""
    c, tests, r2 = row[None], [], []
    for completed in sample.completed:
        fitted = fit_image(completed, seed=scm.seed, drawn=False)
        tests.append(wald_test(fitted, c, robust_errors_of(scm.options.image.errors, fitted, c, completed)[0]))
        r2.append(partial_r2(fitted, c))
    test, fitted = pooled_test(tests), fit_image(sample, seed=scm.seed, drawn=False)
    b = fitted.coefficients[:, 0]
    passed_on = float(np.var(drawn_rows @ b, ddof=1)) if len(drawn_rows) else 0.0
    return _Estimate(
        ml=float(row @ b),
        error_ml=float(np.hypot(test.standard_error[0], np.sqrt(passed_on))),
        freedom=test.df2,
        cohens_d=float(standardised_effect(fitted, c)[0]),
        robustness_value=float(robustness_value(np.mean(r2, axis=0))[0]),
        missing_information=np.nan if test.missing_information is None else float(test.missing_information[0]),
    )
