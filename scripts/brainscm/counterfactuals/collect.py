"""Gather what each question's jobs have written: one manifest, the description of the data set, and nothing else."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd

from brainscm.counterfactuals.intervals import COLUMNS
from brainscm.counterfactuals.manifest import join_parts, manifest_table
from brainscm.files import describe_dataset, sidecar, write_dataset_description
from brainscm.identity import Identity
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")

README = """Counterfactual T1w scans made by BrainSCM: what each scan would look like under an intervention.

manifest.tsv has a row a scan and query: whether it was made, the values of all nodes before and after, and the files;
regions.tsv a row a counterfactual and region: the change in ml and per cent. questions/ and regions/ hold the same a
question and shard of the cohort, and plan.tsv what was planned last.
Of each query there are three images in template space, desc-<query> (the counterfactual), desc-<query>Difference (it
minus the preprocessed scan) and desc-<query>Uncertainty (root mean square distance of draws of the fitted
parameters, without shrinkage). By configuration the same three lie on the raw scan's own grid, without space- in their
names, desc-<query>LogJacobian tells where tissue is moved apart, and group/ maps the mean difference over participants.
"""
# By BIDS validators.
IGNORED = [
    "manifest.tsv",
    "plan.tsv",
    "questions",
    "regions.tsv",
    "regions",
    "*LogJacobian_map.*",
    "group",
]  # by BIDS validators


def collect(
    parts: Sequence[Path],
    scans: Sequence[str],
    queries: Sequence[str],
    nodes: list[str],
    identity: Identity,
    out_dir: Path,
    groups: Sequence[Path] = (),
) -> None:
    """Write the manifest of all questions, and remove the volumes of those that nobody asks any more.

    Args:
        parts: the manifest of each question and shard, in `questions` of `out_dir`, each with a table of the same name
            in `regions`.
        scans, queries: the rows of both tables are put in the order of these queries, and in one query of these scans.
        nodes: of the graph, in its order.
        identity: of the latents that the counterfactuals were made from.
        out_dir: of the counterfactuals.
        groups: the table of each question that has group maps (see `average`).
    """
    questions = out_dir / "questions"
    rows = join_parts(parts, queries, scans) if parts else manifest_table([], nodes)
    for table in groups:
        of_query = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False).set_index("query")
        own = rows["query"].isin(of_query.index)
        for column in of_query:
            rows.loc[own, column] = rows.loc[own, "query"].map(of_query[column])
    regional = [out_dir / "regions" / part.relative_to(questions) for part in parts]
    regions = join_parts(regional, queries, scans) if parts else pd.DataFrame(columns=COLUMNS)
    written = {table for folder in ("questions", "regions", "group") for table in (out_dir / folder).glob("**/*.tsv")}
    for left_over in written - {*parts, *regional, *groups}:
        left_over.unlink()
        if not any(left_over.parent.iterdir()):
            left_over.parent.rmdir()
    named = {path for column in rows if str(column).endswith("path") for path in rows[column]}
    removed = [image for image in out_dir.glob("*/**/*.nii.gz") if _is_left_over(image, named, out_dir)]
    for image in removed:
        sidecar(image).unlink()
        image.unlink()
    if removed:
        logger.info("removed %d volumes that no question asks for", len(removed))
    write_dataset_description(
        out_dir,
        "BrainSCM counterfactuals",
        sources={"preproc": Path("../preproc"), **_raw_data(out_dir.parent / "preproc")},
        further={"Identity": identity.as_json()},
        readme=README,
        ignored=IGNORED,
    )
    write_table(regions, out_dir / "regions.tsv")
    write_table(rows, out_dir / "manifest.tsv")


def _raw_data(preproc: Path) -> dict[str, Path]:
    """Where the raw scans lie, as the preprocessed ones tell."""
    url = urlsplit(str(describe_dataset(preproc).get("DatasetLinks", {}).get("raw", "")))
    return {"raw": Path(unquote(url.path))} if url.scheme == "file" else {}


def _is_left_over(image: Path, named: set[str], out_dir: Path) -> bool:
    """Whether a volume was made for a query and is in no manifest; somebody's own file has no such side-car."""
    if image.relative_to(out_dir).as_posix() in named or not sidecar(image).exists():
        return False
    try:
        return "Query" in json.loads(sidecar(image).read_text(encoding="utf-8"))
    except ValueError:
        return False
