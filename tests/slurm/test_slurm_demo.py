"""`snakemake --profile slurm`, as typed, takes the demo to its report on a real slurmctld with two slurmd."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from slurm.local_cluster import LocalCluster, why_unavailable
from slurm.runs import QUICK, Run, look_often
from workflows import ROOT

# The number of questions and of training steps is not what is tested here. Every call needs them, or they count as
# changed.
QUESTIONS = '[{name: older20, do: {age: "+20"}}, {name: younger20, do: {age: "-20"}}]'
SHORT = ["--config", f"counterfactuals={QUESTIONS}", "autoencoder={max_steps: 14}"]
COMMAND = ["snakemake", "--profile", "slurm", *QUICK, *SHORT]
UNAVAILABLE = why_unavailable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UNAVAILABLE is not None, reason=f"NO SLURM: {UNAVAILABLE}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def demo(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout in which the demo has been run by the literal command."""
    checkout = tmp_path_factory.mktemp("checkout") / "brainscm"
    shutil.copytree(
        ROOT,
        checkout,
        symlinks=True,
        ignore=shutil.ignore_patterns(".venv", "results", "work", ".snakemake", ".git", ".*_cache", "__pycache__"),
    )
    look_often(checkout)
    run = Run(COMMAND, checkout, cluster.environment)
    told = run.end(seconds=3600)
    assert run.process.returncode == 0, told[-6000:]
    return checkout


def test_every_stage_leaves_its_outputs(demo: Path) -> None:
    results = demo / "results"
    for output in (
        "cohort/scans.tsv",
        "preproc/qc.tsv",
        "autoencoder/model.pt",
        "autoencoder/model.json",
        "latents/latents.zarr",
        "scm/image_model.npz",
        "counterfactuals/manifest.tsv",
        "evaluation/metrics.tsv",
        "report/index.html",
    ):
        assert (results / output).exists(), output


def test_jobs_ran_on_the_cluster_and_scans_shared_theirs(demo: Path) -> None:
    submitted = set(re.findall(r"SLURM jobid '?(\d+)", (demo / "run-0.log").read_text()))
    scans = len(pd.read_csv(demo / "results/preproc/qc.tsv", sep="\t"))
    stages = {path.stem for path in (demo / "results/benchmarks").iterdir()} - {"preprocess_scan", "align_scan"}
    assert len(stages) < len(submitted) < len(stages) + scans / 2


def test_truncated_scan_failed_alone_and_is_told(demo: Path) -> None:
    qc = pd.read_csv(demo / "results/preproc/qc.tsv", sep="\t")
    failed = qc[qc["status"] == "fail"]
    assert len(failed) == 1
    assert "truncated" in failed["reasons"].iloc[0] or "cut" in failed["reasons"].iloc[0]
    assert failed["scan"].iloc[0] in (demo / "results/report/index.html").read_text()


def test_summary_keeps_its_contract_and_the_change_points_the_right_way(demo: Path) -> None:
    summary = json.loads((demo / "results/evaluation/summary.json").read_text())
    assert set(summary["reconstruction"]) >= {"psnr_brain_db", "ssim_brain"}
    measures = {"psnr_brain_db", "change_correlation", "change_slope", "region_volume_mae_ml", "interval_coverage_95"}
    for method in ("persistence", "voxel_glm", "pca_glm", "latent_glm"):
        entry = summary["methods"][method]
        assert measures <= set(entry)
        for measure in measures:
            assert entry[measure] is not None or entry["why_null"][measure]
    # Eleven participants to train on: enough to point the right way, too few to come close.
    assert summary["methods"]["latent_glm"]["change_correlation"] > 0.1
    assert summary["methods"]["latent_glm"]["change_slope"] > 0.05
    assert summary["reconstruction"]["psnr_brain_db"] > 24


def test_second_run_has_nothing_to_do(demo: Path, cluster: LocalCluster) -> None:
    assert "Nothing to be done" in Run([*COMMAND, "--dry-run"], demo, cluster.environment).end()
