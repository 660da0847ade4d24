"""What was done, in words for a paper, with this run's own settings, versions and configuration."""

from __future__ import annotations

from dataclasses import asdict

from brainscm.report import words
from brainscm.report.cells import Context
from brainscm.report.gallery import Gallery
from brainscm.report.methods_text import configuration, methods_text, versions
from brainscm.report.study import Study


def context(study: Study, gallery: Gallery | None) -> Context:
    text = methods_text(study)
    return {
        "text": text.html,
        "bibtex": text.bibtex,
        "limits": words.LIMITS,
        "measures": [asdict(study.measure(column)) for column in (*study.measures, *study.fidelity)],
        "versions": versions(),
        "yaml": configuration(study),
    }
