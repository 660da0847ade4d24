"""The study's brains as pictures: scans, reconstructions and counterfactuals, all cut at the same places."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from brainscm.config import QueryOptions
from brainscm.encoding.encoder import Encoder
from brainscm.images import Grid, Mask, Volume, read_volume
from brainscm.report import pictures
from brainscm.report.study import Study, spaced

if TYPE_CHECKING:
    from brainscm.preprocess.template import Template

SCALE_SAMPLE = 20  # differences that a query's common colour scale is read from


class Gallery:
    """Draws pictures of one study; every method returns data URIs, ready for an `img`.

    A volume that cannot be read raises `ScanError`, which the page that asks for it tells instead of the picture.
    """

    def __init__(self, study: Study, template: Template, encoder: Encoder) -> None:
        self.study, self.template, self.encoder = study, template, encoder
        self.grid = Grid(template.shape, np.asarray(template.affine))
        self.cuts = pictures.Cuts.through(template.brain_mask)

    @cached_property
    def template_picture(self) -> str:
        brain = np.where(self.template.brain_mask, self.template.brain, 0.0)
        return pictures.grey(brain / np.percentile(brain[brain > 0], 90), self.cuts)

    def volume(self, scan: str) -> Volume:
        # On the template's grid: pictures are cut where the template's brain lies.
        return read_volume(self.study.scans.path(scan, "preproc_t1w"), self.grid)

    def mask(self, scan: str) -> Mask:
        return self.study.scans.mask(scan)

    def scan(self, scan: str) -> str:
        return pictures.grey(self.volume(scan), self.cuts)

    def reconstruction(self, scan: str, limit: float = 0.3) -> dict[str, Any]:
        """A scan, its reconstruction from the continuous latent, and their difference."""
        latent = torch.from_numpy(self.study.latents.of(scan)[None])  # (1, c, x, y, z)
        reconstruction = self.encoder.decode(latent)[0, 0].numpy()
        volume, mask = self.volume(scan), self.mask(scan)
        return {
            "before": pictures.grey(volume, self.cuts),
            "after": pictures.grey(reconstruction, self.cuts),
            "difference": pictures.signed((reconstruction - volume) * mask, self.cuts, mask, limit),
            "limit": limit,
        }

    def counterfactual(self, item: Mapping[str, Any], query: QueryOptions) -> dict[str, Any]:
        """One manifest row as pictures, on the common scale of its query."""
        mask = self.mask(item["scan"])
        limit, uncertainty_limit = self._limits(query.name)
        drawn = {
            "scan": item["scan"],
            "query": query.name,
            "factual": self.scan(item["scan"]),
            "counterfactual": pictures.grey(self._result(item["path"]), self.cuts),
            "difference": pictures.signed(self._result(item["difference_path"]), self.cuts, mask, limit),
            "limit": limit,
            "uncertainty": None,
            "uncertainty_limit": uncertainty_limit,
        }
        if pd.notna(item.get("uncertainty_path")):
            uncertainty = self._result(item["uncertainty_path"])
            drawn["uncertainty"] = pictures.positive(uncertainty, self.cuts, mask, uncertainty_limit)
        return drawn

    def mean_change(self, item: Mapping[str, Any]) -> float:
        """Mean absolute difference that a manifest row's counterfactual makes."""
        return float(np.abs(self._result(item["difference_path"])).mean())

    def effect(self, path: Path, limit: float) -> str:
        """A decoded effect map (NIfTI) within the template's brain."""
        return pictures.signed(read_volume(path, self.grid), self.cuts, self.template.brain_mask, limit)

    def effect_limit(self, paths: list[Path]) -> float:
        return _common_limit([read_volume(path, self.grid) for path in paths])

    @cache  # noqa: B019 (a gallery lives as long as the report is being made)
    def _limits(self, query: str) -> tuple[float, float]:
        """Colour limits of a query's differences and uncertainties: the 99.5th percentile over scans, rounded up."""
        sample = spaced(self.study.made[self.study.made["query"] == query], SCALE_SAMPLE)
        differences = [self._result(item["difference_path"]) for item in sample]
        uncertainties = [self._result(path) for item in sample if pd.notna(path := item["uncertainty_path"])]
        return _common_limit(differences), _common_limit(uncertainties)

    def _result(self, path: str) -> Volume:
        return read_volume(self.study.counterfactuals_dir / path, self.grid)


def _common_limit(volumes: list[Volume]) -> float:
    changed = [np.abs(volume[volume != 0]) for volume in volumes]
    values = np.concatenate(changed) if changed else np.zeros(0)
    return pictures.round_limit(float(np.percentile(values, 99.5)) if len(values) else 0.0)
