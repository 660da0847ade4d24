"""The first page: what was asked, what was found, what failed, and how far to believe it."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from brainscm.errors import ScanError
from brainscm.questions import by_question
from brainscm.report import words
from brainscm.report.badges import burden
from brainscm.report.cells import Context, plain
from brainscm.report.gallery import Gallery
from brainscm.report.headlines import fidelity_figure, findings, headline_figures
from brainscm.report.pages import bundle
from brainscm.report.pages.cohort import unbalanced
from brainscm.report.pages.counterfactuals import answer
from brainscm.report.pages.evaluation import slope_findings
from brainscm.report.study import Study, spaced
from brainscm.scans import QC_REASONS, QC_STATUS, records

FAILURES_SHOWN = 15
EXAMPLE_SAMPLE = 9


def context(study: Study, gallery: Gallery | None) -> Context:
    cohort, made = study.cohort, study.made
    failures = _failures(study)
    participants = words.plural(cohort["participant"].nunique(), "participant")
    return {
        "heading": study.name if study.config.bids_dir or study.config.dicom_dir else study.name.capitalize(),
        "lead": (
            f"{words.plural(len(cohort), 'scan')} of {participants}, "
            f"from raw heads to {words.plural(len(made), 'counterfactual volume')}."
        ),
        "figures": [
            {
                "label": "Scans that could be used",
                "value": f"{len(study.usable):,}",
                "note": f"of {len(cohort):,} indexed; {int((cohort[QC_STATUS] == 'fail').sum())} failed",
            },
            fidelity_figure(study),
            *([] if study.bundle else headline_figures(study)),
        ],
        "findings": (
            bundle.findings(study) if study.bundle else findings(study) + slope_findings(study) + unbalanced(study)
        ),
        "details": ("bundle.html", "Fitted study") if study.bundle else ("evaluation.html", "Evaluation"),
        "questions": _questions(study),
        "example": _example(study, gallery),
        "failures": failures[:FAILURES_SHOWN],
        "more_failures": max(len(failures) - FAILURES_SHOWN, 0),
        "limits": words.LIMITS,
    }


def _example(study: Study, gallery: Gallery | None) -> Context | None:
    """An answer that the data support and that can be seen: of a few, evenly spaced, the one that changes most.

    They are of the first query with the best supported answers.
    """
    if gallery is None or study.made.empty:
        return None
    burdens = pd.Series([burden(study, item) for item in records(study.made)], index=study.made.index)
    best = study.made[burdens == burdens.min()]
    sample = spaced(best[best["query"] == best["query"].iloc[0]], EXAMPLE_SAMPLE)
    try:
        example = answer(study, gallery, max(sample, key=gallery.mean_change)) | {"is_supported": not burdens.min()}
    except ScanError:
        return None  # the counterfactuals page says what is lost
    return example if example["problem"] is None else None


def _questions(study: Study) -> list[Context]:
    rows = []
    for name, members in by_question(study.queries).items():
        asked = study.manifest[study.manifest["query"].isin([member.name for member in members])]
        made = asked[asked["path"].notna()]
        rows.append(
            {
                "name": Markup('<a href="counterfactuals.html#{0}">{0}</a>').format(name),
                "words": words.trajectory([member.do for member in members], study.config.scm),
                "effect": members[0].effect,
                "made": len(made),
                "failed": len(asked) - len(made),
                "extrapolated": int(made["extrapolation"].astype(bool).sum()),
            }
        )
    return rows


def _failures(study: Study) -> list[Context]:
    """Scans that failed, then files and participants that never became a scan."""
    failed = study.cohort.drop(study.usable.index)
    rows = [
        {
            "scan": Markup('<a href="scans/{0}.html">{0}</a>').format(row["scan"]),
            "status": row[QC_STATUS] if row[QC_STATUS] == "fail" else "not run",
            "reason": study.relative(plain(row[QC_REASONS]) or ""),
        }
        for row in records(failed)
    ]
    rows += [
        {"scan": row["scan"], "status": f"left out of {row['excluded_from']}", "reason": row["reason"]}
        for row in records(study.excluded)
    ]
    return rows
