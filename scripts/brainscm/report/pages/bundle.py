"""The fitted study that new scans are put to: what it was fitted on, how each scan stands to it, what is not there."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from brainscm.report import words
from brainscm.report.cells import Context, plain
from brainscm.report.gallery import Gallery
from brainscm.report.study import Study
from brainscm.scans import records

SUPPORT = {
    "scan": "Scan", "positivity": "Training participants near", "leverage_ratio": "Leverage, over the largest",
    "psnr_brain_db": "PSNR in the brain (dB)", "latent_distance": "Latent distance", "warning": "Outside",
    "reason": "No support, because",
}  # fmt: skip
NAMED = 15  # scans outside, on the first page
NOT_THERE = (
    "Nothing is trained, fitted or evaluated here. How the autoencoder was trained, how well it reproduces the scans "
    "that it was fitted on, and how right its answers were where the truth is known, is in the report of the fitted "
    "study.",
    "A place among participants of the same covariates, and what the causal model’s own regression of each region "
    "expects, are not given, because they need the training scans.",
)
WORDS = ("scan", "warning", "reason")  # columns that hold no number


def context(study: Study, gallery: Gallery | None) -> Context:
    assert study.bundle is not None
    told = study.bundle.told
    rows = [_row(item) for item in records(study.support)]
    return {
        "lead": _fitted_on(study),
        "findings": findings(study),
        "not_there": [*NOT_THERE, *_unbounded(study)],
        "columns": [
            (key, label, {"scan": "", "warning": "text", "reason": "text"}.get(key, "number"))
            for key, label in SUPPORT.items()
            if key != "reason" or study.support["reason"].notna().any()
        ],
        "rows": rows,
        "facts": [
            ("version", told["version"]),
            ("data", told["data"].get("Name", "not named")),
            ("licence of the data", told["data"].get("License", "not named: ask who holds them")),
            ("scans were brought to", _space(told["identity"])),
            ("causal model", told["causal_model_sha256"]),
            ("encoder", told["identity"]["encoder"]),
        ],
    }


def findings(study: Study) -> list[str]:
    """Sentences for the first page: what the scans were put to, and which of them lie outside it, by name."""
    sentences = [
        f"The scans were put to a fitted study. {_fitted_on(study)} Whether its answers are right is measured in its "
        "own report, not here."
    ]
    outside = study.support[study.support["warning"].notna()]
    sentences += [f"{item['scan']}: {item['warning']}." for item in records(outside.head(NAMED))]
    if len(outside) > NAMED:
        sentences.append(f"{len(outside) - NAMED} more scans lie outside what it was fitted on: see Fitted study.")
    if outside.empty:
        sentences.append("No scan lies outside what it was fitted on.")
    return sentences


def warning_of(study: Study, scan: str) -> str:
    """In what a scan lies outside the fitted study; "" where it does not, or where the study is its own."""
    if study.support.empty:
        return ""
    found = study.support.loc[study.support["scan"] == scan, "warning"].dropna()
    return str(next(iter(found), ""))


def _fitted_on(study: Study) -> str:
    assert study.bundle is not None
    counts = study.bundle.told["training"]
    scans, participants = words.plural(counts["scans"], "scan"), words.plural(counts["participants"], "participant")
    return f"It was fitted on {scans} of {participants}; nothing was fitted on these."


def _unbounded(study: Study) -> list[str]:
    """Why regional volumes have no interval; nothing where they have."""
    table = study.regions
    if table.empty or table["low_95_ml"].notna().any():
        return []
    reasons = ", ".join(table["why_no_interval"].dropna().unique())
    return [f"Regional volumes have no calibrated intervals: {reasons}."]


def _space(identity: dict[str, Any]) -> str:
    space = f"{identity['template']} at {identity['voxel_mm']:g} mm by a transform that is {identity['transform']}"
    return f"{space}, with brain masks of {identity['derivatives']}" if identity["derivatives"] else space


def _row(item: dict[str, Any]) -> Context:
    row = {key: plain(item[key]) or "" if key in WORDS else words.number(plain(item[key]), 3) for key in SUPPORT}
    return row | {"scan": Markup('<a href="scans/{0}.html">{0}</a>').format(item["scan"])}
