"""What the steps that read every scan cost, by the number of scans: processor time, memory and how they grow.

    python benchmarks/bench_scale.py [--scans 10 1000 5000]

Scans are empty files, statuses and manifests made up, latents of 512 numbers; each step is run as its rule runs it, in
a process of its own, without Snakemake. Writes results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from growth import Cost, cost, growth_exponents
from record import RESULTS, circumstances, write

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
QUERIES = ("older", "younger")
LATENT = (8, 4, 4, 4)


def index(folder: Path) -> None:
    from brainscm.cohort.index import index_cohort
    from brainscm.config import CohortOptions
    from brainscm.tables import write_table

    cohort = index_cohort(folder / "bids", CohortOptions(), ["age", "sex"], seed=0)
    write_table(cohort.scans, folder / "scans.tsv")


def collect_preprocessing(folder: Path) -> None:
    from brainscm.config import QualityOptions
    from brainscm.qc.collect import collect_preprocessing

    preproc = folder / "preproc"
    collect_preprocessing(folder / "scans.tsv", preproc, preproc / "qc.tsv", QualityOptions(), is_aligned=True)


def collect_counterfactuals(folder: Path) -> None:
    from brainscm.counterfactuals.collect import collect
    from brainscm.identity import Identity
    from brainscm.tables import read_table

    out = folder / "counterfactuals"
    parts = [out / "questions" / query / "1-of-1.tsv" for query in QUERIES]
    scans = read_table(folder / "scans.tsv")["scan"].tolist()
    identity = Identity.model_validate_json((folder / "identity.json").read_text())
    collect(parts, scans, QUERIES, ["age", "sex"], identity, out)


def read_scans(folder: Path) -> None:
    from brainscm.scans import ScanTable

    scans = ScanTable.read(folder / "scans.tsv", folder / "preproc" / "qc.tsv")
    for scan in scans.usable["scan"]:
        scans.path(scan, "preproc_t1w")


def gather_latents(folder: Path) -> None:
    from brainscm.latents.store import LatentStore

    part = folder / "latents.zarr"
    LatentStore.gather([part], LatentStore.open(part).scans, folder / "gathered.zarr")


def read_latents(folder: Path) -> None:
    from brainscm.latents.store import LatentStore

    store = LatentStore.open(folder / "latents.zarr")
    for scan in store.scans:
        store.of(scan)


# In this order: each leaves what the next ones read.
STEPS: dict[str, Callable[[Path], None]] = {
    step.__name__: step
    for step in (index, collect_preprocessing, collect_counterfactuals, read_scans, gather_latents, read_latents)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, nargs="+", default=[10, 1000, 5000])
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        STEPS[arguments.step](arguments.folder)
        return
    by_scans = {}
    for n in arguments.scans:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_inputs(folder, n)
            by_scans[n] = {step: measure(step, folder) for step in STEPS}
        print(n, json.dumps(by_scans[n]), flush=True)
    figures = {"scans": by_scans, "growth_exponent": growth_exponents(by_scans), **circumstances()}
    print(write(figures, RESULTS / "scale.json"))


def measure(step: str, folder: Path) -> Cost:
    """What a step costs, its imports included."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    return cost(command, folder / "log.txt", env={**os.environ, "PYTHONPATH": str(SCRIPTS)})


def make_inputs(folder: Path, n: int) -> None:
    """All that the steps read, of n scans."""
    from brainscm.counterfactuals.intervals import COLUMNS
    from brainscm.counterfactuals.manifest import LEADING, TRAILING
    from brainscm.encoding.layout import Layout
    from brainscm.identity import Identity
    from brainscm.latents.store import LatentStore

    scans = [f"sub-{i:06d}" for i in range(n)]
    rng = np.random.default_rng(0)
    for scan in scans:
        for place, name in (("bids", "T1w"), ("preproc", "desc-preproc_T1w"), ("preproc", "desc-brain_mask")):
            anat = folder / place / scan / "anat"
            anat.mkdir(parents=True, exist_ok=True)
            (anat / f"{scan}_{name}.nii.gz").touch()
    ages, sexes = rng.integers(20, 90, n), rng.choice(["F", "M"], n)
    participants = pd.DataFrame({"participant_id": scans, "age": ages, "sex": sexes})
    participants.to_csv(folder / "bids" / "participants.tsv", sep="\t", index=False)

    for stage in ("status", "alignment"):
        (folder / "preproc" / stage).mkdir()
    for scan in scans:
        outputs = {
            role: f"{scan}/anat/{scan}_{name}.nii.gz"
            for role, name in (("preproc_t1w", "desc-preproc_T1w"), ("template_mask", "desc-brain_mask"))
        }
        status = {"scan": scan, "status": "done", "reasons": [], "metrics": {}, "volumes_ml": {}, "outputs": outputs}
        metrics = {f"measure_{k}": float(value) for k, value in enumerate(rng.random(30))}
        volumes = {f"region_{k}": float(value) for k, value in enumerate(rng.random(20))}
        (folder / "preproc" / "status" / f"{scan}.json").write_text(
            json.dumps({**status, "metrics": metrics | {"mask_volume_ml": 1400.0}, "volumes_ml": volumes})
        )
        (folder / "preproc" / "alignment" / f"{scan}.json").write_text(json.dumps({**status, "outputs": {}}))

    out = folder / "counterfactuals"
    for query in QUERIES:
        rows = pd.DataFrame(
            "n/a", index=range(n), columns=[*LEADING, "factual_age", "counterfactual_age", *TRAILING], dtype=object
        ).assign(scan=scans, query=query)
        for column, suffix in (("path", ""), ("difference_path", "Difference"), ("uncertainty_path", "Uncertainty")):
            rows[column] = [f"{scan}/anat/{scan}_desc-{query}{suffix}_T1w.nii.gz" for scan in scans]
            for path in rows[column]:
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                (out / path).touch()
        regions = pd.DataFrame("1.5", index=range(20 * n), columns=COLUMNS, dtype=object)
        regions = regions.assign(scan=np.repeat(scans, 20), query=query)
        for name, table in (("questions", rows), ("regions", regions)):
            (out / name / query).mkdir(parents=True)
            table.to_csv(out / name / query / "1-of-1.tsv", sep="\t", index=False)

    identity = Identity(template="Made up", voxel_mm=2.0, transform="affine")
    (folder / "identity.json").write_text(identity.model_dump_json())
    with LatentStore.create(folder / "latents.zarr", scans, LATENT, Layout((LATENT[0],)), identity) as latents:
        for row in range(n):
            latents[row] = rng.standard_normal(LATENT, dtype=np.float32)


if __name__ == "__main__":
    main()
