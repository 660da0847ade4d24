"""Do tests reject true nulls as often, and intervals hold the truth as often, as they say? On simulated numbers.

python benchmarks/bench_calibration.py [--designs 20 --latents 1000 --trials 200 --shrunk 8]

Each situation is tried on `--designs` cohorts with `--latents` independent latents each. Residuals are normal or skewed
(exponential). `before` is what the same data give by the rules that were in use until CR2 and degrees of freedom by
contrast: CR1 on G - 1 and HC3 on n - p degrees of freedom, z for node models, permutation beside HC3, and draws that
are shrunk as the effects are. A rate from so many cohorts is known to about ± 0.01, a family-wise one to ± 0.03.
Writes benchmarks/results/calibration.json (elsewhere with --output).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from record import RESULTS, circumstances, write

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

SIZES = (15, 40, 100, 500)
RARE = 3  # participants with the rare level


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--designs", type=int, default=20)
    parser.add_argument("--latents", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=200, help="cohorts of a family-wise error rate")
    parser.add_argument("--shrunk", type=int, default=8, help="cohorts of each strength of a shrunk effect")
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration.json")
    arguments = parser.parse_args()

    contrasts = list(contrast_rates(arguments.designs, arguments.latents))
    nodes = list(node_rates(40 * arguments.designs))
    family_wise = list(family_wise_rates(arguments.trials))
    shrunk = list(shrunken_coverage(arguments.shrunk))
    rejections = [row["rejection_05"] for row in (*contrasts, *family_wise)]
    coverages = [row["coverage_95"] for row in (*contrasts, *nodes, *shrunk)]
    figures = {
        "worst_coverage_95": min(coverages),
        "worst_rejection_05": max(rejections),
        "before": {
            "worst_coverage_95": min(row["before_coverage_95"] for row in (*contrasts, *nodes, *shrunk)),
            "worst_rejection_05": max(row["before_rejection_05"] for row in (*contrasts, *family_wise)),
        },
        "contrasts": contrasts,
        "nodes": nodes,
        "family_wise": family_wise,
        "shrunken_effects": shrunk,
        **circumstances(f"{os.cpu_count()} cores", platform.system()),
    }
    print(write(figures, arguments.output))


def residuals(rng: np.random.Generator, noise: str, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(size=shape) - 1 if noise == "skewed" else rng.normal(size=shape)


def visits(scans: str, n: int) -> np.ndarray:
    """Whose each scan is, of n participants: one scan each, one to three, or two of five participants and one else."""
    if scans == "one":
        return np.arange(n)
    return np.repeat(np.arange(n), 1 + np.arange(n) % 3) if scans == "several" else np.append(np.arange(n), range(5))


def contrast_rates(designs: int, latents: int) -> Iterator[dict[str, Any]]:
    """A covariate (age), a level that three participants have, and time, under each kind of errors."""
    from brainscm.scm.image import fit_image
    from brainscm.scm.inference import robust_errors_of, wald_test
    from brainscm.scm.sample import Sample
    from brainscm.scm.weighting import random_intercept

    kinds = [
        ("one", "ordinary", "equal"), ("one", "hc3", "equal"), ("one", "hc3", "grows with age"),
        ("several", "clustered", "equal"), ("few twice", "clustered", "equal"),
        ("several", "random intercept", "equal"),
    ]  # fmt: skip
    for n in SIZES:
        for noise in ("normal", "skewed"):
            for scans, errors, variance in kinds:
                rng = np.random.default_rng([n, len(noise), len(scans), len(errors), len(variance)])
                columns = ["age", "rare level"] + ([] if scans == "one" else ["time"])
                p_values: dict[str, list[np.ndarray]] = {column: [] for column in columns}
                before: dict[str, list[np.ndarray]] = {column: [] for column in columns}
                for _ in range(designs):
                    participants = visits(scans, n)
                    own = rng.gamma(2, size=n)
                    time = np.concatenate(
                        [[0.0], np.where(participants[1:] == participants[:-1], 1.0, 0.0)]
                    ) * rng.uniform(1, 2)
                    if scans == "few twice":
                        time = np.append(np.zeros(n), rng.uniform(1, 3, 5))
                    rare = np.isin(participants, rng.choice(n, RARE, replace=False))
                    x = np.column_stack([np.ones(len(participants)), own[participants], rare, time][: 1 + len(columns)])
                    scale = 1.42 ** ((own - own.mean()) / own.std()) if variance != "equal" else np.ones(n)
                    z = scale[participants, None] * residuals(rng, noise, (len(participants), latents))
                    if scans != "one":
                        z = residuals(rng, noise, (n, latents))[participants] + 0.7 * z
                    sample = Sample.of(x, ["constant", *columns], z, [f"p{i}" for i in participants])
                    if errors == "random intercept":
                        weighted = random_intercept(sample).apply(sample)
                        alone = [str(i) for i in range(len(participants))]
                        sample = Sample(weighted.x, sample.columns, weighted.latents, weighted.rows, alone, alone)
                    model = fit_image(sample, seed=0, drawn=False)
                    chosen = "hc3" if errors == "hc3" else "ordinary"
                    for place, column in enumerate(columns, start=1):
                        c = np.eye(x.shape[1])[place : place + 1]
                        test = wald_test(model, c, robust_errors_of(chosen, model, c, sample)[0])
                        if test.reason:
                            continue
                        p_values[column].append(test.p)
                        robust = errors in ("hc3", "clustered")
                        before[column].append(former_p(x, z, participants, place, errors) if robust else test.p)
                for column in columns:
                    if not p_values[column]:
                        continue
                    rate, former = (
                        float((np.concatenate(p) < 0.05).mean()) for p in (p_values[column], before[column])
                    )
                    yield {
                        "participants": n,
                        "noise": noise,
                        "scans": scans,
                        "errors": errors,
                        "variance": variance,
                        "contrast": column,
                        "rejection_05": rate,
                        "coverage_95": 1 - rate,
                        "before_rejection_05": former,
                        "before_coverage_95": 1 - former,
                    }


def former_p(x: np.ndarray, z: np.ndarray, participants: np.ndarray, place: int, errors: str) -> np.ndarray:
    """p of column `place` by CR1 on G - 1 degrees of freedom, or HC3 on n - p."""
    (n, p), groups = x.shape, participants.max() + 1
    inverse = np.linalg.inv(x.T @ x)
    b = inverse @ x.T @ z
    residual, weights = z - x @ b, x @ inverse[place]
    if errors == "hc3":
        leverage = np.einsum("np,pq,nq->n", x, inverse, x)
        variance, freedom = np.square(weights[:, None] * residual / (1 - leverage)[:, None]).sum(axis=0), n - p
    else:
        scores = np.zeros((groups, z.shape[1]))
        np.add.at(scores, participants, weights[:, None] * residual)
        variance = groups / (groups - 1) * (n - 1) / (n - p) * np.square(scores).sum(axis=0)
        freedom = groups - 1
    return np.asarray(2 * scipy.stats.t.sf(np.abs(b[place]) / np.sqrt(variance), freedom))


def node_rates(trials: int) -> Iterator[dict[str, Any]]:
    """Intervals of the slope of a gaussian node."""
    import pandas as pd

    from brainscm.scm.families import FAMILIES

    for n in SIZES:
        for noise in ("normal", "skewed"):
            rng = np.random.default_rng([n, len(noise)])
            held, formerly = [], []
            for _ in range(trials):
                x = np.column_stack([np.ones(n), rng.gamma(2, size=n), rng.integers(0, 2, n)])
                fit = FAMILIES["gaussian"].fit(
                    x, 0.5 * x[:, 1] + residuals(rng, noise, (n,)), pd.Series(range(n)), np.zeros(n)
                )
                distance = abs(fit.parameters[1] - 0.5) / np.sqrt(fit.covariance[1, 1])
                held.append(distance < scipy.stats.t.ppf(0.975, fit.freedom[1]))
                formerly.append(distance < scipy.stats.norm.ppf(0.975))
            yield {
                "participants": n,
                "noise": noise,
                "coverage_95": float(np.mean(held)),
                "before_coverage_95": float(np.mean(formerly)),
            }


def family_wise_rates(trials: int, flips: int = 99, latents: int = 20) -> Iterator[dict[str, Any]]:
    """Any false effect of a skewed age, a standard deviation of which multiplies that of the residuals by 1.42."""
    from brainscm.scm.permutation import Basis, family_wise_p, max_statistics, permuted_maxima
    from brainscm.scm.sample import Sample
    from brainscm.scm.sign_flips import flipped_maxima

    for n in SIZES[:3]:
        for noise in ("normal", "skewed"):
            rng = np.random.default_rng([n, len(noise)])
            hits, formerly = 0, 0
            for trial in range(trials):
                age = scipy.stats.zscore(rng.gamma(1.5, size=n))
                x = np.column_stack([np.ones(n), age, rng.normal(size=n)])
                z = 1.42 ** age[:, None] * residuals(rng, noise, (n, latents))
                sample, c = Sample.of(x, [*"abc"], z, [str(i) for i in range(n)]), np.eye(3)[1:2]
                (statistic,), (largest,) = flipped_maxima(sample, [c], flips, seed=trial)
                hits += family_wise_p(statistic, largest).min() <= 0.05
                basis = Basis.of(x, c)
                observed = permuted_maxima(basis, basis.unit_residuals(z), iter([np.arange(n)]))
                formerly += family_wise_p(observed, max_statistics(sample, [c], flips, seed=trial)[0])[0] <= 0.05
            yield {
                "participants": n,
                "noise": noise,
                "variance": "grows with age",
                "rejection_05": hits / trials,
                "before_rejection_05": formerly / trials,
            }


def shrunken_coverage(cohorts: int) -> Iterator[dict[str, Any]]:
    """What is shown ± t times its uncertainty, where an effect in a third of the lattice is 0 to 1 noise deviations."""
    from brainscm.config import ImageOptions
    from brainscm.scm.image import fit_image
    from brainscm.scm.sample import Sample

    shape = (4, 12, 12, 12)
    for n in SIZES[:3]:
        for strength in (0.0, 0.1, 0.3, 1.0):
            rng = np.random.default_rng([n, int(10 * strength)])
            held, formerly, strongest = [], [], []
            for _ in range(cohorts):
                x = np.column_stack([np.ones(n), rng.normal(size=n)])
                effect = strength * rng.normal(size=shape) * (np.arange(12) < 4)[:, None, None]
                z = x[:, 1, None, None, None, None] * effect + rng.normal(size=(n, *shape))
                sample = Sample.of(x, ["constant", "age"], z, [str(i) for i in range(n)])
                shown = fit_image(sample, ImageOptions(formula="x"), seed=0)
                plain = fit_image(sample, seed=0, drawn=False)
                error = np.sqrt(plain.xtx_inverse[1, 1] * plain.residual_variance)
                share = (shown.coefficients[1] / plain.coefficients[1]).clip(0, 1)
                # With all the draws that there could be; eight of them give it to ± 25 %.
                uncertainty = np.sqrt(np.square(plain.coefficients[1] - shown.coefficients[1]) + error**2)
                distance, t = np.abs(shown.coefficients[1] - effect), scipy.stats.t.ppf(0.975, n - 2)
                held.append(distance < t * uncertainty)
                formerly.append(distance <= t * np.sqrt(share) * error)
                strongest.append(np.abs(effect) >= np.quantile(np.abs(effect), 0.9))
            for cells, where in (("all", None), ("strongest tenth", np.array(strongest))):
                if strength or where is None:
                    now, then = (
                        np.array(each) if where is None else np.array(each)[where] for each in (held, formerly)
                    )
                    yield {
                        "participants": n,
                        "effect_sd": strength,
                        "cells": cells,
                        "coverage_95": float(now.mean()),
                        "before_coverage_95": float(then.mean()),
                    }


if __name__ == "__main__":
    main()
