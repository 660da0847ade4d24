"""Gather what each question's job has written: one manifest, the description of the data set, and nothing else."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd

from brainscm.counterfactuals.intervals import COLUMNS
from brainscm.counterfactuals.manifest import manifest_table
from brainscm.files import describe_dataset, sidecar, write_dataset_description
from brainscm.identity import Identity
from brainscm.tables import write_table

logger = logging.getLogger("brainscm")

README = """Counterfactual T1w scans made by BrainSCM: what each scan would look like under an intervention.

manifest.tsv has a row a scan and query: whether it was made, the values of all nodes before and after, and the files;
regions.tsv a row a counterfactual and region: the change in ml and per cent. questions/ and regions/ hold the same a
question, and plan.tsv what was planned last.
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


def collect(parts: Sequence[Path], nodes: list[str], identity: Identity, out_dir: Path) -> None:
    """Write the manifest of all questions, and remove the volumes of those that nobody asks any more.

    Args:
        parts: the manifest of each question, in the study's order, each with a table of the same name in `regions`.
        nodes: of the graph, in its order.
        identity: of the latents that the counterfactuals were made from.
        out_dir: of the counterfactuals; the parts lie in its `questions`.
    """
    names = [part.name for part in parts]
    rows = _joined([out_dir / "questions" / name for name in names], manifest_table([], nodes))
    regions = _joined([out_dir / "regions" / name for name in names], pd.DataFrame(columns=COLUMNS))
    for folder in ("questions", "regions"):
        for part in (out_dir / folder).glob("*.tsv"):
            if part.name not in names:
                part.unlink()
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


def _joined(parts: Sequence[Path], empty: pd.DataFrame) -> pd.DataFrame:
    """Tables as they are written, one below the other."""
    tables = [pd.read_csv(part, sep="\t", dtype=str, keep_default_na=False) for part in parts]
    return pd.concat(tables, ignore_index=True) if tables else empty


def _is_left_over(image: Path, named: set[str], out_dir: Path) -> bool:
    """Whether a volume was made for a query and is in no manifest; somebody's own file has no such side-car."""
    if image.relative_to(out_dir).as_posix() in named or not sidecar(image).exists():
        return False
    try:
        return "Query" in json.loads(sidecar(image).read_text(encoding="utf-8"))
    except ValueError:
        return False
