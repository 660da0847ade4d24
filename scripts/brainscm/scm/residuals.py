"""What the fit leaves of each scan, and how far each participant moves the fit; do the residuals fit their family?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray

from brainscm.parallel import CPU
from brainscm.regions import LATENT
from brainscm.scm.comparison import first_scans
from brainscm.scm.design import Array
from brainscm.scm.families import FAMILIES
from brainscm.scm.image import LEAST_SQUARES, fit_image
from brainscm.scm.model import Scm
from brainscm.scm.nodes import NodeModel, fit_family, noise_generator
from brainscm.scm.robust import FITTED
from brainscm.scm.sample import Sample

COLUMNS = [
    "scan", "participant", "model", "measure", "value", "fitted", "residual", "quantile_residual", "leverage",
    "cooks_distance",
]  # fmt: skip
NOT_NORMAL = 0.001
INFLUENTIAL = 1.0
MOST_TESTED = 5000  # residuals that the Shapiro-Wilk test is made for

Working = tuple[Array, Array]  # rows (n, m, k) and residuals (n, m) of m numbers a scan


def residuals(
    scm: Scm, table: pd.DataFrame, regions: Sequence[str], sample: Sample, device: torch.device = CPU
) -> pd.DataFrame:
    """Residuals and influence, of each node, of the regional volumes by the image's formula, and of the latent.

    Args:
        scm: the fitted model.
        table: scan, and the columns `<region>_ml`.
        regions: names of the regions; one without a column is left out.
        sample: the training scans, as `Scm.sample` gives them.
        device: where a least-squares fit of the latent is made, if the model is another.

    Returns:
        One row a training scan, model (a node, or `image`) and measure (the node, a region, or `latent`): `value`,
        `fitted` and `residual` of numbers; `quantile_residual`, standard normal if the model is right (Dunn & Smyth,
        1996; of counts and levels it is drawn between the ends of the value's probability); `leverage` of the scan;
        `cooks_distance` of the participant, all scans together.
    """
    volumes = table.set_index("scan").loc[scm.training["scan"]].reset_index()
    tables = [_of_node(scm, node) for node in scm.nodes.values()]
    x = scm.design_matrix(scm.training)
    for region in regions:
        if f"{region}_ml" in volumes:
            volume = volumes[f"{region}_ml"].to_numpy(dtype=np.float64)
            tables.append(_of_volume(scm, region, volume, x))
    tables.append(_of_latent(scm, sample, device))
    return pd.concat([each for each in tables if len(each)])[COLUMNS]


def residual_checks(scm: Scm, found: pd.DataFrame) -> pd.DataFrame:
    """Whether residuals fit their family, and who moves the fit: rows like those of `diagnose`.

    `residual_normality_p` is of the Shapiro-Wilk test of a node's quantile residuals, of one scan a participant;
    `proportional_odds_p` of an ordered node see `proportional_odds`; `max_cooks_distance` of all.
    """
    rows: list[tuple[str, str, float, str]] = []
    first = found[~found.duplicated(["participant", "model", "measure"])]
    for name, node in scm.nodes.items():
        own = first.loc[first["model"] == name, "quantile_residual"].dropna()
        if node.levels is None and 3 <= len(own) <= MOST_TESTED:
            p = float(scipy.stats.shapiro(own).pvalue)
            words = (
                f"the residuals of {name} are not those of a {node.family} node (p = {p:.2g}), so that its intervals "
                "may be off; look at quantile_residual in residuals.tsv, and try another family"
            )
            rows.append(("residual_normality_p", name, p, words if p < NOT_NORMAL else ""))
        if node.family == "ordered" and len(node.levels or ()) > 2:
            p = proportional_odds(scm, name)
            words = f"the odds of {name} are not proportional (p = {p:.2g}); write family: multinomial"
            rows.append(("proportional_odds_p", name, p, words if p < NOT_NORMAL else ""))
    for (model, measure), each in found.groupby(["model", "measure"], sort=False):
        largest = float(each["cooks_distance"].max())
        words = (
            f"one participant alone moves the coefficients of {measure} ({model}) by much: Cook's distance "
            f"{largest:.2g}; residuals.tsv says which"
        )
        item = str(measure) if model == measure else f"{model}: {measure}"
        rows.append(("max_cooks_distance", item, largest, words if largest > INFLUENTIAL else ""))
    return pd.DataFrame(
        [(check, item, value, warning or None) for check, item, value, warning in rows],
        columns=["check", "item", "value", "warning"],
    )


def proportional_odds(scm: Scm, name: str) -> float:
    """p of equal slopes at all thresholds of an ordered node, by Brant's (1990) test, of one scan a participant.

    A logistic regression is fitted at each threshold; the Wald statistic of the differences of their slopes is χ², its
    covariance (X'W_j X)⁻¹ X'W_jl X (X'W_l X)⁻¹ with W_jl = P(y ≥ l)(1 - P(y ≥ j)) for j ≤ l. NaN where a threshold is
    separated.
    """
    node = scm.nodes[name]
    values = first_scans(scm, (name, *node.design.formula.names))
    x, y, participants = node.design.matrix(values), node.numbers(values), values.index.to_series()
    free, count = ~node.design.is_offset, len(node.levels or ()) - 1
    slopes, chances, breads = [], [], []
    for threshold in range(1, count + 1):
        above = (y >= threshold).astype(int)
        if above.min() == above.max():
            return float("nan")
        fit = fit_family("binomial", node.design, ("below", "above"), x, above, participants)
        if fit.note or not np.isfinite(fit.parameters).all():
            return float("nan")
        slopes.append(fit.parameters[free][1:])
        chances.append(scipy.special.expit(x @ fit.parameters))
        breads.append(fit.covariance[np.ix_(free, free)])
    p = len(slopes[0])
    if not p or count < 2:
        return float("nan")
    covariance = np.zeros((count * p, count * p))
    for j in range(count):
        for k in range(j, count):
            weights = chances[k] * (1 - chances[j])
            block = (breads[j] @ (x[:, free].T * weights) @ x[:, free] @ breads[k])[1:, 1:]
            covariance[j * p : (j + 1) * p, k * p : (k + 1) * p] = block
            covariance[k * p : (k + 1) * p, j * p : (j + 1) * p] = block.T
    differences = np.kron(np.column_stack([-np.ones(count - 1), np.eye(count - 1)]), np.eye(p))
    gap = differences @ np.concatenate(slopes)
    value = float(gap @ np.linalg.solve(differences @ covariance @ differences.T, gap))
    return float(scipy.stats.chi2.sf(value, len(gap)))


def influence(working: Working, participants: NDArray[Any]) -> tuple[Array, Array]:
    """Leverage of each scan, (n,), and k times the variance times Cook's distance of its participant, (n,).

    Without participant g the coefficients move by R⁻¹(I - Q_g'Q_g)⁻¹Q_g'r_g, for rows QR of the last step of the fit
    and its residuals r. NaN where a participant alone decides one of them.
    """
    rows, residual = working
    n, m, k = rows.shape
    q = np.linalg.qr(rows.reshape(-1, k))[0].reshape(n, m, k)
    codes = np.unique(participants, return_inverse=True)[1]
    own, score = np.zeros((codes.max() + 1, k, k)), np.zeros((codes.max() + 1, k))
    np.add.at(own, codes, np.einsum("nmk,nml->nkl", q, q))
    np.add.at(score, codes, np.einsum("nmk,nm->nk", q, residual))
    return np.square(q).sum(axis=(1, 2)), np.square(_without(own, score[..., None])).sum(axis=(1, 2))[codes]


def _without(own: Array, score: Array) -> Array:
    """(I - Q_g'Q_g)⁻¹Q_g'r_g of each participant, (groups, k, ...); NaN where one decides alone."""
    values, vectors = np.linalg.eigh(np.eye(own.shape[1]) - own)
    free = values > FITTED
    turned = np.where(free, 1 / np.where(free, values, 1), np.nan)[..., None] * (vectors.swapaxes(1, 2) @ score)
    return np.asarray(turned)


def _of_node(scm: Scm, node: NodeModel) -> pd.DataFrame:
    rows = scm.complete
    values, family = scm.training_values.loc[rows.index], FAMILIES[node.family]
    x, y = node.design.matrix(values), node.numbers(values)
    below, to = family.distribution(x, y, node.parameters, node.dispersion)
    uniform = [noise_generator(scm.seed, f"residual/{node.name}", scan).uniform() for scan in rows["scan"]]
    drawn = below + (to - below) * np.array(uniform)
    working = family.working(x, y, node.parameters)
    free = np.diag(node.covariance)[: working[0].shape[2]] > 0
    leverage, moved = influence((working[0][..., free], working[1]), rows["participant"].to_numpy())
    fitted = family.mean(x, node.parameters)
    return _table(
        rows,
        node.name,
        node.name,
        value=values[node.name].astype(object).to_numpy(),
        fitted=fitted,
        residual=y - fitted,
        quantile_residual=scipy.special.ndtri(np.clip(drawn, 1e-15, 1 - 1e-15)),
        leverage=leverage,
        cooks_distance=moved / free.sum() / (node.dispersion if family.estimates_dispersion else 1.0),
    )


def _of_volume(scm: Scm, region: str, volume: Array, x: Array) -> pd.DataFrame:
    used = np.isfinite(volume)
    rows, x, y = scm.training[used], x[used], volume[used]
    if len(y) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
        return pd.DataFrame(columns=COLUMNS)
    fitted = x @ np.linalg.lstsq(x, y)[0]
    variance = np.square(y - fitted).sum() / (len(y) - x.shape[1])
    leverage, moved = influence((x[:, None], (y - fitted)[:, None]), rows["participant"].to_numpy())
    return _table(
        rows,
        "image",
        region,
        value=y,
        fitted=fitted,
        residual=y - fitted,
        quantile_residual=(y - fitted) / np.sqrt(variance),
        leverage=leverage,
        cooks_distance=moved / x.shape[1] / variance,
    )


def _of_latent(scm: Scm, sample: Sample, device: torch.device) -> pd.DataFrame:
    """Leverage, and Cook's distance with the summed squares over the latent in place of one residual's."""
    image = scm.image
    if image.estimator != LEAST_SQUARES:
        image = fit_image(sample, seed=scm.seed, device=device, drawn=False)
    q = np.linalg.qr(sample.x)[0]
    participants = np.asarray(sample.participants)
    distance = np.full(len(q), np.nan)
    variance = float(image.residual_variance.sum())
    for participant in np.unique(participants) if variance > 0 else ():
        own = np.flatnonzero(participants == participant)
        z = np.stack([np.asarray(sample.latents[sample.rows[i]], dtype=np.float64) for i in own])
        score = q[own].T @ (z - image.predict(sample.x[own])).reshape(len(own), -1)
        moved = np.square(_without((q[own].T @ q[own])[None], score[None])).sum()
        distance[own] = moved / q.shape[1] / variance
    return _table(
        scm.training, "image", LATENT, leverage=np.square(q).sum(axis=1), cooks_distance=distance, value=np.nan
    )


def _table(rows: pd.DataFrame, model: str, measure: str, **columns: Any) -> pd.DataFrame:
    told = rows[["scan", "participant"]].assign(model=model, measure=measure, **columns)
    return told.reindex(columns=COLUMNS)
