"""Formulas against simpler ones: what the data say for each term, in the training scans and in held-out ones."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.stats
import torch
from numpy.typing import NDArray

from brainscm.errors import ConfigError
from brainscm.parallel import CPU
from brainscm.scm.design import Array, Design
from brainscm.scm.families import FAMILIES, Fit
from brainscm.scm.formula import BASES, OFFSET, Formula, parse_formula
from brainscm.scm.image import fit_image
from brainscm.scm.model import Scm
from brainscm.scm.nodes import NodeModel, fit_family
from brainscm.scm.sample import Rows

COLUMNS = [
    "node", "formula", "simpler", "scans", "parameters", "log_likelihood", "aic", "statistic", "value", "df1", "df2",
    "p", "held_out_scans", "held_out_log_likelihood", "held_out_r2", "reason",
]  # fmt: skip
CURVES = frozenset(BASES) - {"cc"}  # those that contain the straight line


def compare_formulas(scm: Scm, table: pd.DataFrame, latents: Rows, device: torch.device = CPU) -> pd.DataFrame:
    """Each formula, and those that are simpler by one term or by a straight line in place of a curve.

    Nodes are fitted to the first scan of each participant, so that likelihoods are of independent scans. The image is
    fitted by least squares as `scm` was, and its log-likelihood and AIC are means over the latent.

    Args:
        scm: the fitted model.
        table, latents, device: as `Scm.fit` was given them; of the split `validation` the held-out columns are.

    Returns:
        One row a formula: `simpler` ("" of the declared one), `parameters` (estimated ones, with a dispersion),
        `log_likelihood`, `aic`; the test of the simpler formula against the declared one as in `implications`
        (`statistic`, `value`, `df1`, `df2`, `p`); `held_out_log_likelihood` (mean of a scan) of a node, or
        `held_out_r2` of the image; `reason` why it could not be compared.
    """
    at = np.flatnonzero((table["split"] == "validation").to_numpy())
    at = at[(scm.problems(table.iloc[at]) == "").to_numpy()]
    rows: list[dict[str, object]] = []
    for name, node in scm.nodes.items():
        rows += _of_node(scm, node, held_out=_observed(scm, table.iloc[at], (name, *scm.graph.parents(name))))
    return pd.DataFrame(rows + _of_image(scm, table, latents, at, device), columns=COLUMNS)


def simpler(formula: Formula) -> dict[str, str]:
    """Formulas that are nested in this one, by what they lack: a term, but where it is part of another, or a curve."""
    terms = {str(term): [factor.expr for factor in term.factors] for term in formula.terms if str(term) != "1"}
    found = {}
    for term, factors in terms.items():
        is_part = any(set(factors) < set(others) for others in terms.values())
        if not is_part and not term.startswith(f"{OFFSET}("):
            found[f"without {term}"] = " + ".join(["1", *(other for other in terms if other != term)])
    for curve in dict.fromkeys(factor for factors in terms.values() for factor in factors):
        call = ast.parse(curve, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CURVES:
            line = ast.unparse(call.args[0])
            line = line if isinstance(call.args[0], ast.Name | ast.Call) else f"I({line})"
            straight = [":".join(line if each == curve else each for each in factors) for factors in terms.values()]
            found[f"a straight line for {curve}"] = " + ".join(["1", *straight])
    return found


@dataclass(frozen=True)
class FittedFormula:
    """A node's model by some formula, on independent scans.

    Attributes:
        dispersion: of the largest likelihood. log_likelihood: that.
    """

    family: str
    design: Design
    fit: Fit
    scans: int
    deviance: float
    dispersion: float
    log_likelihood: float

    @property
    def parameters(self) -> int:
        return self.fit.estimated + FAMILIES[self.family].estimates_dispersion

    def tested_against(self, larger: FittedFormula) -> dict[str, object]:
        """An F test of the deviances where the family has a dispersion, else the likelihood ratio's χ².

        Raises:
            ConfigError: the two are the same model.
        """
        df1, df2 = larger.fit.estimated - self.fit.estimated, self.scans - larger.fit.estimated
        if df1 < 1:
            raise ConfigError("it is the same model")
        gain = max(self.deviance - larger.deviance, 0.0)
        if not FAMILIES[self.family].has_dispersion:
            return {"statistic": "chi2", "value": gain, "df1": df1, "p": float(scipy.stats.chi2.sf(gain, df1))}
        value = gain / df1 / max(larger.deviance / df2, np.finfo(float).tiny)
        p = float(scipy.stats.f.sf(value, df1, df2))
        return {"statistic": "F", "value": value, "df1": df1, "df2": df2, "p": p}


def first_scans(scm: Scm, nodes: Collection[str]) -> pd.DataFrame:
    """Node values of the first training scan of each participant that has all of these nodes."""
    values = scm.training_values[~scm.training["participant"].duplicated().to_numpy()]
    return values[_has(scm, scm.training.loc[values.index], nodes)]


def fit_formula(scm: Scm, node: NodeModel, text: str, values: pd.DataFrame) -> FittedFormula:
    """Fit a node anew by another formula.

    Raises:
        ConfigError: it cannot be fitted to these scans.
    """
    where = f"'{text}' of {node.name}"
    design = Design.learn(parse_formula(text, where), values, where)
    x, y = design.matrix(values), node.numbers(values)
    fit = fit_family(node.family, design, node.levels, x, y, scm.training.loc[values.index, "participant"])
    if not np.isfinite(fit.parameters).all() or (node.levels is not None and fit.note):
        raise ConfigError("the models cannot be told apart on so few participants")
    family = FAMILIES[node.family]
    dispersion = family.likeliest_dispersion(x, y, fit.parameters)
    return FittedFormula(
        family=node.family,
        design=design,
        fit=fit,
        scans=len(y),
        deviance=family.deviance(x, y, fit.parameters),
        dispersion=dispersion,
        log_likelihood=float(family.log_likelihood(x, y, fit.parameters, dispersion).sum()),
    )


def _of_node(scm: Scm, node: NodeModel, held_out: pd.DataFrame) -> list[dict[str, object]]:
    text, rows = node.design.formula.text, []
    values = first_scans(scm, (node.name, *node.design.formula.names))
    declared: FittedFormula | None = None
    for lacks, formula in {"": text, **simpler(node.design.formula)}.items():
        row: dict[str, object] = {"node": node.name, "formula": formula, "simpler": lacks or None}
        try:
            if lacks and declared is None:
                raise ConfigError("the declared formula cannot be fitted to one scan of each participant")
            found = fit_formula(scm, node, formula, values)
            row |= {
                "scans": found.scans,
                "parameters": found.parameters,
                "log_likelihood": found.log_likelihood,
                "aic": 2 * (found.parameters - found.log_likelihood),
                "held_out_scans": len(held_out),
            }
            if len(held_out):
                x, y = found.design.matrix(held_out), node.numbers(held_out)
                each = FAMILIES[node.family].log_likelihood(x, y, found.fit.parameters, found.dispersion)
                row["held_out_log_likelihood"] = float(each.mean())
            if declared is None:
                declared = found
            else:
                row |= found.tested_against(declared)
        except ConfigError as error:
            row["reason"] = str(error)
        rows.append(row)
    return rows


def _of_image(
    scm: Scm, table: pd.DataFrame, latents: Rows, at: NDArray[np.intp], device: torch.device
) -> list[dict[str, object]]:
    place, rows = {scan: row for row, scan in enumerate(table["scan"])}, []
    sample = scm.sample(latents, [place[scan] for scan in scm.training["scan"]])
    held_out, mean = scm.values(table.iloc[at]), scm.image.mean
    for lacks, formula in {"": scm.graph.image.text, **simpler(scm.graph.image)}.items():
        row: dict[str, object] = {"node": "image", "formula": formula, "simpler": lacks or None}
        try:
            design = Design.learn(parse_formula(formula, "the image"), scm.training_values, "the image")
        except ConfigError as error:
            rows.append(row | {"reason": str(error)})
            continue
        x = scm.weighted(design.matrix(scm.training_values))
        image = fit_image(
            replace(sample, x=x, columns=design.columns, imputed=()),
            seed=scm.seed,
            device=device,
            drawn=False,
        )
        n, varies = len(x), image.residual_variance.reshape(-1) > 0
        squares = image.residual_variance.reshape(-1)[varies] * image.degrees_of_freedom / n
        likelihood = float(-n / 2 * (np.log(2 * np.pi * squares) + 1).mean()) if varies.any() else np.nan
        row |= {
            "scans": n,
            "parameters": x.shape[1] + 1,
            "log_likelihood": likelihood,
            "aic": 2 * (x.shape[1] + 1 - likelihood),
            "held_out_scans": len(at),
        }
        if len(at):
            errors = total = 0.0
            for of_scan, index in zip(design.matrix(held_out), at, strict=True):
                z = np.asarray(latents[int(index)], dtype=np.float64)
                errors += float(np.square(z - image.predict(of_scan[None])[0]).sum())
                total += float(np.square(z - mean).sum())
            row["held_out_r2"] = 1 - errors / total
        rows.append(row)
    return rows


def _observed(scm: Scm, table: pd.DataFrame, nodes: Collection[str]) -> pd.DataFrame:
    """Node values of the scans of a table that have all of these nodes."""
    return scm.values(table)[_has(scm, table, nodes)]


def _has(scm: Scm, table: pd.DataFrame, nodes: Collection[str]) -> Array:
    columns = [scm.covariates.columns[node] for node in nodes]
    return np.asarray(table[columns].notna().all(axis=1))
