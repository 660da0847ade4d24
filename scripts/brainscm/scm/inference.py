"""Tests of named contrasts over the whole latent: t, F, p, partial R², false discovery rates and family-wise p."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy.interpolate
import scipy.special
import torch

from brainscm.parallel import CPU
from brainscm.scm.design import Array
from brainscm.scm.image import LEAST_SQUARES, ImageModel, cluster_covariance, fit_image, hc3_covariance
from brainscm.scm.model import Scm
from brainscm.scm.permutation import Basis, exchange, family_wise_p, max_statistics
from brainscm.scm.sample import Sample

TEST_COLUMNS = [
    "contrast",
    "effect",
    "statistic",
    "df1",
    "df2",
    "latents",
    "share_q05",
    "max_abs_statistic",
    "min_p",
    "min_q",
    "share_fwe05",
    "min_p_fwe",
    "permutations",
    "exchanged",
    "median_partial_r2",
    "max_partial_r2",
    "max_f2",
    "median_abs_d",
    "max_abs_d",
    "errors",
]
EFFECTS: tuple[Literal["total", "direct"], ...] = ("total", "direct")


@dataclass(frozen=True)
class WaldTest:
    """A test of C·B = 0 at every latent; arrays are flat over the latent, NaN where the latent does not vary.

    `statistic` is t (signed) for one row of C, else F with `df1` = rows of C.
    """

    statistic: Array
    p: Array
    df1: int
    df2: int

    @property
    def q(self) -> Array:
        """Benjamini-Hochberg adjusted p."""
        return benjamini_hochberg(self.p)

    @property
    def partial_r2(self) -> Array:
        """Share of the variance that the tested columns explain beyond the others: df1 F / (df1 F + df2)."""
        f = self.statistic**2 if self.df1 == 1 else self.statistic
        return self.df1 * f / (self.df1 * f + self.df2)


def wald_test(
    image: ImageModel, contrast: Array, covariance: Array | None = None, groups: int | None = None
) -> WaldTest:
    """Test C·B = 0.

    Args:
        image: the fitted image node.
        contrast: C, (q, p) of full row rank.
        covariance: of C·B, (q, q, latents), from `cluster_covariance` or `hc3_covariance`; None for the ordinary
            s²·C(X'X)⁻¹C'.
        groups: number of participants behind a clustered `covariance`: the test then has groups - 1 degrees of freedom,
            else n - p.
    """
    effect = np.einsum("qp,pl->ql", contrast, image.coefficients.reshape(len(image.columns), -1))
    q = len(contrast)
    df2 = image.degrees_of_freedom if groups is None else groups - 1
    varies = image.residual_variance.reshape(-1) > 0
    unscaled = contrast @ image.xtx_inverse @ contrast.T
    if q == 1:
        variance = image.residual_variance.reshape(-1) * unscaled[0] if covariance is None else covariance[0, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(varies, effect[0] / np.sqrt(variance), np.nan)
        return WaldTest(t, two_sided_p(t, df2), 1, df2)
    f = np.full(effect.shape[1], np.nan)
    if covariance is None:
        solved = np.linalg.solve(unscaled, effect[:, varies])
        f[varies] = np.einsum("ql,ql->l", effect[:, varies], solved) / image.residual_variance.reshape(-1)[varies] / q
    else:
        usable = varies & (np.linalg.det(np.moveaxis(covariance, 2, 0)) > 0)
        solved = np.linalg.solve(np.moveaxis(covariance, 2, 0)[usable], effect.T[usable][..., None])[..., 0]
        f[usable] = np.einsum("lq,lq->l", effect.T[usable], solved) / q
    return WaldTest(f, scipy.special.fdtrc(q, df2, f), q, df2)


def two_sided_p(t: Array, df: int) -> Array:
    """P(|T| > |t|) of Student's t with `df` degrees of freedom; NaN stays NaN.

    Below 32 by cubics of log P between close knots, right to 10⁻⁹ of itself: a latent has more values of t than there
    are knots, and a polynomial takes a fifth of the time of the incomplete beta function.
    """
    knots = np.linspace(0, 32, 4097)
    cubics = scipy.interpolate.CubicSpline(knots, np.log(2 * scipy.special.stdtr(df, -knots))).c
    p = np.empty_like(t)
    near = np.abs(t) < knots[-1]
    size = np.abs(t[near])
    cell = (size / knots[1]).astype(np.intp)
    p[near] = np.exp(np.polynomial.polynomial.polyval(size - knots[cell], cubics[::-1, cell], tensor=False))
    p[~near] = 2 * scipy.special.stdtr(df, -np.abs(t[~near]))
    return p


def standardised_effect(image: ImageModel, contrast: Array) -> Array:
    """C·B over the residual standard deviation, flat over the latent: Cohen's d at equal other columns (C one row).

    NaN where the latent does not vary.
    """
    effect = contrast @ image.coefficients.reshape(len(image.columns), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            image.residual_variance.reshape(-1) > 0, effect[0] / np.sqrt(image.residual_variance.reshape(-1)), np.nan
        )


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p-values that control the false discovery rate (Benjamini & Hochberg, 1995); NaN stays NaN."""
    q = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested])]
    stepped = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1)
    return q


def contrast_row(scm: Scm, name: str, effect: Literal["total", "direct"]) -> Array:
    """The contrast vector (1, p): the mean change of the design row when every training scan is moved between the ends.

    Averaging over the training scans gives interactions and non-linear terms their meaning in this cohort
    (standardisation, or g-computation); the total effect includes what the nodes in between pass on.
    """
    ends = scm.options.contrasts[name]
    low, high = (
        scm.design_matrix(scm.intervene(scm.training, {node: values[i] for node, values in ends.items()}, effect))
        for i in (0, 1)
    )
    return (high - low).mean(axis=0)[None]


def joint_rows(scm: Scm, name: str) -> Array:
    """The rows (q, p) that pick every image column in which the contrast's nodes appear: do they matter at all?"""
    nodes = set(scm.options.contrasts[name])
    picked = [i for i, names in enumerate(scm.design.nodes) if names & nodes]
    return np.eye(len(scm.design.columns))[picked]


def contrast_tests(scm: Scm, sample: Sample, device: torch.device = CPU) -> pd.DataFrame:
    """Test every declared contrast: t for its total and direct effect, F for all columns of its nodes.

    Tests are of the least-squares coefficients, whatever estimator predicts: shrunk ones have no exact test.

    Args:
        scm: the fitted model.
        sample: the training scans, as `Scm.sample` gives them.
        device: where the products are made.

    Returns:
        One row a test: `contrast`, `effect` (total, direct, or joint for F), `statistic` (t or F), `df1`, `df2`,
        `latents` tested, `share_q05` (share with q < 0.05), `max_abs_statistic`, `min_p`, `min_q`, `share_fwe05` and
        `min_p_fwe` (family-wise, by permutation of the ordinary statistic), `permutations`, `exchanged` (what),
        `median_partial_r2`, `max_partial_r2`, `max_f2` (Cohen's f² = R²/(1 - R²)), `median_abs_d` and
        `max_abs_d` (of `standardised_effect`; NaN for joint), `errors` (ordinary, hc3, clustered by
        participant, random intercept).
    """
    image = scm.image
    if image.estimator != LEAST_SQUARES:
        image = fit_image(sample, seed=scm.seed, device=device, drawn=False)
    declared = list(_declared(scm))
    count = scm.options.permutations
    largest = max_statistics(sample, [c for *_, c in declared], count, scm.seed, device)
    records = []
    for (contrast, effect, c), reached in zip(declared, largest, strict=True):
        covariance, groups, errors = robust_covariance(scm.options.image.errors, image, c, sample, device)
        if errors == "ordinary" and sample.is_repeated:
            errors = "random intercept"
        test = wald_test(image, c, covariance, groups)
        tested = np.isfinite(test.p)
        if not tested.any():
            continue
        q = test.q[tested]
        d = np.abs(standardised_effect(image, c)[tested]) if effect != "joint" else np.array([np.nan])
        r2 = test.partial_r2[tested]
        family_wise = family_wise_p(wald_test(image, c).partial_r2, reached)[tested] if count else np.array([np.nan])
        records.append(
            {
                "contrast": contrast,
                "effect": effect,
                "statistic": "F" if effect == "joint" else "t",
                "df1": test.df1,
                "df2": test.df2,
                "latents": int(tested.sum()),
                "share_q05": float((q < 0.05).mean()),
                "max_abs_statistic": float(np.abs(test.statistic[tested]).max()),
                "min_p": float(test.p[tested].min()),
                "min_q": float(q.min()),
                "share_fwe05": float((family_wise < 0.05).mean()) if count else np.nan,
                "min_p_fwe": float(family_wise.min()),
                "permutations": count,
                "exchanged": exchange(sample.participants, Basis.of(sample.x, c).tested)[0] if count else None,
                "median_partial_r2": float(np.median(r2)),
                "max_partial_r2": float(r2.max()),
                "max_f2": float(r2.max() / (1 - r2.max())),
                "median_abs_d": float(np.median(d)),
                "max_abs_d": float(d.max()),
                "errors": errors,
            }
        )
    return pd.DataFrame(records, columns=TEST_COLUMNS)


def robust_covariance(
    errors: Literal["ordinary", "hc3"],
    image: ImageModel,
    contrast: Array,
    sample: Sample,
    device: torch.device = CPU,
) -> tuple[Array | None, int | None, str]:
    """The covariance of C·B and the number of clusters as `wald_test` takes them, and what they are in words."""
    if sample.is_clustered:
        covariance = cluster_covariance(image, contrast, sample, device)
        return covariance, len(set(sample.clusters)), "clustered by participant"
    if errors == "hc3":
        return hc3_covariance(image, contrast, sample, device), None, "hc3"
    return None, None, "ordinary"


def _declared(scm: Scm) -> Iterable[tuple[str, str, Array]]:
    for name in scm.options.contrasts:
        for effect in EFFECTS:
            row = contrast_row(scm, name, effect)
            if np.any(row):
                yield name, effect, row
        joint = joint_rows(scm, name)
        if len(joint):
            yield name, "joint", joint
