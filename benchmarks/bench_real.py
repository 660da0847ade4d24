"""The benchmark on real heads: regional change a year under do(age), beside the slope across the same participants.

make bench-real BIDS=<folder> [LABELS=<volumes.tsv>]

Every participant is tested once: five studies (benchmarks/real.yaml) share the preprocessed scans and leave out another
fifth of the participants each. The same five are run with the ages dealt out at random among the participants they are
fitted on, which must move nothing. Beside them stand the slopes of volumes that another program measured (LABELS: a
table with `participant_id` and mm³ by region, named as DLMUSE names them). Across participants and under do(age) are
different from change within a participant, of which the published rates in docs/validation.md speak.

Writes benchmarks/results/real.json; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
import yaml
from record import RESULTS, circumstances, write

from brainscm.config_loading import load_config
from brainscm.evaluation.inputs import EvaluationInputs
from brainscm.evaluation.slopes import counterfactual_changes, regional_slopes
from brainscm.latents.encoded import EncodedScans
from brainscm.preprocess.template import load_template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.questions import read_queries
from brainscm.regions import COMPARED
from brainscm.scm.model import load_scm
from brainscm.tables import read_table, write_table

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "benchmarks" / "real.yaml"
FOLDS = 5
VALIDATION = 4  # participants of each study, from among those that are not tested
SEED = 20260101
# What the regions are called in a table of DLMUSE volumes; its CSF lies outside the ventricles, ours everywhere.
LABELS = {
    "gm": ["601_GM"],
    "wm": ["604_WM"],
    "csf": ["600_CorticalCSF", "509_Ventricles"],
    "ventricles": ["509_Ventricles"],
    "medial_temporal_gm": ["307_Limbic_Medial_Temporal_GM"],
}
LABELS_MASK = "702_ICV"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids", type=Path, help="BIDS folder whose participants.tsv has age and sex")
    parser.add_argument("--labels", type=Path, help="table of another program's volumes")
    parser.add_argument("--folder", type=Path, default=ROOT / "work" / "real", help="where the studies are kept")
    parser.add_argument("--participants", type=int, help="only so many, to try the benchmark out")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    participants = write_cohort(arguments.bids.resolve(), arguments.folder / "bids", arguments.participants)
    shared = Study(arguments.folder, "shared", "fold_1", "age", arguments.cores)
    shared.run("preprocess")
    changes, tables = {}, []
    for ages in ("age", "permuted_age"):
        studies = [Study(arguments.folder, f"{ages}_{fold}", fold, ages, arguments.cores) for fold in folds()]
        for study in studies:
            study.share(shared)
            study.run("counterfactuals")
        tables = [study.slopes() for study in studies]
        changes[ages] = pooled(tables)
    figures = compared(changes, tables[0].set_index("region"))
    if arguments.labels:
        add_labels(figures["regions"], arguments.labels, participants)
    figures |= {"participants": len(participants), "folds": FOLDS}
    command = "make bench-real BIDS=<folder>" + (" LABELS=<volumes.tsv>" if arguments.labels else "")
    figures |= circumstances(platform.system(), f"{os.cpu_count()} cores", command=command)
    print(write(figures, RESULTS / "real.json"))


def folds() -> list[str]:
    return [f"fold_{fold}" for fold in range(1, FOLDS + 1)]


def write_cohort(bids: Path, folder: Path, most: int | None) -> pd.DataFrame:
    """A BIDS folder of links to the scans, whose table holds a split for each fold and the ages dealt out at random.

    Participants without age or sex are left out. Folds are made alike in age: of five neighbours in age each goes to
    another.
    """
    table = read_table(bids / "participants.tsv").dropna(subset=["age", "sex"]).sort_values("age", ignore_index=True)
    if most:
        table = table.iloc[np.unique(np.linspace(0, len(table) - 1, most).round().astype(int))].reset_index(drop=True)
    rng = np.random.default_rng(SEED)
    fold = np.concatenate([rng.permutation(FOLDS) for _ in range(0, len(table), FOLDS)])[: len(table)]
    for number, name in enumerate(folds()):
        split = np.where(fold == number, "test", "train").astype(object)
        others = np.flatnonzero(fold != number)
        split[others[np.linspace(0, len(others) - 1, VALIDATION).round().astype(int)]] = "validation"
        table[name] = split
    table["permuted_age"] = rng.permutation(table["age"])
    folder.mkdir(parents=True, exist_ok=True)
    for path in [bids / "dataset_description.json", *(bids / participant for participant in table["participant_id"])]:
        link = folder / path.name
        if not link.is_symlink():
            link.symlink_to(path)
    write_table(table, folder / "participants.tsv")
    return table


class Study:
    """A study of these scans: which fold is tested, and which column holds the ages."""

    def __init__(self, folder: Path, name: str, fold: str, ages: str, cores: int) -> None:
        self.results, self.cores = folder / name / "results", cores
        options = yaml.safe_load(STUDY.read_text())
        options["bids_dir"], options["cohort"] = str(folder / "bids"), {"split": {"column": fold}}
        options["output_dir"], options["work_dir"] = str(self.results), str(folder / "work")
        options["scm"]["nodes"]["age"]["column"] = ages
        self.options, self.file = options, folder / name / "study.yaml"

    def run(self, target: str) -> None:
        """Run the workflow up to a target."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(yaml.safe_dump(self.options))
        command = [sys.executable, "-m", "snakemake", target, "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(ROOT), "--cores", str(self.cores), "--profile", str(ROOT / "profiles" / "local")]
        command += ["--configfile", str(self.file)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")})

    def share(self, other: Study) -> None:
        """Take another study's preprocessed scans: links to all but the table that tells the split."""
        ours, theirs = self.results / "preproc", other.results / "preproc"
        ours.mkdir(parents=True, exist_ok=True)
        for path in theirs.iterdir():
            if path.is_dir() and not (ours / path.name).is_symlink():
                (ours / path.name).symlink_to(path)

    def slopes(self) -> pd.DataFrame:
        """Regional change a year across participants and under do(age), of the scans that this study tests."""
        config = load_config(ROOT, self.options)
        names = ("cohort/scans.tsv", "preproc/qc.tsv", "latents/latents.zarr", "autoencoder/model.pt")
        template = load_template(config.template, config.preprocess.voxel_mm)
        inputs = EvaluationInputs.open(
            encoded=EncodedScans.open(*(self.results / name for name in names)),
            scm=load_scm(self.results / "scm", config.scm),
            reconstruction=self.results / "autoencoder" / "reconstruction.tsv",
            manifest=self.results / "counterfactuals" / "manifest.tsv",
            queries=read_queries(config.counterfactuals),
            bids_dir=self.results,
            components=config.autoencoder.components,
            measure=MeasureTissues(template),
        )
        return regional_slopes(inputs.scm, inputs.scans.usable, counterfactual_changes(inputs), COMPARED)


def pooled(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean change a year over all participants and its standard error, by region, from the folds' tables."""
    found = {}
    for region, rows in pd.concat(tables).groupby("region", sort=False):
        weights = rows["counterfactuals"] / rows["counterfactuals"].sum()
        errors = (rows["counterfactual_high_ml"] - rows["counterfactual_low_ml"]) / (2 * 1.96)
        mean = (weights * rows["counterfactual_slope_ml"]).sum()
        found[region] = {"ml": mean, "error_ml": np.sqrt((weights**2 * errors**2).sum())}
    return pd.DataFrame(found).T


def compared(changes: dict[str, pd.DataFrame], across: pd.DataFrame) -> dict[str, Any]:
    """By region: the slope across participants of one mask volume, the change under do(age), and their ratio."""
    regions = {}
    for region in COMPARED:
        slope = float(across.loc[region, "same_mask_slope_ml"])
        error = (float(across.loc[region, "same_mask_high_ml"]) - slope) / 1.96
        regions[region] = {"across_ml_a_year": {"value": round(slope, 4), "error": round(error, 4)}}
        for name, key in (("age", "ratio"), ("permuted_age", "ratio_permuted")):
            mean, own = changes[name].loc[region, ["ml", "error_ml"]]
            regions[region][f"{name.replace('permuted_age', 'permuted').replace('age', 'do_age')}_ml_a_year"] = {
                "value": round(mean, 4),
                "error": round(own, 4),
            }
            # The error of a ratio to first order: of the change within the counterfactuals, and of the slope across.
            width = 1.96 * np.hypot(own / slope, mean * error / slope**2)
            regions[region][key] = round(mean / slope, 3)
            regions[region][f"{key}_ci95"] = [round(mean / slope - width, 3), round(mean / slope + width, 3)]
    return {"regions": regions}


def add_labels(regions: dict[str, Any], labels: Path, participants: pd.DataFrame) -> None:
    """The slope across participants of one intracranial volume in another program's volumes, and the ratio to it."""
    table = read_table(labels).merge(participants, on="participant_id")
    x = pd.DataFrame({"age": table["age"], "male": (table["sex"] == "M").astype(float), "icv": table[LABELS_MASK]})
    for region, columns in LABELS.items():
        fit = sm.OLS(table[columns].sum(axis=1) / 1000, sm.add_constant(x)).fit()
        slope, error = float(fit.params["age"]), float(fit.bse["age"])
        regions[region]["labels_ml_a_year"] = {"value": round(slope, 4), "error": round(error, 4)}
        regions[region]["ratio_to_labels"] = round(regions[region]["do_age_ml_a_year"]["value"] / slope, 3)


if __name__ == "__main__":
    main()
