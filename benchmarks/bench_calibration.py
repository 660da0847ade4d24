"""Do tests reject true nulls as often, and intervals hold the truth as often, as they say? On simulated numbers.

python benchmarks/bench_calibration.py [--designs 20 --latents 1000 --trials 200 --shrunk 8]

Each situation is tried on `--designs` cohorts with `--latents` independent latents each. Residuals are normal or skewed
(exponential). `before` is what the same data give by the rules that were in use until CR2 and degrees of freedom by
contrast: CR1 on G - 1 and HC3 on n - p degrees of freedom, z for node models, CR1 for nodes with levels, permutation
beside HC3 and beside `variance_by`, draws that are shrunk as the effects are, intervals that take all participants to
change alike, and one imputation. A rate from so many cohorts is known to about ± 0.01, a family-wise one and that of
levels, of clusters and of imputations to ± 0.03 (with `--trials 1000` to ± 0.014).
Writes benchmarks/results/calibration.json (elsewhere with --output), whose `made` tells when each group was made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
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
    parser.add_argument(
        "--only", nargs="+", default=[], help="groups to make anew; the others stay as the file has them"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration.json")
    arguments = parser.parse_args()

    made: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "contrasts": lambda: contrast_rates(arguments.designs, arguments.latents),
        "nodes": lambda: node_rates(40 * arguments.designs),
        "levels": lambda: level_rates(arguments.trials),
        "family_wise": lambda: family_wise_rates(arguments.trials),
        "variance_groups": lambda: variance_group_rates(arguments.trials),
        "clusters": lambda: cluster_rates(arguments.trials // 4),
        "slopes_in_time": lambda: slope_rates(5 * arguments.trials),
        "changes_in_time": lambda: changes_in_time(arguments.trials),
        "imputed": lambda: imputed_rates(arguments.trials // 8),
        "shrunken_effects": lambda: shrunken_coverage(arguments.shrunk),
        "shrunken_totals": lambda: shrunken_totals(3 * arguments.shrunk),
    }
    logging.getLogger("brainscm").setLevel(logging.ERROR)
    kept = json.loads(arguments.output.read_text()) if arguments.only else {}
    chosen = arguments.only or made
    groups = {name: list(make()) if name in chosen else kept.get(name, []) for name, make in made.items()}

    def worst(choose: Callable[[Iterable[float]], float], rate: str) -> float:
        return choose(row[rate] for rows in groups.values() for row in rows if rate in row)

    now = circumstances(f"{os.cpu_count()} cores", platform.system())
    figures = {
        "worst_coverage_95": worst(min, "coverage_95"),
        "worst_rejection_05": worst(max, "rejection_05"),
        "before": {
            "worst_coverage_95": worst(min, "before_coverage_95"),
            "worst_rejection_05": worst(max, "before_rejection_05"),
        },
        **groups,
        "made": {name: now if name in chosen else kept.get("made", {}).get(name) for name in made},
        **now,
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


def level_rates(trials: int) -> Iterator[dict[str, Any]]:
    """Null effects on the odds of levels: of a covariate, and of time where participants came one to three times."""
    import pandas as pd
    import statsmodels.api as sm

    from brainscm.scm.families import FAMILIES

    for n in SIZES[1:3]:
        for scans in ("one", "several"):
            participants = visits(scans, n)
            for family, levels in (("binomial", 2), ("multinomial", 3), ("ordered", 3)):
                rng = np.random.default_rng([n, len(scans), len(family)])
                columns = ["age"] if scans == "one" else ["age", "time"]
                p_values: dict[str, list[float]] = {column: [] for column in columns}
                before: dict[str, list[float]] = {column: [] for column in columns}
                for _ in range(trials):
                    own = rng.gamma(2, size=n)
                    time = np.append(0.0, participants[1:] == participants[:-1]) * rng.uniform(1, 2)
                    x = np.column_stack([np.ones(len(participants)), own[participants], time][: 1 + len(columns)])
                    severity = rng.logistic(size=n)[participants] + rng.logistic(size=len(participants))
                    y = np.searchsorted([0.0, 1.5][: levels - 1], severity)
                    fit = FAMILIES[family].fit(x, y, pd.Series(participants), np.zeros(len(x)))
                    if fit.note:
                        continue
                    at = 0 if family == "ordered" else 1  # its thresholds stand behind the slopes
                    for place, column in enumerate(columns):
                        t = fit.parameters[at + place] / np.sqrt(fit.covariance[at + place, at + place])
                        p_values[column].append(2 * scipy.stats.t.sf(abs(t), fit.freedom[at + place]))
                    if family == "binomial":
                        with np.errstate(all="ignore"):
                            kind = {"cov_type": "cluster", "cov_kwds": {"groups": participants}}
                            former = sm.Logit(y, x).fit(disp=False, **(kind if scans == "several" else {}))
                        for place, column in enumerate(columns, start=1):
                            z = former.params[place] / former.bse[place]
                            before[column].append(2 * scipy.stats.t.sf(abs(z), n - 1))
                for column in columns:
                    told = {"participants": n, "scans": scans, "family": family, "contrast": column}
                    told["rejection_05"] = float(np.mean(np.array(p_values[column]) < 0.05))
                    if before[column]:
                        told["before_rejection_05"] = float(np.mean(np.array(before[column]) < 0.05))
                    yield told


def variance_group_rates(trials: int, permutations: int = 99, latents: int = 20) -> Iterator[dict[str, Any]]:
    """Any false effect of a site with a quarter of the scans, whose residuals are twice as large: `variance_by`."""
    from brainscm.scm.permutation import Basis, family_wise_p, max_statistics, permuted_maxima
    from brainscm.scm.sample import Sample
    from brainscm.scm.weighting import variance_by

    for n in SIZES[:3]:
        for noise in ("normal", "skewed"):
            rng, hits = np.random.default_rng([n, len(noise)]), {"weighed": 0, "not": 0}
            for trial in range(trials):
                site = np.arange(n) < max(3, n // 4)
                x = np.column_stack([np.ones(n), site, rng.normal(size=n)])
                z = np.where(site, 2.0, 1.0)[:, None] * residuals(rng, noise, (n, latents))
                plain, c = Sample.of(x, [*"abc"], z, [str(i) for i in range(n)]), np.eye(3)[1:2]
                weighed = variance_by(plain, ["A" if each else "B" for each in site]).apply(plain)
                for name, sample in (("weighed", weighed), ("not", plain)):
                    basis = Basis.of(sample.x, c)
                    latent = np.stack([np.asarray(sample.latents[row]) for row in sample.rows])
                    observed = permuted_maxima(basis, basis.unit_residuals(latent), iter([np.arange(n)]))
                    reached = max_statistics(sample, [c], permutations, seed=trial)[0]
                    hits[name] += family_wise_p(observed, reached)[0] <= 0.05
            yield {
                "participants": n,
                "noise": noise,
                "variance": "differs between groups",
                "rejection_05": hits["weighed"] / trials,
                "before_rejection_05": hits["not"] / trials,
            }


def cluster_rates(trials: int, permutations: int = 39, side: int = 10) -> Iterator[dict[str, Any]]:
    """Any false cluster, by size and by mass, and any false enhanced voxel (TFCE), in smooth maps."""
    import scipy.ndimage

    from brainscm.scm.clusters import find_clusters
    from brainscm.scm.sample import Sample
    from brainscm.scm.tfce import tfce_map

    n, mask = 40, np.ones((side, side, side), dtype=bool)
    for noise in ("normal", "skewed"):
        rng = np.random.default_rng(len(noise))
        hits = {"cluster size": 0, "cluster mass": 0, "TFCE": 0}
        for trial in range(trials):
            x = np.column_stack([np.ones(n), rng.gamma(2, size=n)])
            raw = residuals(rng, noise, (n, side, side, side))
            z = np.stack([scipy.ndimage.gaussian_filter(each, 1.5, mode="wrap") for each in raw]).reshape(n, -1)
            sample, c = Sample.of(x, [*"ab"], z, [str(i) for i in range(n)]), np.eye(2)[1:2]
            b, left, _, _ = np.linalg.lstsq(x, z)
            t = b[1] / np.sqrt(left / (n - 2) * np.linalg.inv(x.T @ x)[1, 1])
            found = find_clusters(sample, mask, c, t, permutations, seed=trial)
            hits["cluster size"] += found.p_size.min(initial=1.0) <= 0.05
            hits["cluster mass"] += found.p_mass.min(initial=1.0) <= 0.05
            hits["TFCE"] += tfce_map(sample, mask, c, t, permutations, seed=trial)[1].min() <= 0.05
        for statistic, count in hits.items():
            yield {"participants": n, "noise": noise, "statistic": statistic, "rejection_05": count / trials}


def visits_in_time(rng: np.random.Generator, n: int, spread: float, noise: str) -> tuple[np.ndarray, ...]:
    """Volume, years and participant of one to five visits within six years; slopes of -3 ml a year on average."""
    participants = np.repeat(np.arange(n), 1 + np.arange(n) % 5)
    years = rng.uniform(0, 6, len(participants))
    slope = -3 * (1 + spread * rng.normal(size=n))
    start = rng.normal(600, 30, n)
    volume = start[participants] + slope[participants] * years + 2 * residuals(rng, noise, (len(participants),))
    return volume, years, participants.astype(str)


def slope_rates(trials: int) -> Iterator[dict[str, Any]]:
    """p of slopes in time that are all the same."""
    from brainscm.scm.slope_spread import random_slopes

    for n in SIZES[:3]:
        for noise in ("normal", "skewed"):
            rng = np.random.default_rng([n, len(noise)])
            found = [random_slopes(*visits_in_time(rng, n, 0.0, noise)) for _ in range(trials)]
            rate = float(np.mean([slopes.p < 0.05 for slopes in found if slopes]))
            yield {"participants": n, "noise": noise, "rejection_05": rate}


def changes_in_time(trials: int) -> Iterator[dict[str, Any]]:
    """Intervals of a new participant's change in ten years, measured to ± 2.5 ml, where slopes differ or do not."""
    from brainscm.scm.slope_spread import random_slopes

    for n in SIZES[:3]:
        for spread, noise in itertools.product((0.0, 0.15, 0.3, 0.6), ("normal", "skewed")):
            rng, held, formerly = np.random.default_rng([n, int(100 * spread), len(noise)]), [], []
            for _ in range(trials):
                slopes = random_slopes(*visits_in_time(rng, n, spread, noise))
                if slopes is None:
                    continue
                truth = -30 * (1 + spread * rng.normal(size=100)) + rng.normal(0, 2.5, 100)
                half = 1.96 * 2.5
                held.append((np.abs(truth + 30) <= np.hypot(half, slopes.half_width_ml(10))).mean())
                formerly.append((np.abs(truth + 30) <= half).mean())
            yield {
                "participants": n,
                "noise": noise,
                "spread_of_slopes": spread,
                "coverage_95": float(np.mean(held)),
                "before_coverage_95": float(np.mean(formerly)),
            }


def imputed_rates(cohorts: int, latents: int = 200, imputations: int = 5) -> Iterator[dict[str, Any]]:
    """A score, a third of which is missing where a volume is large that it causes: its effects on volume and latent.

    The latent has far more independent effects of the score than the imputation has numbers to tell them by. `curve` is
    of the coefficient of the squared score, `line` of the score where there is no square.
    """
    import pandas as pd

    from brainscm.config import ScmOptions
    from brainscm.scm.image import fit_image
    from brainscm.scm.inference import pooled_test, wald_test
    from brainscm.scm.model import Scm

    for n in SIZES[1:3]:
        for shape, terms in (("line", "age + score"), ("curve", "age + score + I(score**2)")):
            held: dict[tuple[str, int], list[float]] = {}
            half_widths: dict[int, list[float]] = {1: [], imputations: []}
            for seed in range(cohorts):
                rng = np.random.default_rng([n, seed])
                age, effects = rng.normal(size=n), np.append(0.3 * rng.normal(size=latents), 15.0)
                score = 0.8 * age + rng.normal(size=n)
                acting = score if shape == "line" else score**2 / 2
                z = 0.3 * age[:, None] + acting[:, None] * effects + rng.normal(size=(n, latents + 1))
                z[:, -1] += 500 + 14 * rng.normal(size=n)
                lost = scipy.stats.rankdata(z[:, -1] + rng.normal(0, 20, n)) > n * 2 / 3
                ids = [f"s{i}" for i in range(n)]
                table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age, "gm_ml": z[:, -1]})
                table["score"] = np.where(lost, np.nan, score)
                for m in (1, imputations):
                    options = ScmOptions.model_validate(
                        {
                            "nodes": {"age": {}, "score": {"formula": "age"}},
                            "image": {"formula": terms, "shrinkage": "none"},
                            "permutations": 0, "missing": "impute", "imputations": m,
                        }
                    )  # fmt: skip
                    sample = Scm.fit(table, z[:, :-1], options, seed=seed).sample(z, range(n))
                    c = np.eye(sample.x.shape[1])[-1:]
                    fits = [fit_image(each, seed=0, drawn=False) for each in sample.completed]
                    test = pooled_test([wald_test(each, c) for each in fits])
                    half = scipy.stats.t.ppf(0.975, test.df2) * test.standard_error
                    truth = effects if shape == "line" else effects / 2
                    covered = np.abs(test.statistic * test.standard_error - truth) < half
                    held.setdefault(("volume", m), []).append(float(covered[-1]))
                    held.setdefault(("latent", m), []).append(float(covered[:-1].mean()))
                    half_widths[m].append(float(half[:-1].mean()))
            for outcome in ("volume", "latent"):
                yield {
                    "participants": n,
                    "missing": "a third, by the volume",
                    "effect": shape,
                    "outcome": outcome,
                    "imputations": imputations,
                    "coverage_95": float(np.mean(held[outcome, imputations])),
                    "before_coverage_95": float(np.mean(held[outcome, 1])),
                    "width_to_before": float(np.mean(half_widths[imputations]) / np.mean(half_widths[1])),
                }


def shrunken_coverage(cohorts: int) -> Iterator[dict[str, Any]]:
    """What is shown ± t times its uncertainty, where an effect in a third of the lattice is 0 to 1 noise deviations.

    With 8 draws it is what the maps show; with `all` the draws that there could be.
    """
    for n, strength in itertools.product(SIZES[:3], (0.0, 0.1, 0.3, 1.0)):
        yield from shrunken_rates(cohorts, n, strength, None)


def shrunken_totals(cohorts: int) -> Iterator[dict[str, Any]]:
    """The same of the total effect of a number beside levels, through a volume that is measured from the image.

    The volume acts, or is measured so badly that only its own error goes with the image. All of the lattice shares the
    error of what age does to the volume, so that cohorts differ.
    """
    for n, strength, mediator in itertools.product(SIZES[:3], (0.3, 1.0), ("acts", "badly measured")):
        yield from shrunken_rates(cohorts, n, strength, mediator)


def shrunken_rates(cohorts: int, n: int, strength: float, mediator: str | None) -> Iterator[dict[str, Any]]:
    """Rows of all cells and of those where the true effect is strongest; the error of a rate is that over cohorts."""
    rng = np.random.default_rng([n, int(10 * strength), *map(ord, mediator or "")])
    rates: dict[tuple[str, object, str], list[float]] = {}
    for _ in range(cohorts):
        effect, covered = shown_total(rng, n, strength, mediator)
        strongest = np.abs(effect) >= np.quantile(np.abs(effect), 0.9)
        for (draws, when), cells in covered.items():
            rates.setdefault(("all", draws, when), []).append(float(cells.mean()))
            if strength:
                rates.setdefault(("strongest tenth", draws, when), []).append(float(cells[strongest].mean()))
    for (cells, draws, when), found in rates.items():
        if when == "now":
            told = {"participants": n, "effect_sd": strength, "mediator": mediator, "cells": cells, "draws": draws}
            before = rates.get((cells, draws, "before"))
            yield {
                **told,
                "coverage_95": float(np.mean(found)),
                "standard_error": float(np.std(found, ddof=1) / np.sqrt(cohorts)),
                **({"before_coverage_95": float(np.mean(before))} if before else {}),
            }


def shown_total(
    rng: np.random.Generator, n: int, strength: float, mediator: str | None
) -> tuple[np.ndarray, dict[tuple[object, str], np.ndarray]]:
    """The true total effect of `age`, (latent), and where intervals hold it, by how many draws and by which rule."""
    import pandas as pd

    from brainscm.config import ScmOptions
    from brainscm.scm.inference import contrast_row
    from brainscm.scm.model import Scm

    shape, places = (4, 12, 12, 12), (np.arange(12) < 4)[:, None, None]
    ids = [f"s{i}" for i in range(n)]
    age, own = rng.normal(size=(2, n))
    table = pd.DataFrame({"scan": ids, "participant": ids, "split": "train", "age": age})
    effects = strength * rng.normal(size=(3, *shape)) * places
    total, causes, formula, nodes = effects[0], [age], "age", {"age": {}}
    if mediator:
        table["group"] = rng.permutation(np.resize(["A", "B", "C"], n))
        is_b = (table["group"] == "B").to_numpy() * 1.0
        table["volume_ml"] = 0.7 * age + 0.5 * is_b + own
        causes += [is_b, table["volume_ml"].to_numpy() if mediator == "acts" else own]
        total = total + 0.7 * effects[2] if mediator == "acts" else total
        nodes |= {"group": {"levels": ["A", "B", "C"]}, "volume": {"formula": "age + group", "column": "volume_ml"}}
        formula = "age + group + volume"
    z = np.tensordot(causes, effects[: len(causes)], axes=(0, 0)) + rng.normal(size=(n, *shape))
    options = ScmOptions.model_validate(
        {
            "nodes": nodes,
            "image": {"formula": formula},
            "contrasts": {"older": {"age": [0.0, 1.0]}},
            "permutations": 0,
        }
    )
    scm = Scm.fit(table, z, options, seed=int(rng.integers(1 << 31)))

    def change(model: Scm) -> np.ndarray:
        return np.asarray(model.image.predict(contrast_row(model, "older", "total"))[0])

    shown = change(scm)
    distance = np.abs(shown - total)
    drawn = np.sqrt(np.mean([np.square(change(scm.draw(k)) - shown) for k in range(scm.draws)], axis=0))
    held: dict[tuple[object, str], np.ndarray] = {(8, "now"): distance < scipy.stats.t.ppf(0.975, scm.draws) * drawn}
    if mediator is None:
        x = scm.design_matrix(table)
        plain = np.tensordot(np.linalg.pinv(x)[1], z, axes=1)
        error = np.sqrt(np.linalg.inv(x.T @ x)[1, 1] * scm.image.residual_variance)
        t = scipy.stats.t.ppf(0.975, n - 2)
        held["all", "now"] = distance < t * np.sqrt(np.square(plain - shown) + error**2)
        held["all", "before"] = distance <= t * np.sqrt((shown / plain).clip(0, 1)) * error
    return total, held


if __name__ == "__main__":
    main()
