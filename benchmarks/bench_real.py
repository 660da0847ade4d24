"""The benchmark on real heads: regional change a year under do(age), beside the slope across the same participants.

make bench-real BIDS=<folder> [LABELS=<volumes.tsv>]

Every participant is tested once: five studies (benchmarks/real.yaml) share the preprocessed scans and leave out another
fifth of the participants each. Their models are fitted as the workflow fits them, and again with the ages dealt out at
random among the participants (`permuted`, which must move nothing), without what the latent holds of tissue density
(`without_density`), and by least squares (`least_squares`), so that what is lost can be told by stage. Beside them
stand the slopes of volumes that another program measured (LABELS: a table with `participant_id` and mm³ by region,
named as DLMUSE names them). Across participants and under do(age) are different from change within a participant, of
which the published rates in docs/validation.md speak.

The counterfactuals are made in memory, without the draws that tell their uncertainty: those would take eight times as
long. Writes benchmarks/results/real.json; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import statsmodels.api as sm
import yaml
from parts import APPEARANCE, DISPLACEMENT, of_parts
from record import RESULTS, circumstances, write

from brainscm.counterfactuals.queries import plan_query
from brainscm.evaluation.methods import Method
from brainscm.evaluation.slopes import regional_slopes
from brainscm.latents.encoded import EncodedScans
from brainscm.parallel import side_by_side
from brainscm.preprocess.template import load_template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.questions import read_queries
from brainscm.regions import COMPARED
from brainscm.scm.model import Scm
from brainscm.tables import read_table, write_table
from brainscm.workflow.config_loading import load_config

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "benchmarks" / "real.yaml"
FOLDS = 5
VALIDATION = 4  # participants of each study, from among those that are not tested
SEED = 20260101
YEARS = 20.0  # of the question in real.yaml
# How the models are fitted: the column of the ages, and the shrinkage.
FITS: dict[str, tuple[str, Literal["by_component", "none"]]] = {
    "do_age": ("age", "by_component"),
    "permuted": ("permuted_age", "by_component"),
    "least_squares": ("age", "none"),
}
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
    studies = [Study(arguments.folder, fold, arguments.cores) for fold in folds()]
    studies[0].run("preprocess")
    for study in studies[1:]:
        study.share(studies[0])
    for study in studies:
        study.run("latents")
    tables = [study.slopes() for study in studies]
    figures = compared(tables)
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
    """A study of these scans that tests one fold of them."""

    def __init__(self, folder: Path, fold: str, cores: int) -> None:
        self.results, self.cores = folder / fold / "results", cores
        options = yaml.safe_load(STUDY.read_text())
        options["bids_dir"], options["cohort"] = str(folder / "bids"), {"split": {"column": fold}}
        options["output_dir"], options["work_dir"] = str(self.results), str(folder / "work")
        self.options, self.file = options, folder / fold / "study.yaml"

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

    def slopes(self) -> dict[str, pd.DataFrame]:
        """Regional change a year across participants and under do(age), of the scans that this study tests, by fit."""
        config = load_config(ROOT, self.options)
        names = ("cohort/scans.tsv", "preproc/qc.tsv", "latents/latents.zarr", "autoencoder/model.pt")
        encoded = EncodedScans.open(*(self.results / name for name in names))
        measure = MeasureTissues(load_template(config.template, config.preprocess.voxel_mm))
        usable, store = encoded.scans.usable, encoded.store
        of_latents = encoded.scans.rows.loc[list(store.scans)]
        models: dict[str, Scm] = {}
        for name, (ages, shrinkage) in FITS.items():
            options = config.scm.model_copy(deep=True)
            options.nodes["age"].column, options.image.shrinkage = ages, shrinkage
            models[name] = Scm.fit(of_latents, store.latents, options, config.seed, store.layout, store.identity)
        models["without_density"] = of_parts(models["do_age"], store.layout, DISPLACEMENT + APPEARANCE)
        (query,) = read_queries(config.counterfactuals)
        tested = encoded.scans.of_split("test")
        steps = {name: plan_query(scm, tested, query).step for name, scm in models.items()}

        def changes(position: int) -> list[dict[str, Any]]:
            row = tested.iloc[position]
            scan = str(row["scan"])
            volume, geometry = encoded.scans.volume(scan), encoded.scans.geometry(scan)
            of_scan, mask = measure(volume, geometry), geometry.mask
            before = of_scan.volumes_ml(volume)
            rows = []
            for name, scm in models.items():
                method = Method(name, encoded.encoder, scm.image)
                factual = method.factual(volume, store.of(scan), encoded.levels(scan))
                made = method.predict(factual, steps[name][position]).masked(mask)
                after = of_scan.volumes_ml(made.volume)
                change = {f"{region}_ml": after[region] - before[region] for region in COMPARED}
                about = {"fit": name, "scan": scan, "participant": row["participant"], "query": query.name}
                rows.append({**about, "node": "age", "effect": query.effect, "step": YEARS, **change})
            return rows

        table = pd.DataFrame([row for rows in side_by_side(changes, range(len(tested))) for row in rows])
        return {name: regional_slopes(models[name], usable, rows, COMPARED) for name, rows in table.groupby("fit")}


def pooled(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean change a year over all participants and its standard error, by region, from the folds' tables."""
    found = {}
    for region, rows in pd.concat(tables).groupby("region", sort=False):
        weights = rows["counterfactuals"] / rows["counterfactuals"].sum()
        errors = (rows["counterfactual_high_ml"] - rows["counterfactual_low_ml"]) / (2 * 1.96)
        mean = (weights * rows["counterfactual_slope_ml"]).sum()
        found[region] = {"ml": mean, "error_ml": np.sqrt((weights**2 * errors**2).sum())}
    return pd.DataFrame(found).T


def compared(tables: list[dict[str, pd.DataFrame]]) -> dict[str, Any]:
    """By region: the slope across participants of one mask volume, the change under do(age) by each fit, and ratios."""
    across = tables[0]["do_age"].set_index("region")  # the same in every study: of all scans
    changes = {fit: pooled([table[fit] for table in tables]) for fit in tables[0]}
    regions: dict[str, Any] = {}
    for region in COMPARED:
        slope = float(across.loc[region, "same_mask_slope_ml"])
        error = (float(across.loc[region, "same_mask_high_ml"]) - slope) / 1.96
        regions[region] = {"across_ml_a_year": {"value": round(slope, 4), "error": round(error, 4)}}
        for fit, change in changes.items():
            mean, own = change.loc[region, ["ml", "error_ml"]]
            key = "ratio" if fit == "do_age" else f"ratio_{fit}"
            regions[region][f"{fit}_ml_a_year"] = {"value": round(mean, 4), "error": round(own, 4)}
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
