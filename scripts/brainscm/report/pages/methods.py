"""What was done, in words for a paper, with this run's own settings, versions and configuration."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict

import pandas as pd
import yaml

from brainscm.report import words
from brainscm.report.cells import Context
from brainscm.report.gallery import Gallery
from brainscm.report.study import Study

PACKAGES = (
    "antspyx", "torch", "nibabel", "numpy", "scipy", "pandas", "formulaic", "statsmodels", "scikit-image", "nilearn",
    "zarr", "snakemake",
)  # fmt: skip


def context(study: Study, gallery: Gallery | None) -> Context:
    versions = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            versions.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue  # an environment holds what its stage needs, which may be less
    config, identity = study.config, study.latents.identity
    return {
        "config": config,
        "identity": identity,
        "template": identity.template if isinstance(identity.template, str) else identity.template.name,
        "balanced_in": words.listed(config.cohort.stratify),
        "image_formula": study.graph.image.text,
        "shrinkage": config.scm.image.shrinkage,
        "sides_differ": _sides_differ(study.diagnostics),
        "latent_size": " × ".join(str(size) for size in study.card.get("latent_shape", [])),
        "steps": study.card.get("steps"),
        "limits": words.LIMITS,
        "measures": [asdict(study.measure(column)) for column in (*study.measures, *study.fidelity)],
        "versions": versions,
        "yaml": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    }


def _sides_differ(diagnostics: pd.DataFrame) -> bool | None:
    """Whether effects on left and right were found to differ; None if they were not compared."""
    found = diagnostics.loc[diagnostics["check"] == "sides_differ", "value"] if len(diagnostics) else ()
    return bool(next(iter(found))) if len(found) else None
