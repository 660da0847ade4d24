"""What a statistician looks at before believing a fit: who was used, collinearity, conditioning, counts, leverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.stats
import torch

from brainscm.parallel import CPU
from brainscm.regions import LATENT
from brainscm.scm.collinearity import collinearity
from brainscm.scm.design import Array
from brainscm.scm.error_rates import FLIPPED_SKEWED, ROBUST_SKEWED
from brainscm.scm.exogenous import association_warning, associations
from brainscm.scm.image import LEAST_SQUARES, fit_image
from brainscm.scm.inference import robust_errors_of, wald_test
from brainscm.scm.model import SILENT, Scm, no_cause
from brainscm.scm.robust import FITTED
from brainscm.scm.sample import Rows, Sample, to_device
from brainscm.scm.weighting import row_squares

FEW_PARTICIPANTS = 10
STRONG_SKEWNESS = 1.0  # that of exponential residuals, on which error rates were measured, is 2


def diagnose(scm: Scm, offered: int) -> pd.DataFrame:
    """List diagnostics in long form: `check`, `item`, `value`, and a `warning` in words where there is cause.

    Args:
        scm: the fitted model.
        offered: number of training scans before those with missing covariates were left out.
    """
    rows: list[tuple[str, str, float, str]] = []
    used, participants = len(scm.training), scm.training["participant"].nunique()
    left_out = f"{offered - used} training scans lack a covariate and were left out" if offered > used else ""
    rows.append(("training_scans", "used", used, left_out))
    remedy = "standard errors are clustered by participant"
    if scm.options.image.repeated == "random_intercept":
        remedy = "each has a random intercept"
    repeated = f"several scans a participant: {remedy}" if participants < used else ""
    rows.append(("training_participants", "used", participants, repeated))
    rows.append(("degrees_of_freedom", "image", scm.image.degrees_of_freedom, ""))
    x = scm.design_matrix(scm.training)
    for name, node_ in scm.graph.formulas.items():
        lacking = int(scm.training[scm.covariates.columns[name]].isna().sum())
        if node_ is not None and lacking:
            how = f" {len(scm.imputed)} times, and estimates are pooled" if scm.imputed else ""
            rows.append(("imputed_scans", name, lacking, f"{lacking} training scans lack {name}; it is imputed{how}"))
    if scm.image.penalty:
        rows.append(("ridge_penalty", "image", scm.image.penalty, ""))
    if scm.image.sides:
        rows.append(("sides_differ", "image", float(scm.image.sides == "differ"), ""))
    for term, share in zip(scm.image.apart, scm.image.apart_share, strict=True):
        rows.append(("mediator_apart", term, share, no_cause(term, share)))
    for name in scm.graph.image.names:
        if name not in scm.image.apart and not scm.moves_image([name]):
            rows.append(("no_effect", name, 1.0, f"{SILENT.format(name)}, so that changing it alone moves nothing"))
    rows += _weights(scm)
    rows.append(("max_leverage", "image", scm.image.max_leverage, _leverage_warning(scm, x)))
    rows += collinearity("image", scm.design, x)
    for name, node in scm.nodes.items():
        rows += collinearity(name, node.design, node.design.matrix(scm.training_values))
        rows.append(("node_fit", name, 1.0 if not node.note else 0.0, node.note))
    for name, levels in scm.covariates.levels.items():
        for level in levels or ():
            count = scm.training["participant"][(scm.training_values[name] == level).to_numpy()].nunique()
            few = f"only {count} training participants have {name} {level}" if count < FEW_PARTICIPANTS else ""
            rows.append(("participants_in_level", f"{name}={level}", count, few))
        if levels is None:
            low, high = scm.covariates.ranges[name]
            rows += [("training_minimum", name, low, ""), ("training_maximum", name, high, "")]
    first = scm.training_values[~scm.training["participant"].duplicated().to_numpy()]
    for a, b, p in associations(first, scm.graph.exogenous):
        rows.append(("exogenous_association_p", f"{a}, {b}", p, association_warning(a, b, p)))
    for contrast, ends in scm.options.contrasts.items():
        for target, values in ends.items():
            if scm.covariates.levels[target] is None:
                words = [scm.covariates.outside(target, float(value)) for value in values]
                rows += [("contrast_range", contrast, float(v), w) for v, w in zip(values, words, strict=True) if w]
    return pd.DataFrame(
        [(check, item, value, warning or None) for check, item, value, warning in rows],
        columns=["check", "item", "value", "warning"],
    )


def held_out(scm: Scm, table: pd.DataFrame, latents: Rows, device: torch.device = CPU) -> pd.DataFrame:
    """How well the image node predicts participants that it was not fitted on: rows like those of `diagnose`.

    `held_out_r2` is 1 - |z - x·B|² / |z - mean|² summed over the validation split's scans and the latent, the mean
    being that of the training scans; of a refined estimator and of least squares on the same scans.

    Args:
        scm: the fitted model.
        table, latents, device: as `Scm.fit` was given them. The validation split is read for this comparison alone.
    """
    at = np.flatnonzero((table["split"] == "validation").to_numpy())
    at = at[(scm.problems(table.iloc[at]) == "").to_numpy()]
    columns = ["check", "item", "value", "warning"]
    if not len(at):
        return pd.DataFrame(columns=columns)
    models = {scm.image.estimator: scm.image}
    place = {scan: row for row, scan in enumerate(table["scan"])}
    if scm.image.estimator != LEAST_SQUARES:
        sample = scm.sample(latents, [place[scan] for scan in scm.training["scan"]])
        models[LEAST_SQUARES] = fit_image(sample, seed=scm.seed, device=device, drawn=False)
    x = scm.design_matrix(table.iloc[at])
    mean = scm.image.mean
    errors, total = dict.fromkeys(models, 0.0), 0.0
    for row, index in zip(x, at, strict=True):
        z = np.asarray(latents[int(index)], dtype=np.float64)
        total += float(np.square(z - mean).sum())
        for name, model in models.items():
            errors[name] += float(np.square(z - model.predict(row[None])[0]).sum())
    gain = errors[LEAST_SQUARES] - errors[scm.image.estimator]
    rows = []
    for name, error in errors.items():
        words = ""
        if name != LEAST_SQUARES:
            better = "better" if gain > 0 else "no better"
            scans = "1 held-out scan" if len(at) == 1 else f"{len(at)} held-out scans"
            words = f"{name} predicts {scans} {better} than least squares"
        rows.append(("held_out_r2", name, 1 - error / total, words or None))
    return pd.DataFrame(rows, columns=columns)


def residual_variances(scm: Scm, sample: Sample, device: torch.device = CPU) -> pd.DataFrame:
    """Does the residual variance depend on a parent of the image? Rows like those of `diagnose`, with p as the value.

    The logarithm of each scan's summed squares of residuals, over 1 - leverage, is regressed on the image's design; p
    is of all columns of the node, with errors as those of the tests, clustered by participant where scans are.

    Args:
        sample: as `Scm.sample` gives it, weighed as in the fit.
    """
    q, x = np.linalg.qr(sample.x)[0], scm.design_matrix(scm.training)
    free = 1 - np.square(q).sum(axis=1)
    used = free > FITTED  # a scan that alone decides a coefficient has no residual
    squares = np.log(np.maximum(row_squares(q, sample, device)[used] / free[used], np.finfo(float).tiny))
    log = Sample.of(x[used], sample.columns, squares[:, None], np.asarray(sample.participants)[used].tolist())
    columns = ["check", "item", "value", "warning"]
    if np.linalg.matrix_rank(x[used]) < x.shape[1] or used.sum() <= x.shape[1]:
        return pd.DataFrame(columns=columns)
    model, names, rows = fit_image(log, seed=scm.seed, drawn=False), scm.graph.image.names, []
    held = scm.options.image.errors == "hc3" or sample.is_clustered
    for name in names:
        own = np.eye(x.shape[1])[[i for i, nodes in enumerate(scm.design.nodes) if name in nodes]]
        p = float(wald_test(model, own, robust_errors_of("ordinary", model, own, log)[0]).p[0])
        warning = ""
        if p < 0.05 / len(names) and not held:
            warning = (
                f"the residual variance depends on {name} (p = {p:.2g}), so that p-values of the contrasts, also "
                "family-wise ones, may be far too small; write scm.image.errors: hc3"
            )
        rows.append(("residual_variance_p", name, p, warning or None))
    return pd.DataFrame(rows, columns=columns)


def residual_skewness(scm: Scm, left: pd.DataFrame, sample: Sample, device: torch.device = CPU) -> pd.DataFrame:
    """How skewed the residuals are, of the latent (the median size) and of each region: rows like those of `diagnose`.

    A warning stands where robust errors, whose degrees of freedom take residuals for symmetric, meet strong skewness.

    Args:
        left: what `residuals` gave. sample: as `Scm.sample` gives it, weighed as in the fit.
    """
    found = [("latent", float(np.nanmedian(np.abs(_skewness(sample, device)))), 0.0)]
    of_image = left[(left["model"] == "image") & (left["measure"] != LATENT)].dropna(subset=["residual"])
    for region, own in of_image.groupby("measure", sort=False):
        u = own["residual"].to_numpy(dtype=np.float64)
        found.append((str(region), float(scipy.stats.skew(u)), np.sqrt(6 / len(u))))
    flipped = scm.options.image.errors == "hc3"
    rows = []
    for item, value, error in found:
        words = ""
        if (flipped or sample.is_clustered) and abs(value) > STRONG_SKEWNESS + 2 * error:
            words = (
                f"the residuals of {item} are strongly skewed ({value:.2g}): where few participants decide a contrast, "
                f"tests with robust errors find an effect in up to {ROBUST_SKEWED} % of cases where they say 5 %"
            ) + (f", and family-wise ones in up to {FLIPPED_SKEWED} %" if flipped else "")
        rows.append(("residual_skewness", item, value, words or None))
    return pd.DataFrame(rows, columns=["check", "item", "value", "warning"])


def _skewness(sample: Sample, device: torch.device) -> Array:
    """Of the residuals at each latent, flat; NaN where it does not vary."""
    q = to_device(np.linalg.qr(sample.x)[0], device)
    qtz = q.new_zeros((q.shape[1], sample.first().size))
    squares, cubes = torch.zeros_like(qtz[0]), torch.zeros_like(qtz[0])
    for block, tile, z in sample.blocks(device):
        qtz[:, tile] += q[block].T @ z
    for block, tile, z in sample.blocks(device):
        z -= q[block] @ qtz[:, tile]
        squares[tile] += z.square().sum(dim=0)
        cubes[tile] += z.pow_(3).sum(dim=0)
    return (cubes / squares.pow(1.5)).cpu().numpy() * np.sqrt(len(q))


def _weights(scm: Scm) -> list[tuple[str, str, float, str]]:
    """The variances that weigh the training scans, where they do."""
    image, options = scm.image, scm.options.image
    if options.variance_by is not None:
        groups = scm.training_values[options.variance_by].astype(str)
        variance = (1 / image.row_scale**2)[~groups.duplicated().to_numpy()]
        named = zip(groups[~groups.duplicated()], variance, strict=True)
        return [("residual_variance_ratio", f"{options.variance_by}={group}", float(v), "") for group, v in named]
    if image.row_demean.any():
        scans = scm.training["participant"].map(scm.training["participant"].value_counts()).to_numpy()
        repeated = int(np.argmax(image.row_demean))
        ratio = ((1 - image.row_demean[repeated]) ** -2 - 1) / scans[repeated]  # σ_a² / σ_e²
        return [("within_participant_correlation", "image", ratio / (1 + ratio), "")]
    return []


def _leverage_warning(scm: Scm, x: Array) -> str:
    leverage = scm.image.leverage(x)
    worst = int(np.argmax(leverage))
    if leverage[worst] < 0.9:
        return ""
    return f"{scm.training['scan'].iloc[worst]} alone decides some coefficient (leverage {leverage[worst]:.2g})"
