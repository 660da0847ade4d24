"""Effect maps slice by slice, with a threshold, and what lies beyond it as clusters in named regions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from brainscm.errors import ScanError
from brainscm.images import read_volume
from brainscm.report import words
from brainscm.report.cells import Context, embedded
from brainscm.report.clusters import Cluster, NamedRegions
from brainscm.report.gallery import Gallery
from brainscm.report.study import Study

TENTHS = 10  # of the limit of the colours: the steps of the threshold
FIRST = 3
SHOWN = 8  # clusters
COLUMNS = (
    ("regions", "Where it lies", ""),
    ("volume", "Volume (ml)", "number"),
    ("peak", "Peak", "number"),
    ("at", "at x, y, z (mm)", "number"),
)


def effect_maps(study: Study, gallery: Gallery | None) -> Context | None:
    """The maps of the total and direct effect of each contrast as a stack, and their clusters at each threshold."""
    paths = effect_paths(study)
    if gallery is None or not paths:
        return None
    try:
        limit = gallery.effect_limit(list(paths.values()))
        stack = gallery.effects_stack(paths, limit)
        regions = NamedRegions.of(gallery.template, study.config.preprocess.atlas)
        found = {
            name: [
                _table(regions.clusters(read_volume(path, gallery.grid), tenth * limit / TENTHS))
                for tenth in range(1, TENTHS)
            ]
            for name, path in paths.items()
        }
    except ScanError:
        return None
    return {
        "stack": stack,
        "first": FIRST,
        "most": TENTHS - 1,
        "columns": COLUMNS,
        "rows": found[stack.over][FIRST - 1]["rows"],
        "tables": embedded({"keys": [key for key, _, _ in COLUMNS], "tables": found}),
        "files": [str(path.relative_to(study.fitted)) for path in paths.values()],
    }


def effect_paths(study: Study) -> dict[str, Path]:
    """The maps that there are of all contrasts, total and direct, by their names; they share a scale."""
    kinds = {"": "{}", "_desc-direct": "{}, direct"}
    return {
        name.format(contrast): path
        for contrast in study.config.scm.contrasts
        for label, name in kinds.items()
        if (not label or has_direct(study, study.config.scm.contrasts[contrast]))
        and (path := effect_path(study, contrast, label)).exists()
    }


def has_direct(study: Study, causes: Iterable[str]) -> bool:
    """Whether the graph has an arrow from one of the causes into the image; without one the direct effect is zero."""
    return not set(causes).isdisjoint(study.graph.image.names)


def effect_path(study: Study, contrast: str, label: str = "") -> Path:
    return study.fitted / "scm" / "effects" / f"{contrast}{label}_T1w.nii.gz"


def _table(clusters: list[Cluster]) -> Context:
    return {"rows": [_row(cluster) for cluster in clusters[:SHOWN]], "more": max(len(clusters) - SHOWN, 0)}


def _row(cluster: Cluster) -> Context:
    return {
        "regions": ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in cluster.regions),
        "volume": words.number(cluster.volume_ml, 3),
        "peak": words.signed(f"{cluster.peak:+.2f}"),
        "at": ", ".join(words.signed(f"{mm:.0f}") for mm in cluster.peak_mm),
    }
