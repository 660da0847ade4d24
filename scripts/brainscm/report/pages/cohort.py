"""The cohort: who came in, who was left out and why, and every scan's measures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from brainscm.report import charts, words
from brainscm.report.cells import Context, embedded, plain
from brainscm.report.gallery import Gallery
from brainscm.report.pages.volumes import positivity, volumes
from brainscm.report.study import Study
from brainscm.scans import QC_REASONS, QC_STATUS, SPLITS
from brainscm.wording import listed

EXCLUDED_SHOWN = 500
LEVELS_SHOWN = 12
CHARTS = 6
COVARIATE_COLUMNS = 6
COLUMNS_SHOWN = 12  # until the reader chooses others
# Levels that so many training participants have should be tested; means further apart are told.
ABSENT_SHARE, UNLIKE_SD = 0.2, 0.5


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
        {"key": "rating", "label": "Rating", "number": False},
        {"key": QC_REASONS, "label": "Reasons", "number": False},
        {"key": "stands_out", "label": "Furthest out (robust z)", "number": True},
        {"key": "stands_out_by", "label": "Measured by", "number": False},
        {"key": "split", "label": "Split", "number": False},
        *({"key": c, "label": study.with_unit(c), "number": c in numeric} for c in shown[:COVARIATE_COLUMNS]),
        # Those that decide come first.
        *(
            {"key": strip["key"], "label": strip["label"], "number": True}
            for strip in sorted(strips, key=lambda strip: not (strip["warn"] or strip["fail"]))
        ),
    ]
    columns = [column | {"shown": place < COLUMNS_SHOWN} for place, column in enumerate(columns)]
    rows = _rows(study, [column["key"] for column in columns])
    return {
        "lead": (
            f"{words.plural(table['participant'].nunique(), 'participant')}, {words.plural(len(table), 'scan')}: "
            f"{status.get('pass', 0)} passed, {status.get('warn', 0)} with a warning, {status.get('fail', 0)} failed."
        ),
        "flow": charts.flow(steps, "Flow of scans: " + ", ".join(f"{count} {label}" for label, count, _ in steps)),
        "split_columns": [
            ("covariate", "Covariate", ""),
            *((split, split, "number") for split in SPLITS if split in set(table["split"])),
        ],
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
        "volumes": volumes(study),
        "positivity": positivity(study),
        "unbalanced": unbalanced(study),
        "are_new": study.bundle is not None,
        "notes": study.notes.head(EXCLUDED_SHOWN).fillna("").to_dict("records"),
        "excluded": study.excluded.head(EXCLUDED_SHOWN).fillna("").to_dict("records"),
        "strips": strips,
        "fidelity_file": "support/reconstruction.tsv" if study.bundle else "autoencoder/reconstruction.tsv",
        "fidelity_target": "report" if study.bundle else "train",
        "columns": columns,
        "scans_data": embedded({"columns": columns, "strips": strips, "rows": rows}),
    }


def _rows(study: Study, keys: list[str]) -> list[list[Any]]:
    """The cells of every scan, worst first."""
    out = study.standing_out
    table = study.cohort.set_index("scan", drop=False).loc[study.worst_first]
    table["stands_out"] = table["scan"].map(
        {scan: round(each.distance, 1) for scan, each in out.items() if each.measure}
    )
    table["stands_out_by"] = table["scan"].map(
        {scan: study.measure(each.measure).label for scan, each in out.items() if each.measure}
    )
    table[QC_REASONS] = table[QC_REASONS].map(study.relative, na_action="ignore")
    table = table.reindex(columns=keys)
    return [[plain(value) for value in row] for row in table.itertuples(index=False, name=None)]


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
        ("with all covariates", len(complete), []),
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


def unbalanced(study: Study) -> list[str]:
    """One sentence a covariate in which the test split is unlike the training split."""
    participants = study.cohort.drop_duplicates("participant")
    train, test = (participants[participants["split"] == split] for split in ("train", "test"))
    sentences = []
    for column in study.scans.covariates:
        learnt, tested = train[column].dropna(), test[column].dropna()
        if not len(learnt) or not len(tested):
            continue
        if not pd.api.types.is_numeric_dtype(participants[column]):
            shares = learnt.value_counts(normalize=True)
            absent = shares[~shares.index.isin(tested)]
            if absent.sum() >= ABSENT_SHARE and len(shares) <= LEVELS_SHOWN:
                levels = listed([str(level) for level in absent.index], "or")
                sentences.append(
                    f"No participant of the test split has {column} {levels}, as {100 * absent.sum():.0f} % of the "
                    "training split have: what is found says nothing about them."
                )
        elif learnt.std() > 0 and abs(tested.mean() - learnt.mean()) > UNLIKE_SD * learnt.std():
            means = [f"{words.number(float(part.mean()))} {study.unit(column)}".strip() for part in (tested, learnt)]
            sentences.append(
                f"The mean {column} is {means[0]} in the test split, and {means[1]} in the training split."
            )
    return sentences


def _range(values: pd.Series) -> str:
    return words.with_range(float(values.median()), float(values.min()), float(values.max()))


def _strip(study: Study, column: str) -> Context:
    measure = study.measure(column)
    limits = {"warn": study.limits(column, "warn"), "fail": study.limits(column, "fail")}
    said = [] if measure.better == "neither" else [f"{measure.better} is better"]
    said += [told for kind in ("warn", "fail") if (told := study.limit_words(column, kind))]
    return {
        "key": column,
        "hint": "; ".join(said),
        "label": measure.label,
        "unit": measure.unit,
        "meaning": measure.meaning,
        **limits,
    }
