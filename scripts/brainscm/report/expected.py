"""What the causal model expects of each region under each answer that was made, tested or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brainscm.evaluation.expectation import RegionalModel
from brainscm.scm.model import load_scm

if TYPE_CHECKING:
    from brainscm.report.study import Study

Expected = dict[tuple[str, str, str], float]


def expected_changes(study: Study) -> Expected:
    """By scan, query and region, in ml; nothing beside a bundle: what it was fitted on is not here."""
    table = study.scans.rows
    is_fitted_here = len(study.sample) > 0 and study.sample["scan"].isin(table.index).all()
    if not is_fitted_here or study.made.empty or study.regions.empty:
        return {}
    regions = [region for region in study.regions["region"].unique() if f"{region}_ml" in table]
    model = RegionalModel.fit(load_scm(study.fitted / "scm", study.config.scm), table, regions)
    found: Expected = {}
    for query, rows in study.made.groupby("query", sort=False):
        rows = rows[rows["scan"].isin(table.index)]
        if query in study.query_of and len(rows):
            change_ml = model.expect(study.query_of[str(query)], table.loc[rows["scan"]], draws=0).change_ml
            for scan, changes in zip(rows["scan"], change_ml.tolist(), strict=True):
                found |= {(scan, str(query), region): ml for region, ml in zip(regions, changes, strict=True)}
    return found
