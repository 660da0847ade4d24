"""The study's brains as pictures: scans, reconstructions and counterfactuals, all cut at the same places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property, lru_cache
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
from brainscm.tables import evenly_spaced

if TYPE_CHECKING:
    from brainscm.preprocess.template import Template

SCANS_KEPT = 8  # at least as many as threads draw pages
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

    # A page shows a scan several times: it is read, and drawn, once.
    @lru_cache(maxsize=SCANS_KEPT)  # noqa: B019 (a gallery lives as long as the report is being made)
    def volume(self, scan: str) -> Volume:
        # On the template's grid: pictures are cut where the template's brain lies.
        return read_volume(self.study.scans.path(scan, "preproc_t1w"), self.grid)

    @lru_cache(maxsize=SCANS_KEPT)  # noqa: B019
    def mask(self, scan: str) -> Mask:
        return self.study.scans.mask(scan)

    @lru_cache(maxsize=SCANS_KEPT)  # noqa: B019
    def scan(self, scan: str) -> str:
        return pictures.grey(self.volume(scan), self.cuts)

    def reconstruction(self, scan: str, limit: float = 0.3) -> dict[str, Any]:
        """A scan, its reconstruction from the continuous latent, and their difference."""
        latent = torch.from_numpy(self.study.latents.of(scan)[None])  # (1, c, x, y, z)
        reconstruction = self.encoder.decode(latent)[0, 0].numpy()
        volume, mask = self.volume(scan), self.mask(scan)
        return {
            "before": self.scan(scan),
            "after": pictures.grey(reconstruction, self.cuts),
            "difference": pictures.signed((reconstruction - volume) * mask, self.cuts, mask, limit),
            "limit": limit,
        }

    def counterfactual(self, item: Mapping[str, Any], query: QueryOptions) -> dict[str, Any]:
        """One manifest row as pictures: on the scale that all queries share, and on that of its own query."""
        mask = self.mask(item["scan"])
        limit, uncertainty_limit = self._shared_limits
        own_limit, _ = self._limits(query.name)
        difference = self._result(item["difference_path"])
        drawn = {
            "scan": item["scan"],
            "query": query.name,
            "factual": self.scan(item["scan"]),
            "counterfactual": pictures.grey(self._result(item["path"]), self.cuts),
            "difference": pictures.signed(difference, self.cuts, mask, limit),
            "limit": limit,
            "own_difference": pictures.signed(difference, self.cuts, mask, own_limit) if own_limit < limit else None,
            "own_limit": own_limit,
            "uncertainty": None,
            "uncertainty_limit": uncertainty_limit,
        }
        if pd.notna(item.get("uncertainty_path")):
            uncertainty = self._result(item["uncertainty_path"])
            drawn["uncertainty"] = pictures.positive(uncertainty, self.cuts, mask, uncertainty_limit)
        return drawn

    def series(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Manifest rows of one scan, members of a trajectory, as its differences on one scale."""
        scan = items[0]["scan"]
        mask, limit = self.mask(scan), max(self._limits(str(item["query"]))[0] for item in items)
        differences = [pictures.signed(self._result(item["difference_path"]), self.cuts, mask, limit) for item in items]
        return {"scan": scan, "factual": self.scan(scan), "differences": differences, "limit": limit}

    def viewer(self, scan: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A scan and its answers as whole volumes for the slice viewer; `items` are rows of the manifest."""
        mask, low = self.mask(scan), np.array([part.start for part in self.cuts.box])
        shape = [part.stop - part.start for part in self.cuts.box]
        limit, uncertainty_limit = self._shared_limits if items else (1.0, 1.0)
        layers = [{"name": "scan", "kind": "grey", "source": self._sprite(self.volume(scan) / pictures.WHITE)}]
        for item in items:
            difference = pictures.signed_unit(self._result(item["difference_path"]), mask, limit)
            volume = self._result(item["path"]) / pictures.WHITE
            layers += [
                {"name": item["query"], "kind": "grey", "source": self._sprite(volume)},
                {"name": f"{item['query']} − scan", "kind": "signed", "source": self._sprite(difference)},
            ]
            if pd.notna(item.get("uncertainty_path")):
                uncertainty = np.where(mask, self._result(item["uncertainty_path"]) / uncertainty_limit, 0)
                of_query = f"uncertainty of {item['query']}"
                layers.append({"name": of_query, "kind": "positive", "source": self._sprite(uncertainty)})
        return {
            "shape": shape,
            "columns": pictures.SPRITE_COLUMNS,
            "voxel_mm": self.grid.affine.diagonal()[:3].tolist(),
            "origin_mm": (self.grid.affine[:3, :3] @ low + self.grid.affine[:3, 3]).tolist(),
            "limits": {"signed": limit, "positive": uncertainty_limit},
            "layers": layers,
            "colours": {"signed": pictures.SIGNED.tolist(), "positive": pictures.POSITIVE.tolist()},
        }

    def _sprite(self, unit: Volume) -> str:
        return pictures.sprite(unit, self.cuts)

    def mean_change(self, item: Mapping[str, Any]) -> float:
        """Mean absolute difference that a manifest row's counterfactual makes."""
        return float(np.abs(self._result(item["difference_path"])).mean())

    def effect(self, path: Path, limit: float) -> str:
        """A decoded effect map (NIfTI) within the template's brain."""
        return pictures.signed(read_volume(path, self.grid), self.cuts, self.template.brain_mask, limit)

    def effect_limit(self, paths: list[Path]) -> float:
        return _common_limit([read_volume(path, self.grid) for path in paths])

    @cached_property
    def _shared_limits(self) -> tuple[float, float]:
        """Colour limits that hold the differences, and the uncertainties, of all queries (of many: of a sample)."""
        queries = evenly_spaced(pd.Series(self.study.made["query"].unique()), SCALE_SAMPLE)
        differences, uncertainties = zip(*map(self._limits, queries), strict=True)
        return max(differences), max(uncertainties)

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
