"""The standing benchmark: counterfactuals of a simulated cohort against the true ones, every method side by side.

make bench-truth ANATOMIES=folder [SEED=2] [PARTICIPANTS=32]

Runs the study benchmarks/truth.yaml through the workflow, raw heads to evaluation, prints the methods' table and
writes benchmarks/results/truth.json (of another seed truth_seed2.json, and so on). The heads are made from the label
maps of real people in that folder, and those that are tested from other maps than those that are learned from.
ANATOMIES=embedded makes all heads from the one that the project brings along, and writes truth_embedded.json: a kinder
cohort, since it is also the template.

An interrupted run goes on where it stopped. The cohort, its split and every random number follow from the seed: tune on
one seed, evaluate on another.

`--options other.yaml` lays a study's options over truth.yaml and writes truth_other.json; what they do not touch (the
cohort and its preprocessing, most of the time) is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
from record import RESULTS, circumstances, write

from brainscm.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "benchmarks" / "truth.yaml"
SEED = 20260101
EMBEDDED = "embedded"
# Fewer than of the embedded head's 160: each map has to be prepared, and all is to be done in 90 minutes on 2 cores.
PARTICIPANTS_OF_ANATOMIES = 128
METRICS = {
    "psnr_brain_db": 2,
    "ssim_brain": 4,
    "change_correlation": 3,
    "change_slope": 3,
    "region_volume_mae_ml": 2,
    "effectiveness_mae_ml": 2,
    "interval_coverage_50": 3,
    "interval_coverage_80": 3,
    "interval_coverage_95": 3,
}
OURS, BASELINES = "latent_glm residual", {"persistence": "none", "voxel_glm": "residual", "pca_glm": "residual"}
AIMS = {
    "change_correlation": "0.80 or more",
    "change_slope": "0.9 to 1.1",
    "psnr_brain_db": "persistence + 4 dB, voxel_glm + 1.5 dB, pca_glm + 1 dB",
    "interval_coverage_95": "0.93 to 0.97",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--anatomies", help="folder of whole-head label maps, or `embedded`: the head that the project brings along"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--participants", type=int, help="a smaller cohort and a short training, to try the benchmark out"
    )
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--options", type=Path, help="a YAML file laid over benchmarks/truth.yaml")
    arguments = parser.parse_args()

    if not arguments.anatomies:
        sys.exit(
            "bench-truth: name a folder of whole-head label maps (make bench-truth ANATOMIES=folder); "
            f"ANATOMIES={EMBEDDED} takes the head that the project brings along."
        )
    name = f"truth_{EMBEDDED}" if arguments.anatomies == EMBEDDED else "truth"
    name += f"_seed{arguments.seed}" if arguments.seed != SEED else ""
    name += f"_participants{arguments.participants}" if arguments.participants else ""
    folder = ROOT / "work" / name
    name += f"_{arguments.options.stem}" if arguments.options else ""
    start = time.monotonic()
    run_workflow(folder, arguments)
    minutes = (time.monotonic() - start) / 60

    figures = read_figures(folder)
    figures |= {
        "seed": arguments.seed,
        "minutes_of_this_call": round(minutes, 1),
        **circumstances(platform.system(), f"{os.cpu_count()} cores"),
    }
    write(figures, RESULTS / f"{name}.json")
    print(table_of(figures))
    print(f"\nbenchmarks/results/{name}.json")


def run_workflow(folder: Path, arguments: argparse.Namespace) -> None:
    """Raw heads to evaluation, in a folder of its own; the report is not made."""
    command = [sys.executable, "-m", "snakemake", "evaluation", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(ROOT), "--cores", str(arguments.cores)]
    command += ["--profile", str(ROOT / "profiles" / "local")]
    command += ["--configfile", str(STUDY), *([str(arguments.options.resolve())] if arguments.options else [])]
    command += ["--config", f"seed={arguments.seed}", f"output_dir={folder / 'results'}"]
    command += [f"work_dir={folder / 'work'}"]
    simulation: dict[str, Any] = {}
    if arguments.anatomies != EMBEDDED:
        simulation = {"anatomies": str(Path(arguments.anatomies).resolve()), "participants": PARTICIPANTS_OF_ANATOMIES}
    if arguments.participants:
        simulation["participants"] = arguments.participants
        command.append("autoencoder={max_steps: 100, validation_interval: 50}")
    if simulation:
        command.append(f"simulation={json.dumps(simulation)}")
    # The scripts of the rules import the library from this checkout, whatever else is installed.
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")})


def read_figures(folder: Path) -> dict[str, Any]:
    """All figures of a finished run: methods, margins over the baselines, floors, simulator, wall times."""
    results, truth = folder / "results", folder / "work" / "simulation" / "bids" / "derivatives" / "truth"
    metrics = read_table(results / "evaluation" / "metrics.tsv")
    means = metrics[(metrics["level"] == "mean") & metrics["region"].isna()]
    simulated = means[means["source"] == "simulated"]
    overall = by_method(simulated[simulated["stratum"] == "all"])
    scans = read_table(results / "cohort" / "scans.tsv")
    status = read_table(results / "preproc" / "qc.tsv")["status"].value_counts().to_dict()
    return {
        "cohort": {
            "participants": scans.groupby("split")["participant"].nunique().to_dict(),
            "preprocessing": status,
            "tested_scans": int(simulated["scans"].max()),
        },
        "anatomies": scans["anatomy"].nunique() if "anatomy" in scans else 1,
        "anatomies_by_split": scans.groupby("split")["anatomy"].nunique().to_dict() if "anatomy" in scans else None,
        "methods": overall,
        "aims": AIMS,
        "psnr_margin_db": {
            name: difference(overall[OURS], overall[f"{name} {decode}"], "psnr_brain_db")
            for name, decode in BASELINES.items()
        },
        "by_query": {
            str(stratum).removeprefix("query="): by_method(part)
            for stratum, part in simulated[simulated["stratum"].str.startswith("query=")].groupby("stratum", sort=False)
        },
        "reconstruction": by_method(means[(means["source"] == "reconstruction") & (means["stratum"] == "all")]),
        "minimality": minimality(read_table(results / "evaluation" / "minimality.tsv")),
        "realism": realism(read_table(results / "evaluation" / "realism.tsv")),
        "simulator": recovered_coefficients(truth),
        "mediators": measured_mediators(truth, results / "preproc"),
        "wall_minutes": wall_minutes(results / "benchmarks"),
    }


def by_method(means: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`method decode` -> metric -> value with its 95 % interval over participants; null where it has none."""
    found: dict[str, dict[str, Any]] = {}
    for row in means[means["metric"].isin(METRICS)].itertuples():
        ends = [finite(row.ci95_low), finite(row.ci95_high)]
        found.setdefault(f"{row.method} {row.decode}", {})[row.metric] = {"value": finite(row.value), "ci95": ends}
    return found


def finite(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None


def difference(ours: dict[str, Any], theirs: dict[str, Any], metric: str) -> float:
    return round(ours[metric]["value"] - theirs[metric]["value"], 3)


def minimality(matrix: pd.DataFrame) -> dict[str, Any]:
    """Mean absolute excess of each region over the queries, and in how many the excess passes the noise floor."""
    found: dict[str, Any] = {"noise": str(matrix["noise_source"].iloc[0])}
    for (method, decode), part in matrix.groupby(["method", "decode"], sort=False):
        cells = part[["excess_ml", "noise_ml", "beyond_noise"]].assign(excess_ml=part["excess_ml"].abs())
        cells["beyond_noise"] = cells["beyond_noise"].astype(str).str.lower() == "true"
        means = cells.groupby(part["region"], sort=False).mean().round(3)
        found[f"{method} {decode}"] = means.to_dict("index")
    return found


def realism(table: pd.DataFrame) -> dict[str, Any]:
    """By method and features: the share of queries whose counterfactuals are told from real scans at p < 0.05."""
    known = table[table["p"].notna()]
    told = (known["p"] < 0.05).groupby([known["method"] + " " + known["decode"], known["features"]], sort=False)
    return {f"{method}, {features}": round(float(share), 3) for (method, features), share in told.mean().items()}


def recovered_coefficients(truth: Path) -> dict[str, Any]:
    """Whether the simulator's declared coefficients lie in the 99 % intervals of fits to the true volumes of the heads.

    The volumes are those of the label maps' own tissue fractions on the scanner's grid, not the values that were drawn.
    """
    declared = json.loads((truth.parents[1] / "truth.json").read_text())["coefficients"]
    participants = read_table(truth / "nodes.tsv").merge(read_table(truth / "volumes.tsv"), on="scan")
    participants = participants[participants["scan"].str.endswith("ses-01")]
    decades = (participants["age"] - 50) / 10
    male = (participants["sex"] == "M").astype(float)
    terms = {
        "intercept": pd.Series(1.0, index=participants.index),
        "d": decades,
        "d2": decades**2,
        "male": male,
        "d_male": decades * male,
        "mci": (participants["diagnosis"] == "MCI").astype(float),
        "ad": (participants["diagnosis"] == "AD").astype(float),
        "log_head_size_ratio": np.log(participants["head_size"] / 1400),
    }
    found = {}
    for node in ("ventricles", "medial_temporal_gm"):
        equation = {term: value for term, value in declared[f"log_{node}"].items() if term != "noise"}
        design = pd.DataFrame({term: terms[term] for term in equation})
        ends = sm.OLS(np.log(participants[f"{node}_ml"]), design).fit().conf_int(alpha=0.01)
        found[node] = {
            term: {"declared": value, "ci99": [round(end, 4) for end in ends.loc[term]]}
            | {"recovered": bool(ends.loc[term, 0] <= value <= ends.loc[term, 1])}
            for term, value in equation.items()
        }
    return found


def measured_mediators(truth: Path, preproc: Path) -> dict[str, Any]:
    """The mediators as preprocessing measures them beside their true volumes: what it means to hold them.

    `correlation`, `median_ratio` (measured over true), and `correlation_given_others`: of their logarithms, given age,
    its square, sex, diagnosis and head size.
    """
    participants = read_table(truth / "nodes.tsv").merge(read_table(truth / "volumes.tsv"), on="scan")
    participants = participants.merge(read_table(preproc / "qc.tsv"), on="scan", suffixes=("_true", "_measured"))
    participants["head"] = np.log(participants["head_size_true"])
    found = {}
    for node in ("ventricles", "medial_temporal_gm"):
        pair = participants[[f"{node}_ml_measured", f"{node}_ml_true"]].dropna()
        others = "age + I(age**2) + sex + C(diagnosis) + head"
        rest = [smf.ols(f"np.log({column}) ~ {others}", participants.loc[pair.index]).fit().resid for column in pair]
        found[node] = {
            "correlation": round(float(pair.corr().iloc[0, 1]), 3),
            "correlation_given_others": round(float(np.corrcoef(rest)[0, 1]), 3),
            "median_ratio": round(float((pair.iloc[:, 0] / pair.iloc[:, 1]).median()), 3),
        }
    return found


def wall_minutes(folder: Path) -> dict[str, float]:
    """Minutes of each rule's jobs, one after the other; jobs that ran side by side count each."""
    seconds = {}
    for path in sorted(folder.iterdir()):
        files = sorted(path.glob("**/*.tsv")) if path.is_dir() else [path]
        seconds[path.stem] = sum(float(pd.read_csv(file, sep="\t")["s"].iloc[-1]) for file in files)
    return {rule: round(total / 60, 2) for rule, total in seconds.items()}


def table_of(figures: dict[str, Any]) -> str:
    """The methods' table as text."""
    rows = {
        method: {metric: found.get(metric, {}).get("value") for metric in METRICS}
        for method, found in figures["methods"].items()
    }
    shown = pd.DataFrame(rows, dtype=float).T.round(METRICS).to_string(na_rep="")
    wanted = "\n".join(f"aim, {OURS.split()[0]}: {metric} {aim}" for metric, aim in figures["aims"].items())
    return f"{shown}\n\n{wanted}\nmargins (dB): {figures['psnr_margin_db']}"


if __name__ == "__main__":
    main()
