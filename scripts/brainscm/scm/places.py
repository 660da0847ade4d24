"""A participant's place among others of the same covariates: z and centile of each regional volume, and the latent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
from numpy.typing import NDArray

from brainscm.parallel import CPU
from brainscm.regions import LATENT
from brainscm.scm.design import Array
from brainscm.scm.image import LEAST_SQUARES, fit_image
from brainscm.scm.model import Scm
from brainscm.scm.robust import FITTED
from brainscm.scm.sample import Rows

COLUMNS = [
    "scan",
    "participant",
    "split",
    "measure",
    "value",
    "expected",
    "z",
    "centile",
    "centile_low",
    "centile_high",
]

Order = NDArray[np.intp]
Mask = NDArray[np.bool_]


def places(
    scm: Scm, table: pd.DataFrame, latents: Rows, regions: Sequence[str], device: torch.device = CPU
) -> pd.DataFrame:
    """Each scan's place among the training participants, who are expected to differ by their covariates.

    A volume is regressed on the image's columns but those of nodes that are volumes themselves. z is the distance from
    what is expected in standard deviations of a new participant, referred to Student's t. A training participant is
    left out of its own expectation, with all of its scans. The centile's 95 % interval is what the regression leaves
    uncertain about the expected volume. `latent` is how unusual the whole residual is: the mean square of the latent's
    standardised residuals, by its logarithm; it has no expected value, and its interval is what the draws of the
    coefficients leave uncertain about the residual.

    Args:
        scm: the fitted model.
        table: row i describes `latents[i]`: scan, participant, split, the nodes' columns, and `<region>_ml`.
        regions: names of the regions; one without a column is left out.
        device: where a least-squares fit is made, if the model is another.

    Returns:
        One row a scan that can be used and measure; see `COLUMNS`. Volumes in ml, centiles from 0 to 100.
    """
    at = np.flatnonzero((scm.problems(table) == "").to_numpy())
    rows = table.iloc[at]
    trained = rows["scan"].isin(scm.training["scan"]).to_numpy()
    x = scm.design_matrix(rows)
    found = [_of_latent(scm, rows, x, trained, latents, at, device)]
    measured = {node for node, column in scm.covariates.columns.items() if column.endswith("_ml")}
    kept = [i for i, nodes in enumerate(scm.design.nodes) if not nodes & measured]
    for region in regions:
        if f"{region}_ml" in rows:
            found.append(_of_volume(rows, x[:, kept], trained, region))
    found = [each for each in found if len(each)]
    return pd.concat(found)[COLUMNS] if found else pd.DataFrame(columns=COLUMNS)


def _of_volume(rows: pd.DataFrame, x: Array, trained: Mask, region: str) -> pd.DataFrame:
    volume = rows[f"{region}_ml"].to_numpy(dtype=np.float64)
    used = trained & np.isfinite(volume)
    n, p = int(used.sum()), x.shape[1]
    if n <= p + 1 or np.linalg.matrix_rank(x[used]) < p:
        return pd.DataFrame(columns=COLUMNS)
    q, r = np.linalg.qr(x[used])
    b = np.linalg.solve(r, q.T @ volume[used])
    expected, spread = x @ b, np.square(np.linalg.solve(r.T, x.T)).sum(axis=0)  # h of each scan
    rss = float(np.square(volume[used] - expected[used]).sum())
    variance, freedom = np.full(len(rows), rss / (n - p)), np.full(len(rows), float(n - p))
    places_of_used = np.flatnonzero(used)
    for own, inverse in _left_out(q, rows["participant"].to_numpy()[used]):
        scans, residual = places_of_used[own], volume[used][own] - expected[used][own]
        alone = inverse @ residual
        freedom[scans] = n - p - len(own)
        variance[scans] = max(rss - residual @ alone, 0.0) / max(n - p - len(own), 1)
        expected[scans], spread[scans] = volume[scans] - alone, np.diag(inverse) - 1
    distance, sd, t = volume - expected, np.sqrt(variance), scipy.stats.t
    half = t.ppf(0.975, freedom) * np.sqrt(spread) * sd
    with np.errstate(divide="ignore", invalid="ignore"):
        z = distance / (sd * np.sqrt(1 + spread))
        ends = [100 * t.cdf((distance + sign * half) / sd, freedom) for sign in (-1, 1)]
    result = rows[["scan", "participant", "split"]].assign(measure=region, value=volume, expected=expected, z=z)
    result = result.assign(centile=100 * t.cdf(z, freedom), centile_low=ends[0], centile_high=ends[1])
    return result[np.isfinite(volume) & np.isfinite(z)]


def _left_out(q: Array, participants: NDArray[Any]) -> Iterator[tuple[Order, Array]]:
    """Each participant's scans and (I - H_gg)⁻¹, which makes residuals those of a fit without them; NaN if singular."""
    for participant in np.unique(participants):
        own = np.flatnonzero(participants == participant)
        left = np.eye(len(own)) - q[own] @ q[own].T
        singular = np.linalg.eigvalsh(left)[0] <= FITTED
        yield own, np.asarray(np.full(left.shape, np.nan) if singular else np.linalg.inv(left), dtype=np.float64)


def _of_latent(
    scm: Scm, rows: pd.DataFrame, x: Array, trained: Mask, latents: Rows, at: Order, device: torch.device
) -> pd.DataFrame:
    model = scm.image
    if model.estimator != LEAST_SQUARES:
        place = {scan: int(row) for scan, row in zip(rows["scan"], at, strict=True)}
        sample = scm.sample(latents, [place[scan] for scan in scm.training["scan"]])
        model = fit_image(sample, seed=scm.seed, device=device, drawn=False)
    varies = model.residual_variance > 0
    if not varies.any():
        return pd.DataFrame(columns=COLUMNS)
    leverage = model.leverage(x)
    # A residual of a training scan has the variance s²(1 - h), that of another s²(1 + h).
    inflation = np.where(trained, np.maximum(1 - leverage, FITTED), 1 + leverage)
    variance = model.residual_variance[varies]
    values = np.empty((1 + scm.draws, len(at)))  # by the fit, and by each draw about it
    for i, row in enumerate(at):
        z, own = np.asarray(latents[int(row)], dtype=np.float64)[varies], x[[i]]
        shown = scm.image.predict(own)[0][varies]
        values[0, i] = (np.square(z - model.predict(own)[0][varies]) / variance).mean()
        for k in range(scm.draws):
            values[1 + k, i] = (np.square(z - shown - scm.image.deviate(own, k)[0][varies]) / variance).mean()
    value = values[0] / inflation
    logs, participants = np.log(np.maximum(value, np.finfo(float).tiny)), rows["participant"].to_numpy()
    error = np.log(np.maximum(values[1:], np.finfo(float).tiny)).std(axis=0, ddof=1)
    half = scipy.stats.t.ppf(0.975, scm.draws - 1) * error
    records = []
    for i, (scan, participant, split) in enumerate(rows[["scan", "participant", "split"]].itertuples(index=False)):
        others = logs[trained & (participants != participant)]
        if len(others) < 3:
            continue
        sd = others.std(ddof=1) * np.sqrt(1 + 1 / len(others))
        low, z, high = (logs[i] - others.mean() + np.array([-1, 0, 1]) * half[i]) / sd
        told = zip(
            ("centile_low", "centile", "centile_high"),
            100 * scipy.stats.t.cdf([low, z, high], len(others) - 1),
            strict=True,
        )
        names = {"scan": scan, "participant": participant, "split": split, "measure": LATENT}
        records.append({**names, "value": value[i], "z": z, **dict(told)})
    return pd.DataFrame(records, columns=COLUMNS)
