"""The text for a paper's methods section, with this run's own settings, versions and references."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import jinja2
import yaml
from markupsafe import Markup, escape

from brainscm import __version__
from brainscm.questions import by_question
from brainscm.report import words
from brainscm.report.assets import ASSETS, TEMPLATES
from brainscm.report.references import REFERENCES, Reference
from brainscm.report.study import Study
from brainscm.run_record import commit_of
from brainscm.scans import QC_STATUS, SPLITS
from brainscm.wording import listed

PACKAGES = (
    "antspyx", "torch", "nibabel", "numpy", "scipy", "pandas", "formulaic", "statsmodels", "scikit-image", "nilearn",
    "zarr", "snakemake",
)  # fmt: skip
NAMED_FIRST = ("Python", "antspyx", "torch", "snakemake")  # in the one paragraph
WIDTH = 100


@dataclass(frozen=True)
class MethodsText:
    """What was done, as Markdown of headings, paragraphs and code, and the works that it cites, in their order."""

    text: str
    references: Sequence[Reference]

    @property
    def html(self) -> Markup:
        """The text and its references as a part of a page."""
        parts = [_as_html(block) for block in self.text.split("\n\n")]
        listed = "".join(f"<li>{escape(reference.listed)}</li>" for reference in self.references)
        return Markup("\n".join([*parts, "<h2>References</h2>", f"<ul>{listed}</ul>"]))

    def markdown(self, study: Study) -> str:
        """The text with its references, the limits of what it says, and the run's whole configuration."""
        listed = [_filled(f"- {reference.listed}", "  ") for reference in self.references]
        limits = [_filled(f"- {limit}", "  ") for limit in words.LIMITS]
        blocks = [
            f"# Methods of {study.name}",
            self.text,
            "## References",
            "\n".join(listed),
            "## Limits",
            "\n".join(limits),
            "## Configuration",
            f"```yaml\n{configuration(study)}```",
        ]
        return "\n\n".join(blocks) + "\n"

    @property
    def bibtex(self) -> str:
        return "\n".join(reference.bibtex for reference in self.references)


def methods_text(study: Study) -> MethodsText:
    """Fill `methods.md.j2` with what a study's configuration and results say."""
    cited: dict[str, Reference] = {}

    def cite(key: str) -> str:
        cited[key] = REFERENCES[key]
        return cited[key].cited

    # No autoescape: this is no HTML.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    config, identity, rows = study.config, study.latents.identity, study.scans.rows
    filled = environment.get_template("methods.md.j2").render(
        cite=cite,
        config=config,
        identity=identity,
        template=identity.template,
        fitted_on=study.bundle.told["training"] if study.bundle else None,
        causal_model=study.bundle.told["causal_model_sha256"] if study.bundle else None,
        scans=len(rows),
        participants=rows["participant"].nunique(),
        usable=len(study.scans.usable),
        stages=_stages(study),
        command=study.command,
        made=date.today().isoformat(),
        failed=int((rows[QC_STATUS] == "fail").sum()),
        balanced_in=listed(config.cohort.stratify),
        image_formula=study.graph.image.text,
        shrinkage=config.scm.image.shrinkage,
        sides_differ=sides_differ(study),
        apart=listed(_apart(study)),
        silent=listed([str(item) for item in study.diagnosed("no_effect")["item"]]),
        latent_size=" × ".join(str(size) for size in study.card.get("latent_shape", [])),
        steps=study.card.get("steps"),
        version=__version__,
        commit=commit_of(ASSETS),
        versions=[f"{name} {version}" for name, version in versions()],
        main_versions=listed([f"{name} {version}" for name, version in versions() if name in NAMED_FIRST]),
    )
    blocks = [_filled(block) for block in re.split(r"\n\s*\n", filled) if block.strip()]
    return MethodsText("\n\n".join(blocks), list(cited.values()))


def _stages(study: Study) -> dict[str, int]:
    """How many scans each stage had, and what was asked of them."""
    splits = study.scans.usable["split"].value_counts()
    answers = {"fitted": len(study.sample), "queries": len(by_question(study.queries)), "answers": len(study.made)}
    return {split: int(splits.get(split, 0)) for split in SPLITS} | answers


def versions() -> list[tuple[str, str]]:
    """Python and the packages that there are; an environment holds what its stage needs, which may be less."""
    found = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def configuration(study: Study) -> str:
    return yaml.safe_dump(study.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apart(study: Study) -> list[str]:
    """Terms of mediators that were taken for badly measured, and in how many imputations if not in all."""
    found = study.diagnosed("mediator_apart")
    return [
        item if share == 1 else f"{item} (in {100 * share:.0f} % of the imputations)"
        for item, share in zip(found["item"], found["value"], strict=True)
    ]


def sides_differ(study: Study) -> bool | None:
    """Whether effects on left and right were found to differ; None if they were not compared."""
    found = study.diagnosed("sides_differ")["value"]
    return bool(next(iter(found))) if len(found) else None


def _filled(block: str, indent: str = "") -> str:
    text = " ".join(block.split())
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _as_html(block: str) -> str:
    if block.startswith("## "):
        return f"<h2>{escape(block.removeprefix('## '))}</h2>"
    paragraph = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(block)))
    return f"<p>{paragraph}</p>"
