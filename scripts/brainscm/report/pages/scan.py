"""The page of one scan: its checks, its pictures, its place in the cohort, and what was asked of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from brainscm.errors import ScanError
from brainscm.evaluation.cases import FOLLOW_UP
from brainscm.qc.limits import Status, apply_limits
from brainscm.regions import LATENT, region_label
from brainscm.report import pictures, words
from brainscm.report.cells import Context, plain
from brainscm.report.changes import YEARS_DECIMALS
from brainscm.report.follow_ups import FollowUp
from brainscm.report.gallery import Gallery
from brainscm.report.pages import bundle
from brainscm.report.pages.counterfactuals import answers_of, regions_table
from brainscm.report.study import Study, spaced
from brainscm.scans import QC_REASONS, QC_STATUS, records

ANSWERS = 12  # questions that are shown
QUALITY_PICTURES = {
    "mask": (
        "Brain mask",
        "The brain mask on the raw scan. It should follow the brain's surface and leave no part out.",
    ),
    "background": (
        "Background",
        "The whole field of view with dark intensities raised. Motion shows in the air, as ripples and copies of the "
        "head; where a file has the air at zero, it stays black.",
    ),
    "registration": (
        "Registration",
        "The scan in template space under the template's outlines. They should follow the brain and the ventricles.",
    ),
}
# What a rater may find, in the order of their keys (1 to 9).
ARTEFACTS = (
    "motion", "ringing", "wrap-around", "bias field", "noise", "mask too small", "mask too large", "registration",
    "lesion",
)  # fmt: skip


# A percentile, and which way is better: a class of its bar.
BAR = Markup(
    '<span class="rank {1}" role="img" aria-label="percentile {0:.0f}"><i style="left: calc({0:.0f}% - 1px)"></i>'
    "</span>{0:.0f}"
)


def context(study: Study, gallery: Gallery | None, row: Mapping[str, Any]) -> Context:
    """Variables of the page of one row of `study.cohort`."""
    scan = row["scan"]
    asked = study.manifest[study.manifest["scan"] == scan]
    answers, more = answers_of(study, gallery, asked, ANSWERS)
    content: Context = {
        "scan": scan,
        "status": row[QC_STATUS],
        "reasons": study.relative(plain(row[QC_REASONS]) or ""),
        "raw": study.relative(str(row["path"])),
        "facts": _facts(study, row),
        "outside": bundle.warning_of(study, scan),
        "artefacts": ARTEFACTS,
        "pictures": _quality_pictures(study, scan),
        "why_no_pictures": "preprocessing stopped before it could draw any.",
        "template": None,
        "scan_file": f"preproc/{row['preproc_t1w']}",
        "fidelity_target": "report" if study.bundle else "train",
        "stacks": [],
        "measures": _measures(study, row),
        "places": [_place(item) for item in study.places[study.places["scan"] == scan].to_dict("records")],
        "reconstruction": None,
        "follow_ups": [],
        "why_no_reconstruction": "None: the scan did not reach the autoencoder.",
        "counterfactuals": answers,
        "more_counterfactuals": more,
        "why_no_counterfactuals": "No query asks for this scan.",
        "files": [
            *((role, f"preproc/{row[role]}") for role in study.output_roles if pd.notna(row[role])),
            *_counterfactual_files(asked),
        ],
        "redo": _redo(study, scan) if row[QC_STATUS] == "fail" else None,
    }
    if gallery is not None and not study.scans.unusable[scan]:
        try:
            content["template"] = {
                "before": gallery.template_picture,
                "after": gallery.scan(scan),
                "name": gallery.template.name,
            }
            content["reconstruction"] = gallery.reconstruction(scan) | {"caption": fidelity_words(row)}
            content["follow_ups"] = [_follow_up(study, gallery, found) for found in gallery.follow_ups(scan)]
            content["stacks"] = [gallery.stack(scan, spaced(asked[asked["path"].notna()], ANSWERS), scan)]
        except ScanError as error:
            content["why_no_reconstruction"] = str(error)
    return content


def _follow_up(study: Study, gallery: Gallery, found: FollowUp) -> Context:
    """A later scan as the truth of the counterfactual at the age then."""
    rows = study.metrics[
        (study.metrics["source"] == FOLLOW_UP)
        & (study.metrics["level"] == "scan")
        & (study.metrics["scan"] == found.scan)
        & (study.metrics["metric"] == "psnr_brain_db")
        & (study.metrics["years"].astype(float).round(YEARS_DECIMALS) == round(found.years, YEARS_DECIMALS))
    ]
    psnr = {(row["method"], row["decode"]): float(row["value"]) for row in records(rows)}
    own, unchanged = psnr.get(("latent_glm", "residual")), psnr.get(("persistence", "none"))
    told = ""
    if own is not None and unchanged is not None:
        told = (
            f"Against the later scan the counterfactual has a PSNR of {own:.1f} dB in the brain, the first scan as it "
        )
        told += f"is {unchanged:.1f} dB (higher is nearer)."
    return {
        "name": found.name,
        "later": found.later,
        "told": told,
        "badges": gallery.badges_of_follow_up(found),
        "warning": plain(found.support["warning"]),
        "regions": regions_table(gallery.changes_of_follow_up(found)),
    }


def _counterfactual_files(asked: pd.DataFrame) -> list[tuple[str, str]]:
    """What each query wrote for a scan."""
    kinds = {"path": "counterfactual", "difference_path": "difference", "uncertainty_path": "uncertainty"}
    return [
        (f"{item['query']}, {kind}", f"counterfactuals/{item[column]}")
        for item in asked.to_dict("records")
        for column, kind in kinds.items()
        if pd.notna(item.get(column))
    ]


def _redo(study: Study, scan: str) -> str:
    """The command that preprocesses a scan again, once its file is mended."""
    target = f"{study.config.output_dir}/preproc/status/{scan}.json"
    return f"snakemake {target} --force --cores 1 {study.study_file}".strip()


def fidelity_words(row: Mapping[str, Any]) -> str:
    return f"In the brain: PSNR {row['psnr_brain_db']:.1f} dB, SSIM {row['ssim_brain']:.3f}."


def _facts(study: Study, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("participant", row["participant"])]
    if pd.notna(row["session"]):
        facts.append(("session", row["session"]))
    facts.append(("split", row["split"]))
    facts += [(study.with_unit(column), words.number(plain(row[column]), 4)) for column in study.scans.covariates]
    left_out = study.excluded[study.excluded["scan"] == row["scan"]]
    return facts + [(f"left out of {item['excluded_from']}", item["reason"]) for item in left_out.to_dict("records")]


def _quality_pictures(study: Study, scan: str) -> list[Context]:
    found = []
    for kind, (alt, caption) in QUALITY_PICTURES.items():
        path = study.scans.preproc_dir / "figures" / f"{scan}_{kind}.png"
        if path.exists():
            found.append(
                {
                    "kind": kind,
                    "source": pictures.from_file(path),
                    "alt": f"{alt} of {scan}",
                    "caption": caption,
                    "file": f"preproc/figures/{path.name}",
                }
            )
    return found


def _measures(study: Study, row: Mapping[str, Any]) -> list[Context]:
    """Every measure of a scan; those beyond a limit first, failures before warnings."""
    known = [column for column in (*study.measures, *study.fidelity) if pd.notna(row[column])]
    broken = {column: apply_limits({column: row[column]}, study.config.quality) for column in known}
    order = {"fail": 0, "warn": 1, "pass": 2}
    shown = sorted(known, key=lambda column: order[broken[column][0]])
    return [_standing(study, row, column, *broken[column]) for column in shown]


def _standing(study: Study, row: Mapping[str, Any], column: str, outcome: Status, broken: list[str]) -> Context:
    measure = study.measure(column)
    percentile, z = study.standing(row, column)
    value = f"{words.number(plain(row[column]), 4)} {measure.unit}".strip()
    distance = words.signed(f"{round(z, 1) + 0.0:+.1f}") if math.isfinite(z) else "–"
    odd = math.isfinite(z) and abs(z) > 3
    return {
        "label": measure.label,
        "value": Markup("{} <small>{}</small>").format(value, study.limit_words(column, outcome))
        if outcome != "pass"
        else value,
        "_class": outcome if outcome != "pass" else "",
        "percentile": BAR.format(percentile, measure.better) if math.isfinite(percentile) else "–",
        "z": Markup('<strong class="status warn">{}</strong>').format(distance) if odd else distance,
        "meaning": "".join(f"{words.capitalised(reason)}. " for reason in broken)
        + measure.meaning
        + ("" if measure.better == "neither" else f" {measure.better.capitalize()} is better."),
    }


def _place(item: Mapping[str, Any]) -> Context:
    """One row of `scm/people.tsv`."""
    is_latent = item["measure"] == LATENT
    low, high = item["centile_low"], item["centile_high"]
    return {
        "label": "All that the graph leaves unexplained" if is_latent else region_label(item["measure"]),
        "value": "–" if is_latent else f"{words.number(item['value'], 4)} ml",
        "expected": "–" if is_latent else f"{words.number(item['expected'], 4)} ml",
        "z": words.signed(f"{round(item['z'], 1) + 0.0:+.1f}"),
        "centile": BAR.format(item["centile"], "neither"),
        "interval": "–" if pd.isna(low) else f"{low:.0f} to {high:.0f}",
    }
