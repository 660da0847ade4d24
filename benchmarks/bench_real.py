"""The benchmark on real heads: regional change a year under do(age), beside the slope across the same participants.

make bench-real BIDS=<folder> [LABELS=<dlmuse>]

Every participant is tested once: five studies (benchmarks/real.yaml) share the preprocessed scans and leave out another
fifth of the participants each. Their models are fitted as the workflow fits them, and again with the ages dealt out at
random among the participants (`permuted`, which must move nothing), without what the latent holds of tissue density
(`without_density`), and by least squares (`least_squares`), so that what is lost can be told by stage. Beside them
stand the slopes of volumes that another program measured (LABELS: DLMUSE's folder, with volumes.tsv and a label map of
each raw scan, by which the lobes and the hippocampus are found in it). Across participants and under do(age) are
different from change within a participant, of which the published rates in docs/validation.md speak.

The counterfactuals are made in memory, without the draws that tell their uncertainty: those would take eight times as
long. Writes benchmarks/results/real.json; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import statsmodels.api as sm
import yaml
from lobes import LOBES, lobes_ml, territories
from parts import APPEARANCE, DISPLACEMENT, of_parts
from record import RESULTS, circumstances, write

from brainscm.counterfactuals.queries import plan_query
from brainscm.evaluation.methods import Method
from brainscm.evaluation.slopes import regional_slopes
from brainscm.images import Mask, Volume
from brainscm.latents.encoded import EncodedScans
from brainscm.parallel import side_by_side
from brainscm.preprocess.itk import read_matrix
from brainscm.preprocess.template import Template, load_template
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
# What the regions are called in DLMUSE's table; its CSF lies outside the ventricles, ours everywhere.
LABELS = {
    "gm": ["601_GM"],
    "wm": ["604_WM"],
    "csf": ["600_CorticalCSF", "509_Ventricles"],
    "ventricles": ["509_Ventricles"],
    "medial_temporal_gm": ["307_Limbic_Medial_Temporal_GM"],
    "frontal_gm": ["404_Frontal_GM"],
    "parietal_gm": ["409_Parietal_GM"],
    "occipital_gm": ["407_Occipital_GM"],
    "temporal_gm": ["411_Temporal_GM"],
    "hippocampus_gm": ["47_Hippocampus_R", "48_Hippocampus_L"],
}
LABELS_MASK = "702_ICV"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bids", type=Path, help="BIDS folder whose participants.tsv has age and sex")
    parser.add_argument("--labels", type=Path, help="DLMUSE's folder: volumes.tsv and label maps")
    parser.add_argument("--folder", type=Path, default=ROOT / "work" / "real", help="where the studies are kept")
    parser.add_argument("--participants", type=int, help="only so many, to try the benchmark out")
    parser.add_argument("--folds", type=int, default=FOLDS, help="only the first, to go on another day")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    participants = write_cohort(arguments.bids.resolve(), arguments.folder / "bids", arguments.participants)
    studies = [Study(arguments.folder, fold, arguments.cores) for fold in folds()[: arguments.folds]]
    studies[0].run("preprocess")
    for study in studies[1:]:
        study.share(studies[0])
    for study in studies:
        study.run("latents")
    answers = [study.answers(arguments.labels) for study in studies]
    lobes = studies[0].lobes(arguments.labels)
    regions = [*COMPARED, *(column.removesuffix("_ml") for column in lobes.drop(columns="scan"))]
    tables = [study.slopes(asked, lobes, regions) for study, asked in zip(studies, answers, strict=True)]
    figures = compared(tables, regions)
    if arguments.labels:
        add_labels(figures["regions"], arguments.labels / "volumes.tsv", participants)
    figures |= {"participants": len(participants), "folds": len(studies)}
    command = "make bench-real BIDS=<folder>" + (" LABELS=<dlmuse>" if arguments.labels else "")
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

    @cached_property
    def encoded(self) -> EncodedScans:
        names = ("cohort/scans.tsv", "preproc/qc.tsv", "latents/latents.zarr", "autoencoder/model.pt")
        return EncodedScans.open(*(self.results / name for name in names))

    @cached_property
    def template(self) -> Template:
        config = load_config(ROOT, self.options)
        return load_template(config.template, config.preprocess.voxel_mm)

    @cached_property
    def models(self) -> dict[str, Scm]:
        """By fit, the model of the participants that this study does not test."""
        config, store = load_config(ROOT, self.options), self.encoded.store
        of_latents = self.encoded.scans.rows.loc[list(store.scans)]
        models: dict[str, Scm] = {}
        for name, (ages, shrinkage) in FITS.items():
            options = config.scm.model_copy(deep=True)
            options.nodes["age"].column, options.image.shrinkage = ages, shrinkage
            models[name] = Scm.fit(of_latents, store.latents, options, config.seed, store.layout, store.identity)
        models["without_density"] = of_parts(models["do_age"], store.layout, DISPLACEMENT + APPEARANCE)
        return models

    def measure(self, scan: str, volume: Volume, labels: Path | None) -> Callable[[Volume], dict[str, float]]:
        """Measures regions, and by a label map the lobes, of a scan and of what stands in its place (ml)."""
        scans, own = self.encoded.scans, dict[str, Mask]()
        of_scan = MeasureTissues(self.template)(volume, scans.geometry(scan))
        if labels:
            label_map = next((labels / scan.partition("_")[0] / "anat").glob("*_dseg.nii.gz"))
            own = territories(label_map, read_matrix(scans.path(scan, "to_template")), self.template)
        return lambda image: of_scan.volumes_ml(image) | lobes_ml(of_scan.shares(image), own, of_scan.voxel_ml)

    def lobes(self, labels: Path | None) -> pd.DataFrame:
        """Volume (ml) of each lobe of all scans, a row a scan; without label maps no lobes."""
        scans = self.encoded.scans
        table = scans.usable[["scan"]].reset_index(drop=True)
        if labels is None:
            return table

        def of_scan(scan: str) -> dict[str, float]:
            volume = scans.volume(scan)
            found = self.measure(scan, volume, labels)(volume)
            return {f"{lobe}_ml": found[lobe] for lobe in LOBES}

        return table.join(pd.DataFrame(side_by_side(of_scan, table["scan"])))

    def answers(self, labels: Path | None) -> pd.DataFrame:
        """What do(age) changes in each region (ml) of the scans that this study tests, a row a scan and fit.

        Kept in a table beside the study, until its latents are newer.
        """
        kept = self.file.parent / ("answers_by_lobe.tsv" if labels else "answers.tsv")
        if kept.is_file() and kept.stat().st_mtime > (self.results / "latents" / "latents.zarr").stat().st_mtime:
            return read_table(kept)
        scans, store = self.encoded.scans, self.encoded.store
        (query,) = read_queries(load_config(ROOT, self.options).counterfactuals)
        tested = scans.of_split("test")
        steps = {name: plan_query(scm, tested, query).step for name, scm in self.models.items()}

        def changes(position: int) -> list[dict[str, Any]]:
            row = tested.iloc[position]
            scan = str(row["scan"])
            volume, mask = scans.volume(scan), scans.mask(scan)
            volumes_ml = self.measure(scan, volume, labels)
            before = volumes_ml(volume)
            rows = []
            for name, scm in self.models.items():
                method = Method(name, self.encoded.encoder, scm.image)
                factual = method.factual(volume, store.of(scan), self.encoded.levels(scan))
                made = method.predict(factual, steps[name][position]).masked(mask)
                after = volumes_ml(made.volume)
                about = {"fit": name, "scan": scan, "participant": row["participant"], "query": query.name}
                about |= {"node": "age", "effect": query.effect, "step": YEARS}
                rows.append(about | {f"{region}_ml": after[region] - before[region] for region in after})
            return rows

        table = pd.DataFrame([row for rows in side_by_side(changes, range(len(tested))) for row in rows])
        write_table(table, kept)
        return table

    def slopes(self, answers: pd.DataFrame, lobes: pd.DataFrame, regions: list[str]) -> dict[str, pd.DataFrame]:
        """Regional change a year across participants and under do(age), by fit.

        Args:
            lobes: see there.
        """
        usable = self.encoded.scans.usable.merge(lobes, on="scan")
        return {
            name: regional_slopes(self.models[name], usable, rows, regions) for name, rows in answers.groupby("fit")
        }


def pooled(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean change a year over all participants and its standard error, by region, from the folds' tables."""
    found = {}
    for region, rows in pd.concat(tables).groupby("region", sort=False):
        weights = rows["counterfactuals"] / rows["counterfactuals"].sum()
        errors = (rows["counterfactual_high_ml"] - rows["counterfactual_low_ml"]) / (2 * 1.96)
        mean = (weights * rows["counterfactual_slope_ml"]).sum()
        found[region] = {"ml": mean, "error_ml": np.sqrt((weights**2 * errors**2).sum())}
    return pd.DataFrame(found).T


def compared(tables: list[dict[str, pd.DataFrame]], measured: list[str]) -> dict[str, Any]:
    """By region: the slope across participants of one mask volume, the change under do(age) by each fit, and ratios."""
    across = tables[0]["do_age"].set_index("region")  # the same in every study: of all scans
    changes = {fit: pooled([table[fit] for table in tables]) for fit in tables[0]}
    regions: dict[str, Any] = {}
    for region in measured:
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
