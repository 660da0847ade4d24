"""What the report costs: processor seconds of its scans' pages, and of the cohort's page in a browser.

    python benchmarks/bench_report.py [--scans 1000] [--rows 10000] [--profile]

Brains are made up: those of tests/made_up_study.py, enlarged to 72 × 96 × 72 voxels of 2 mm, with noise, so that their
files are as large as real ones. Every fifth scan was asked three questions; later scans as the truth are not drawn,
since latents are not enlarged. Needs Chromium for the cohort's page, as `make test` installs it. Writes
results/report.json.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from record import RESULTS, circumstances, write

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
import made_up_study  # noqa: E402
from brainscm.config import Config  # noqa: E402
from brainscm.files import reconstruction_name  # noqa: E402
from brainscm.preprocess.figures import mosaic  # noqa: E402
from brainscm.report.gallery import Gallery  # noqa: E402
from brainscm.report.render import render_pages, render_scans  # noqa: E402
from brainscm.report.study import Study  # noqa: E402
from brainscm.tables import read_table, write_table  # noqa: E402

LARGER = 3
VOXEL_MM = made_up_study.VOXEL_MM / LARGER
SHAPE = tuple(LARGER * n for n in made_up_study.SHAPE)
PARTICIPANTS = 20
QUESTIONS = [
    {"name": "older", "do": {"age": "+20"}},
    {"name": "younger", "do": {"age": "-20"}},
    {"name": "man", "do": {"sex": "M"}},
]
# What lists scans, by the columns that name them.
TABLES = (
    "cohort/scans", "preproc/qc", "autoencoder/reconstruction", "scm/people", "counterfactuals/manifest",
    "counterfactuals/regions", "evaluation/metrics",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true", help="tell where the time of the scans' pages goes")
    parser.add_argument("--work", type=Path, help="keep the made-up study there, and take it from there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        config = _study(folder)
        figures = {"scans": options.scans, "rows": options.rows, "voxels": list(SHAPE)}
        figures |= _scan_pages(folder, config, options.scans, options.profile)
        figures |= _cohort_page(folder, config, options.rows)
        print(write(figures | circumstances(f"{os.cpu_count()} cores"), RESULTS / "report.json"))


def _study(folder: Path) -> Config:
    """A study of few scans, with brains as large as real ones."""
    results = folder / "results"
    config = Config.model_validate({**made_up_study.CONFIG, "counterfactuals": QUESTIONS, "output_dir": results})
    if results.exists():
        return config
    made_up_study.make_study(results, PARTICIPANTS, config={"counterfactuals": QUESTIONS})
    made_up_study.write_evaluation(results, made_up_study.open_study(results, config))
    rng = np.random.default_rng(0)
    for path in results.rglob("*.nii.gz"):
        if path.relative_to(results).parts[0] in ("preproc", "counterfactuals", "autoencoder"):
            _enlarge(path, rng)
    return config


def _enlarge(path: Path, rng: np.random.Generator) -> None:
    volume = np.asarray(nib.load(path).dataobj, np.float32)
    if volume.shape != made_up_study.SHAPE:
        return
    for axis in range(3):
        volume = np.repeat(volume, LARGER, axis)
    is_mask = "mask" in path.name
    if not is_mask:
        volume = np.where(volume == 0, 0, volume + 0.02 * rng.standard_normal(volume.shape)).astype(np.float32)
    made = nib.Nifti1Image(volume.astype(np.uint8 if is_mask else np.float32), _affine())
    made.to_filename(path)
    if path.name.endswith("desc-preproc_T1w.nii.gz"):
        scan = path.name.removesuffix("_desc-preproc_T1w.nii.gz")
        head = volume + np.abs(0.03 * rng.standard_normal(volume.shape))
        figures = path.parents[2 if "ses-" not in scan else 3] / "figures"
        for kind in ("mask", "background", "registration"):
            box = volume > 0
            mosaic(head, np.full(3, VOXEL_MM), [(box, (230, 159, 0))], box, figures / f"{scan}_{kind}.png")


def _affine() -> np.ndarray:
    affine = np.diag([VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = -VOXEL_MM * (np.array(SHAPE) - 1) / 2
    return affine


def _copies(folder: Path, config: Config, scans: int) -> tuple[Study, Gallery]:
    """The study with so many scans: each of the few again and again under other names, with the same files."""
    source, copy = folder / "results", folder / f"results-{scans}"
    copy.mkdir(exist_ok=True)
    for path in source.iterdir():
        (copy / path.name).mkdir(exist_ok=True) if path.is_dir() else None
    once = read_table(source / "cohort" / "scans.tsv")["scan"]
    times = -(-scans // len(once))
    kept = {f"{scan}x{n}" for n in range(times) for scan in once}
    kept = set(sorted(kept)[:scans])
    for table in source.rglob("*.tsv"):
        rows = read_table(table)
        name = table.relative_to(source).with_suffix("").as_posix()
        if name in TABLES:
            of_scans, others = rows[rows["scan"].notna()], rows[rows["scan"].isna()]
            of_scans = pd.concat([_renamed(of_scans, n) for n in range(times)])
            rows = pd.concat([others, of_scans[of_scans["scan"].isin(kept)]])
        write_table(rows, copy / table.relative_to(source))
    for linked in (
        "latents/latents.zarr", "scm/effects", "scm/image_model.npz", "scm/node_models.npz", "autoencoder/model.json",
        "autoencoder/model.pt", "evaluation/summary.json",
    ):  # fmt: skip
        _link(source / linked, copy / linked)
    for part in ("preproc", "counterfactuals"):
        for path in (source / part).glob("sub-*"):
            _link(path, copy / part / path.name)
    for scan in kept:
        first = scan.rpartition("x")[0]
        for kind in ("mask", "background", "registration"):
            _link(source / f"preproc/figures/{first}_{kind}.png", copy / f"preproc/figures/{scan}_{kind}.png")
        named = (f"autoencoder/reconstructions/{reconstruction_name(each)}" for each in (first, scan))
        _link(*(where / name for where, name in zip((source, copy), named, strict=True)))
    study = Study.read(copy, config.model_copy(update={"output_dir": copy}))
    template = made_up_study.template(SHAPE)
    return study, Gallery(study, replace(template, affine=_affine()))


def _renamed(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    return rows.assign(**{column: rows[column] + f"x{n}" for column in ("scan", "participant") if column in rows})


def _link(source: Path, target: Path) -> None:
    if source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)


def _scan_pages(folder: Path, config: Config, scans: int, profiled: bool) -> dict[str, Any]:
    study, gallery = _copies(folder, config, scans)
    profile = cProfile.Profile()
    start = time.process_time()
    if profiled:
        profile.enable()
    render_scans(study, gallery, folder / "report")
    profile.disable()
    took = time.process_time() - start
    if profiled:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    bytes_of = [path.stat().st_size for path in (folder / "report" / "scans").glob("*.html")]
    return {
        "scan_pages_cpu_s": round(took, 1),
        "cpu_s_of_1000_scan_pages": round(1000 * took / scans),
        "largest_page_mb": round(max(bytes_of) / 1e6, 2),
    }


def _cohort_page(folder: Path, config: Config, rows: int) -> dict[str, Any]:
    """Processor seconds of the page's main thread: to load, to sort by a column, and to point at a strip."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    study, _ = _copies(folder, config, rows)
    start = time.process_time()
    render_pages(study, None, folder / "report")
    rendered = time.process_time() - start
    options = ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

        def used() -> float:
            metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")

        driver.get((folder / "report" / "cohort.html").as_uri())
        loaded = used()
        sort = "document.querySelectorAll('#scans-table thead button')[4].click()"
        sorts = [_took(driver, used, sort) for _ in range(5)]
        driver.execute_script("document.querySelector('.strip canvas').scrollIntoView({block: 'center'})")
        time.sleep(2)
        move = """
          const canvas = document.querySelector('.strip canvas'), box = canvas.getBoundingClientRect();
          for (let n = 0; n < 50; n++) canvas.dispatchEvent(new MouseEvent('mousemove',
            { clientX: box.left + n * box.width / 50, clientY: box.top + 20, bubbles: true }));
        """
        hovers = _took(driver, used, move) / 50
    finally:
        driver.quit()
    return {
        "cohort_page_mb": round((folder / "report" / "cohort.html").stat().st_size / 1e6, 2),
        "pages_of_the_study_cpu_s": round(rendered, 1),
        "load_ms": round(loaded),
        "sort_ms": round(float(np.median(sorts))),
        "hover_ms": round(hovers, 1),
    }


def _took(driver: Any, used: Any, script: str) -> float:
    start = used()
    driver.execute_script(script)
    time.sleep(0.5)
    return used() - start


if __name__ == "__main__":
    main()
