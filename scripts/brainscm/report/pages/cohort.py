"""The cohort: who came in, who was left out and why, and every scan's measures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from brainscm.report import charts, words
from brainscm.report.cells import Context, embedded, plain
from brainscm.report.gallery import Gallery
from brainscm.report.study import Study
from brainscm.scans import QC_REASONS, QC_STATUS, SPLITS

EXCLUDED_SHOWN = 500
LEVELS_SHOWN = 12
CHARTS = 6
COVARIATE_COLUMNS = 6


def context(study: Study, gallery: Gallery | None) -> Context:
    table, covariates = study.cohort, study.scans.covariates
    status = table[QC_STATUS].value_counts()
    steps = _steps(study)
    numeric = [c for c in covariates if pd.api.types.is_numeric_dtype(table[c]) and table[c].nunique() > 1]
    shown = [c for c in covariates if c in numeric or 1 < table[c].nunique() <= LEVELS_SHOWN]
    strips: list[Context] = [
        _strip(study, column) for column in (*study.measures, *study.fidelity[:2]) if table[column].nunique() > 1
    ]
    columns: list[Context] = [
        {"key": "scan", "label": "Scan", "number": False},
        {"key": QC_STATUS, "label": "Status", "number": False},
        {"key": "split", "label": "Split", "number": False},
        *({"key": c, "label": study.with_unit(c), "number": c in numeric} for c in shown[:COVARIATE_COLUMNS]),
        *({"key": strip["key"], "label": strip["label"], "number": True} for strip in strips),
        {"key": QC_REASONS, "label": "Reasons", "number": False},
    ]
    keys = [column["key"] for column in columns]
    rows = [[plain(value) for value in row] for row in table.reindex(columns=keys).itertuples(index=False, name=None)]
    return {
        "lead": (
            f"{words.plural(table['participant'].nunique(), 'participant')}, {words.plural(len(table), 'scan')}: "
            f"{status.get('pass', 0)} passed, {status.get('warn', 0)} with a warning, {status.get('fail', 0)} failed."
        ),
        "flow": charts.flow(steps, "Flow of scans: " + ", ".join(f"{count} {label}" for label, count, _ in steps)),
        "split_columns": [("covariate", "", ""), *((split, split, "number") for split in SPLITS)],
        "split_rows": _split_rows(study, numeric, shown),
        "charts": [
            {
                "drawing": charts.histogram_rows(
                    _by_split(table, column), study.with_unit(column), f"{column} by split"
                ),
                "caption": f"{column}: share of the scans of each split",
            }
            for column in numeric[:CHARTS]
        ],
        "notes": study.notes.head(EXCLUDED_SHOWN).fillna("").to_dict("records"),
        "excluded": study.excluded.head(EXCLUDED_SHOWN).fillna("").to_dict("records"),
        "strips": strips,
        "columns": columns,
        "scans_data": embedded({"columns": columns, "strips": strips, "rows": rows}),
    }


def _steps(study: Study) -> list[tuple[str, int, Sequence[str]]]:
    """The flow from what was found to what the causal model used, with what left it at each step."""
    table, used, excluded = study.cohort, study.usable, study.excluded
    lost = excluded[excluded["excluded_from"] == "everything"]
    incomplete = set(excluded.loc[excluded["excluded_from"] != "everything", "scan"])
    complete = used[~used["scan"].isin(incomplete)]
    failed, absent = int((table[QC_STATUS] == "fail").sum()), int((table[QC_STATUS] == "none").sum())
    failures = [f"{failed} failed"] if failed else []
    failures += [f"{absent} not run"] if absent else []
    missing = [f"{len(used) - len(complete)} without a covariate of the graph"] if len(complete) < len(used) else []
    return [
        ("found", len(table) + len(lost), [f"{len(lost)} left out by the index (see below)"] if len(lost) else []),
        ("indexed", len(table), failures),
        ("preprocessed", len(used), missing),
        ("in the causal model", len(complete), []),
    ]


def _by_split(table: pd.DataFrame, column: str) -> dict[str, list[float]]:
    return {split: table.loc[table["split"] == split, column].tolist() for split in SPLITS}


def _split_rows(study: Study, numeric: list[str], shown: list[str]) -> list[Context]:
    table = study.cohort
    parts = {split: table[table["split"] == split] for split in SPLITS}
    rows: list[Context] = [
        {"covariate": "scans", **{split: f"{len(part):,}" for split, part in parts.items()}},
        {"covariate": "participants", **{split: f"{part['participant'].nunique():,}" for split, part in parts.items()}},
    ]
    for column in shown:
        if column in numeric:
            rows.append(
                {"covariate": study.with_unit(column), **{s: _range(part[column]) for s, part in parts.items()}}
            )
            continue
        for level in sorted(table[column].dropna().unique(), key=str):
            shares = {
                split: f"{(part[column] == level).sum()} ({100 * (part[column] == level).mean():.0f} %)"
                if len(part)
                else "–"
                for split, part in parts.items()
            }
            rows.append({"covariate": f"{column}: {level}", **shares})
    return rows


def _range(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return "–"
    median, low, high = (words.number(float(value)) for value in (values.median(), values.min(), values.max()))
    return f"{median} ({low}–{high})"


def _strip(study: Study, column: str) -> Context:
    measure = study.measure(column)
    hint = "" if measure.better == "neither" else f"{measure.better} is better"
    return {"key": column, "hint": hint, "label": measure.label, "unit": measure.unit, "meaning": measure.meaning}
