"""Write the report: one HTML file a page, each complete in itself, so that it opens offline from any folder."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from brainscm import __version__
from brainscm.files import share, write_json, write_text
from brainscm.report import pictures
from brainscm.report.assets import ASSETS, NIIVUE, TEMPLATES
from brainscm.report.cells import Context, embedded
from brainscm.report.gallery import Gallery
from brainscm.report.methods_text import methods_text
from brainscm.report.pages import (
    bundle,
    causal_model,
    cohort,
    counterfactuals,
    evaluation,
    methods,
    overview,
    scan,
    training,
)
from brainscm.report.study import Study
from brainscm.shards import WHOLE, Shard

logger = logging.getLogger("brainscm")


@dataclass(frozen=True)
class Page:
    """A page of the report: the template `<file>.j2`, filled with what `context` takes from the study.

    `title` stands in the navigation. The gallery is None where no scan could be used.
    """

    file: str
    title: str
    context: Callable[[Study, Gallery | None], Context]


# In the order of the navigation.
PAGES = (
    Page("index.html", "Overview", overview.context),
    Page("cohort.html", "Cohort", cohort.context),
    Page("training.html", "Autoencoder", training.context),
    Page("scm.html", "Causal model", causal_model.context),
    Page("counterfactuals.html", "Counterfactuals", counterfactuals.context),
    Page("evaluation.html", "Evaluation", evaluation.context),
    Page("methods.html", "Methods", methods.context),
)
# Those of a study whose scans are put to a bundle: what was trained and evaluated is in the fitted study's own report.
OF_A_BUNDLE = Page("bundle.html", "Fitted study", bundle.context)
OWN_FIT = ("training.html", "evaluation.html")
LOG_SECONDS = 30
NEIGHBOURS = "neighbours.json"  # of the pages of a shard


def pages_of(study: Study) -> tuple[Page, ...]:
    """The pages of a study's report, in the order of the navigation."""
    if study.bundle is None:
        return PAGES
    first, *rest = (page for page in PAGES if page.file not in OWN_FIT)
    return (first, OF_A_BUNDLE, *rest)


def render_report(study: Study, gallery: Gallery | None, folder: Path, threads: int = 1) -> None:
    """Write all pages into `folder` in one go: `render_scans`, `gather_scans` and `render_pages`."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scans:
        render_scans(study, gallery, Path(scans), threads)
        gather_scans(study, [Path(scans)], folder)
    render_pages(study, gallery, folder)


def render_pages(study: Study, gallery: Gallery | None, folder: Path) -> None:
    """Write the pages of the whole study, with the methods as text and what they cite."""
    writer = _Writer(study, folder)
    text = methods_text(study)
    write_text(folder / "methods.md", text.markdown(study))
    write_text(folder / "citation.bib", text.bibtex)
    # The overview, which is the first of them, comes last: where it is, the whole report is.
    if writer.has_closer_viewer:
        shutil.copyfile(NIIVUE, folder / NIIVUE.name)
        colours = {"signed": pictures.SIGNED.tolist(), "positive": pictures.POSITIVE.tolist()}
        of_viewer = {"closer_script": Markup((ASSETS / "viewer.js").read_text()), "closer_colours": embedded(colours)}
        writer.write("viewer.html", "viewer.html.j2", of_viewer)
    for page in reversed(pages_of(study)):
        writer.write(page.file, f"{page.file}.j2", page.context(study, gallery))


def render_scans(study: Study, gallery: Gallery | None, folder: Path, threads: int = 1, shard: Shard = WHOLE) -> None:
    """Write a page for each scan of a shard into `folder/scans`, and what it loads into `folder/volumes`.

    Args:
        study: the tables of the run.
        gallery: draws its pictures; None where no scan could be used.
        threads: pages drawn at the same time.
    """
    writer, beside = _Writer(study, folder), neighbours(study)
    names = [name for name in study.worst_first if shard.holds(name)]

    def write(name: str) -> None:
        content = scan.context(study, gallery, study.rows[name])
        writer.write(f"scans/{name}.html", "scan.html.j2", content | beside[name])

    start = last_log = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(write, names), start=1):
            if time.monotonic() - last_log > LOG_SECONDS:
                last_log = time.monotonic()
                left = (last_log - start) / done * (len(names) - done)
                logger.info("%d of %d scan pages written, about %.0f min left", done, len(names), left / 60)
    write_json(folder / NEIGHBOURS, {name: beside[name] for name in names})


def gather_scans(study: Study, shards: Sequence[Path], folder: Path) -> None:
    """Put the scan pages of all shards into `folder`, and lead from each to those that are its neighbours now.

    Args:
        shards: as `render_scans` has written them. A page whose neighbours are the same is shared with its shard.
    """
    writer, beside = _Writer(study, folder), neighbours(study)
    for inner in ("scans", "volumes"):
        shutil.rmtree(folder / inner, ignore_errors=True)
    for shard in shards:
        before = json.loads((shard / NEIGHBOURS).read_text())
        for volume in shard.glob("volumes/**/*.js"):
            share(volume, folder / volume.relative_to(shard))
        for name in (name for name in before if name in beside):
            page = Path("scans", f"{name}.html")
            if before[name] == beside[name]:
                share(shard / page, folder / page)
            else:
                old, new = (
                    writer.fill("neighbours.html.j2", {"scan": name, **each[name]}) for each in (before, beside)
                )
                write_text(folder / page, (shard / page).read_text(encoding="utf-8").replace(old, new))
    logger.info("pages of %d scans gathered in %s", len(study.rows), folder)


def neighbours(study: Study) -> dict[str, dict[str, str | None]]:
    """By scan, the scans before and after it, worst first, and its place among all of them."""
    names = study.worst_first
    return {
        name: {"previous": previous, "next": following, "place": f"{place} of {len(names)}"}
        for place, (previous, name, following) in enumerate(
            zip([None, *names], names, [*names[1:], None], strict=False), start=1
        )
    }


class _Once:
    """The source of a picture the first time a page shows it; later ones are filled from that one (report.js)."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}

    def __call__(self, source: str) -> Markup:
        name = self.shown.get(source)
        if name is not None:
            return Markup('data-same="{}"').format(name)
        self.shown[source] = f"picture-{len(self.shown) + 1}"
        return Markup('src="{}" id="{}"').format(source, self.shown[source])


class _Writer:
    """Fills templates with what every page shares."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.folder = folder
        self.has_closer_viewer = NIIVUE.exists()
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        parts: Any = self.environment.get_template("parts.html.j2").make_module({"once": _Once()})
        self.environment.globals |= {
            "study": {"title": f"BrainSCM · {study.name}", "has_bundle": study.bundle is not None},
            "study_data": embedded({"key": study.key}),
            "pages": pages_of(study),
            "style": Markup((ASSETS / "style.css").read_text()),
            "script": Markup((ASSETS / "report.js").read_text()),
            "closer": self.has_closer_viewer,
            "command": study.command,
            "version": __version__,
            "made": date.today().isoformat(),
            "scales": {"signed": pictures.gradient(pictures.SIGNED), "positive": pictures.gradient(pictures.POSITIVE)},
            "status_shapes": embedded(
                {status: str(parts.status(status)) for status in ("pass", "warn", "fail", "none")}
            ),
        }

    def write(self, file: str, template: str, context: Mapping[str, Any]) -> None:
        path = self.folder / file
        # What pages do not hold themselves: volumes that the closer viewer loads.
        for stack in context.get("stacks", ()) if self.has_closer_viewer else ():
            stack.write(self.folder / "volumes" / stack.name)
        shared: Context = {"here": file, "root": "../" * file.count("/"), "once": _Once()}
        write_text(path, self.fill(template, shared | dict(context)))

    def fill(self, template: str, context: Mapping[str, Any]) -> str:
        """A template with its variables."""
        return self.environment.get_template(template).render(context)
