"""Write the report: one HTML file a page, each complete in itself, so that it opens offline from any folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from brainscm import __version__
from brainscm.files import write_text
from brainscm.report import pictures
from brainscm.report.cells import Context, embedded
from brainscm.report.gallery import Gallery
from brainscm.report.pages import causal_model, cohort, counterfactuals, evaluation, methods, overview, scan, training
from brainscm.report.study import ASSETS, Study

logger = logging.getLogger("brainscm")

PAGES = {
    "index.html": "Overview",
    "cohort.html": "Cohort",
    "training.html": "Autoencoder",
    "scm.html": "Causal model",
    "counterfactuals.html": "Counterfactuals",
    "evaluation.html": "Evaluation",
    "methods.html": "Methods",
}
LOG_SECONDS = 30


def render_report(study: Study, gallery: Gallery | None, folder: Path, threads: int = 1) -> None:
    """Write all pages into `folder`; scan pages go to `folder/scans`, one at a time, so that memory stays flat.

    Args:
        study: the tables of the run.
        gallery: draws its pictures; None where no scan could be used.
        folder: of index.html.
        threads: scan pages drawn at the same time.
    """
    writer = _Writer(study, folder)
    start = last_log = time.monotonic()
    names = list(study.rows)

    def scan_page(place: int) -> None:
        beside = {
            "previous": names[place - 1] if place else None,
            "next": names[place + 1] if place + 1 < len(names) else None,
        }
        writer.write(
            f"scans/{names[place]}.html", "scan.html", scan.context(study, gallery, study.rows[names[place]]) | beside
        )

    for page in (folder / "scans").glob("*.html"):
        if page.stem not in study.rows:
            page.unlink()  # of an earlier run, with scans that are gone
    with ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(scan_page, range(len(names))), start=1):
            if time.monotonic() - last_log > LOG_SECONDS:
                last_log = time.monotonic()
                left = (last_log - start) / done * (len(names) - done)
                logger.info("%d of %d scan pages written, about %.0f min left", done, len(names), left / 60)
    writer.write("cohort.html", "cohort.html", cohort.context(study))
    writer.write("training.html", "training.html", training.context(study, gallery))
    writer.write("scm.html", "scm.html", causal_model.context(study, gallery))
    writer.write("counterfactuals.html", "counterfactuals.html", counterfactuals.context(study, gallery))
    writer.write("evaluation.html", "evaluation.html", evaluation.context(study))
    writer.write("methods.html", "methods.html", methods.context(study))
    # The overview comes last: Snakemake takes it for the whole report.
    writer.write("index.html", "index.html", overview.context(study, gallery))
    logger.info("report of %d scans written to %s", len(names), folder)


class _Writer:
    """Fills templates with what every page shares."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.folder = folder
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(ASSETS / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        parts: Any = self.environment.get_template("parts.html.j2").module
        self.environment.globals |= {
            "study": {"title": f"BrainSCM · {study.name}"},
            "pages": [{"file": file, "title": title} for file, title in PAGES.items()],
            "style": Markup((ASSETS / "style.css").read_text()),
            "script": Markup((ASSETS / "report.js").read_text()),
            "version": __version__,
            "made": date.today().isoformat(),
            "scales": {"signed": pictures.gradient(pictures.SIGNED), "positive": pictures.gradient(pictures.POSITIVE)},
            "status_shapes": embedded(
                {status: str(parts.status(status)) for status in ("pass", "warn", "fail", "none")}
            ),
        }

    def write(self, file: str, template: str, context: Mapping[str, Any]) -> None:
        path = self.folder / file
        shared: Context = {"here": file, "root": "../" * file.count("/")}
        text = self.environment.get_template(f"{template}.j2").render(shared | dict(context))
        write_text(path, text)
