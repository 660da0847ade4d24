"""The design matrices and contrast vectors as tables, so that any other program can make the same fit and tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from brainscm.scm.design import Array, Design
from brainscm.scm.inference import declared_contrasts
from brainscm.scm.model import Scm
from brainscm.tables import write_table


def write_designs(scm: Scm, folder: Path) -> None:
    """Write `image_design.tsv`, `<node>_design.tsv`, `contrasts.tsv` and, of several imputations, `imputed.tsv`.

    Args:
        scm: the fitted model.
        folder: receives the design of each formula, one row a training scan that it was fitted to, and the rows C of
            each contrast's test of C·B = 0 with the columns of the image's design; a joint test has several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_table(_rows(scm, scm.training, scm.design), folder / "image_design.tsv")
    for name, node in scm.nodes.items():
        write_table(_rows(scm, scm.complete, node.design), folder / f"{name}_design.tsv")
    if scm.imputed:
        write_table(_imputed(scm), folder / "imputed.tsv")
    tables = [
        _table(rows, scm.design).assign(contrast=contrast, effect=effect)
        for contrast, effect, rows in declared_contrasts(scm)
    ]
    columns = ["contrast", "effect", *scm.design.columns]
    write_table(pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns), folder / "contrasts.tsv")


def _rows(scm: Scm, scans: pd.DataFrame, design: Design) -> pd.DataFrame:
    x = _table(design.matrix(scm.training_values.loc[scans.index]), design)
    return pd.concat([scans[["scan", "participant"]].reset_index(drop=True), x], axis=1)


def _imputed(scm: Scm) -> pd.DataFrame:
    """A row an imputation, scan and node that the scan lacks."""
    scans, found = scm.training["scan"].to_numpy(), []
    for k, values in enumerate(scm.imputed, start=1):
        for node in scm.nodes:
            lacking = scm.training[scm.covariates.columns[node]].isna().to_numpy()
            drawn = values[node].astype(object).to_numpy()[lacking]
            found.append(pd.DataFrame({"imputation": k, "scan": scans[lacking], "node": node, "value": drawn}))
    return pd.concat(found)


def _table(x: Array, design: Design) -> pd.DataFrame:
    return pd.DataFrame(x, columns=list(design.columns))
