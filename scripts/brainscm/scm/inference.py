"""Tests of named contrasts over the whole latent: t, F, p, partial R², false discovery rates and family-wise p."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import scipy.interpolate
import scipy.special
import torch

from brainscm.parallel import CPU
from brainscm.scm.design import Array
from brainscm.scm.image import LEAST_SQUARES, ImageModel, fit_image, robust_covariance, robust_sandwich
from brainscm.scm.model import Scm
from brainscm.scm.permutation import Basis, exchange, family_wise_p, max_statistics
from brainscm.scm.pooling import pool
from brainscm.scm.robust import directions
from brainscm.scm.sample import Sample
from brainscm.scm.sensitivity import robustness_value
from brainscm.scm.sign_flips import flipped_maxima

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
    "max_robustness_value",
    "median_abs_d",
    "max_abs_d",
    "imputations",
    "median_missing_information",
    "errors",
    "note",
]
EFFECTS: tuple[Literal["total", "direct"], ...] = ("total", "direct")


@dataclass(frozen=True)
class WaldTest:
    """A test of C·B = 0 at every latent; arrays are flat over the latent, NaN where the latent does not vary.

    Attributes:
        statistic: t (signed) for one row of C, else F with `df1` = rows of C.
        p: of it, on `df2` degrees of freedom.
        standard_error: of C·B, for one row of C.
        reason: why there is no statistic at all; "" if there is.
        missing_information: the share of the error's square that is there because covariates are missing; None where
            they were not imputed several times, and of F.
    """

    statistic: Array
    p: Array
    df1: int
    df2: float
    standard_error: Array
    reason: str = ""
    missing_information: Array | None = None

    @property
    def q(self) -> Array:
        """Benjamini-Hochberg adjusted p."""
        return benjamini_hochberg(self.p)


@dataclass(frozen=True)
class RobustErrors:
    """The covariance (k, k, latents) of T'z by a sandwich, T'z = U'R·B for the tested directions U.

    Attributes:
        freedom: η, of that covariance. reason: why it says nothing; "" if it does.
    """

    covariance: Array
    freedom: float
    reason: str = ""


def wald_test(image: ImageModel, contrast: Array, robust: RobustErrors | None = None) -> WaldTest:
    """Test C·B = 0 in the coordinates U'R·B, whose covariance is s²·I where scans err independently.

    With robust errors the statistic is referred to Student's t with η degrees of freedom, or, for k rows of C,
    (η - k + 1)/(η k) times it to F on k and η - k + 1 (Hotelling's T²; Pustejovsky & Tipton, 2018).

    Args:
        image: the fitted image node.
        contrast: C, (k, p) of full row rank.
        robust: from `robust_errors_of`; None for ordinary errors.
    """
    length, effect = _in_directions(image, contrast)
    k, s2 = len(contrast), image.residual_variance.reshape(-1)
    df2 = float(image.degrees_of_freedom) if robust is None else robust.freedom - k + 1
    reason = "" if robust is None else robust.reason
    if not reason and df2 < 1 - 1e-6:
        reason = f"there are too few participants to test {k} columns together"
    if reason:
        nothing = np.full(len(s2), np.nan)
        return WaldTest(nothing, nothing, k, np.nan, nothing, reason)
    varies = s2 > 0
    if k == 1:
        error = np.sqrt(s2 if robust is None else robust.covariance[0, 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(varies, effect[0] / error, np.nan)
        return WaldTest(t, two_sided_p(t, df2), 1, df2, length[0, 0] * error)
    f = np.full(len(s2), np.nan)
    if robust is None:
        f[varies] = np.square(effect[:, varies]).sum(axis=0) / s2[varies] / k
    else:
        covariance = np.moveaxis(robust.covariance, 2, 0)
        usable = varies & (np.linalg.det(covariance) > 0)
        solved = np.linalg.solve(covariance[usable], effect.T[usable][..., None])[..., 0]
        f[usable] = np.einsum("lk,lk->l", effect.T[usable], solved) * df2 / (robust.freedom * k)
    return WaldTest(f, scipy.special.fdtrc(k, df2, f), k, df2, np.full(len(s2), np.nan))


def partial_r2(image: ImageModel, contrast: Array) -> Array:
    """Share of the variance that the tested columns explain beyond the others, flat over the latent.

    It describes the sample, whatever the errors of the tests are; NaN where the latent does not vary.
    """
    explained = np.square(_in_directions(image, contrast)[1]).sum(axis=0)
    left = image.degrees_of_freedom * image.residual_variance.reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left > 0, explained / (explained + left), np.nan)


def _in_directions(image: ImageModel, contrast: Array) -> tuple[Array, Array]:
    """Lengths S (k, k) and U'R·B (k, latents) of the tested directions, see `directions`."""
    turn, length = directions(image.r, contrast)
    # By einsum: on so few rows, numpy's own threads cost more than they save.
    return length, np.einsum("kp,pl->kl", turn.T @ image.r, image.coefficients.reshape(len(image.columns), -1))


def two_sided_p(t: Array, df: float) -> Array:
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


@dataclass(frozen=True)
class ContrastTest:
    """A declared contrast, tested; arrays are flat over the latent, NaN where the latent does not vary.

    Attributes:
        effect: total, direct, or joint. rows: C, (k, p).
        errors: in words: ordinary, hc3, clustered by participant, random intercept.
        partial_r2: of the sample, whatever the errors.
        family_wise_p: None without permutations. exchanged: what was permuted.
    """

    contrast: str
    effect: str
    rows: Array
    wald: WaldTest
    errors: str
    partial_r2: Array
    family_wise_p: Array | None
    exchanged: str | None


def each_contrast(
    scm: Scm, image: ImageModel, sample: Sample, effects: Collection[str], device: torch.device = CPU
) -> Iterator[ContrastTest]:
    """Test the declared contrasts on whatever the sample holds: t for total and direct effects, F for joint ones.

    Where covariates were imputed several times, estimates are pooled by Rubin's rules, and F and family-wise p are the
    medians over imputations.

    Args:
        scm: the fitted model; its graph and options are looked at.
        image: the least-squares fit of the sample.
        sample: the training scans, as `Scm.sample` gives them.
        effects: those that are asked for.
        device: where the products are made.
    """
    declared = [each for each in declared_contrasts(scm) if each[1] in effects]
    if not sample.imputed:
        yield from _each_contrast(scm, image, sample, declared, device)
        return
    for each in declared:
        found = []
        for completed in sample.completed:
            model = fit_image(completed, seed=scm.seed, device=device, drawn=False)
            found += list(_each_contrast(scm, model, completed, [each], device))
        yield _pooled(found)


def _pooled(found: Sequence[ContrastTest]) -> ContrastTest:
    """The test of a contrast over imputations."""
    first = found[0]
    if any(each.wald.reason for each in found):
        return next(each for each in found if each.wald.reason)
    family_wise = [each.family_wise_p for each in found if each.family_wise_p is not None]
    return replace(
        first,
        wald=pooled_test([each.wald for each in found]),
        partial_r2=np.mean([each.partial_r2 for each in found], axis=0),
        family_wise_p=np.median(family_wise, axis=0) if family_wise else None,
    )


def pooled_test(tests: Sequence[WaldTest]) -> WaldTest:
    """One test of several imputations: t by Rubin's rules, with the median of its degrees of freedom told; of F the
    median, with that of p (Eekhout, van de Wiel & Heymans, 2017)."""
    first = tests[0]
    if len(tests) == 1 or first.reason:
        return first
    if np.isnan(first.standard_error).all():  # F
        median = {
            name: np.median([getattr(test, name) for test in tests], axis=0) for name in ("statistic", "p", "df2")
        }
        return replace(first, statistic=median["statistic"], p=median["p"], df2=float(median["df2"]))
    estimates, errors = (
        [test.statistic * test.standard_error for test in tests],
        [test.standard_error for test in tests],
    )
    found = pool(estimates, [np.square(each) for each in errors], float(np.mean([test.df2 for test in tests])))
    error = np.sqrt(found.variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = found.estimate / error
    return WaldTest(
        statistic=t,
        p=2 * scipy.special.stdtr(found.freedom, -np.abs(t)),
        df1=1,
        df2=float(np.nanmedian(found.freedom)),
        standard_error=error,
        missing_information=found.missing_information,
    )


def _each_contrast(
    scm: Scm, image: ImageModel, sample: Sample, declared: Sequence[tuple[str, str, Array]], device: torch.device
) -> Iterator[ContrastTest]:
    count = scm.options.permutations
    contrasts, flipped = [c for *_, c in declared], scm.options.image.errors == "hc3" and count > 0
    statistics: Sequence[Array | None] = [None] * len(declared)
    if flipped:
        by_scores, largest = flipped_maxima(sample, contrasts, count, scm.seed, device)
        statistics = list(by_scores)
    else:
        largest = max_statistics(sample, contrasts, count, scm.seed, device)
    for (contrast, effect, c), statistic, reached in zip(declared, statistics, largest, strict=True):
        robust, errors = robust_errors_of(scm.options.image.errors, image, c, sample, device)
        if errors == "ordinary" and sample.is_repeated:
            errors = "random intercept"
        explained = partial_r2(image, c)
        exchanged = exchange(sample.participants, Basis.of(sample.x, c).tested)[0]
        if flipped:
            exchanged = "signs of participants" if sample.is_repeated else "signs of scans"
        yield ContrastTest(
            contrast,
            effect,
            rows=c,
            wald=wald_test(image, c, robust),
            errors=errors,
            partial_r2=explained,
            family_wise_p=family_wise_p(explained if statistic is None else statistic, reached) if count else None,
            exchanged=exchanged if count else None,
        )


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
        `min_p_fwe` (family-wise, by permutation of the ordinary statistic, or beside `errors: hc3` by sign-flipping),
        `permutations`, `exchanged` (what), `median_partial_r2`, `max_partial_r2`, `max_f2` (Cohen's f² = R²/(1 - R²)),
        `max_robustness_value`, `median_abs_d` and `max_abs_d` (of `standardised_effect`; NaN for joint), `imputations`
        and `median_missing_information` (where covariates were imputed several times), `errors` (ordinary, hc3,
        clustered by participant, random intercept), `note` (why a contrast has no statistic).
    """
    image = scm.image
    if image.estimator != LEAST_SQUARES:
        image = fit_image(sample, seed=scm.seed, device=device, drawn=False)
    records = []
    for found in each_contrast(scm, image, sample, (*EFFECTS, "joint"), device):
        test = found.wald
        varies = np.isfinite(found.partial_r2)
        if not varies.any():
            continue
        q = test.q[varies]
        is_joint = found.effect == "joint"
        d = np.array([np.nan]) if is_joint else np.abs(standardised_effect(image, found.rows)[varies])
        r2 = found.partial_r2[varies]
        family_wise = np.array([np.nan]) if found.family_wise_p is None else found.family_wise_p[varies]
        lost = test.missing_information
        records.append(
            {
                "contrast": found.contrast,
                "effect": found.effect,
                "statistic": "F" if is_joint else "t",
                "df1": test.df1,
                "df2": test.df2,
                "latents": int(varies.sum()),
                "share_q05": np.nan if test.reason else float((q < 0.05).mean()),
                "max_abs_statistic": float(np.abs(test.statistic[varies]).max()),
                "min_p": float(test.p[varies].min()),
                "min_q": float(q.min()),
                "share_fwe05": np.nan if found.family_wise_p is None else float((family_wise < 0.05).mean()),
                "min_p_fwe": float(family_wise.min()),
                "permutations": scm.options.permutations,
                "exchanged": found.exchanged,
                "median_partial_r2": float(np.median(r2)),
                "max_partial_r2": float(r2.max()),
                "max_f2": float(r2.max() / (1 - r2.max())),
                "max_robustness_value": np.nan if is_joint else float(robustness_value(r2).max()),
                "median_abs_d": float(np.median(d)),
                "max_abs_d": float(d.max()),
                "imputations": len(sample.imputed) or None,
                "median_missing_information": np.nan if lost is None else float(np.median(lost[varies])),
                "errors": found.errors,
                "note": f"not tested: {test.reason}" if test.reason else None,
            }
        )
    return pd.DataFrame(records, columns=TEST_COLUMNS)


def robust_errors_of(
    errors: Literal["ordinary", "hc3"],
    image: ImageModel,
    contrast: Array,
    sample: Sample,
    device: torch.device = CPU,
) -> tuple[RobustErrors | None, str]:
    """The errors of a contrast as `wald_test` takes them, and what they are in words."""
    q, r = np.linalg.qr(sample.x)
    sandwich = robust_sandwich(sample, q, errors == "hc3")
    if sandwich is None:
        return None, "ordinary"
    tested = q @ directions(r, contrast)[0]
    words = "clustered by participant" if sample.is_clustered else "hc3"
    decider = sandwich.decider(tested)
    if decider is not None:
        nothing = np.full((tested.shape[1], tested.shape[1], image.residual_variance.size), np.nan)
        reason = f"{sample.participants[decider]} alone decides some of it, so that its error cannot be known"
        return RobustErrors(nothing, np.nan, reason), words
    covariance = robust_covariance(image, sample, sandwich, tested, device)
    return RobustErrors(covariance, sandwich.freedom(tested)), words


def declared_contrasts(scm: Scm) -> Iterable[tuple[str, str, Array]]:
    """(contrast, effect, C) of all that is tested: t for total and direct effects, F for joint ones."""
    for name in scm.options.contrasts:
        for effect in EFFECTS:
            row = contrast_row(scm, name, effect)
            if np.any(row):
                yield name, effect, row
        joint = joint_rows(scm, name)
        if len(joint):
            yield name, "joint", joint
