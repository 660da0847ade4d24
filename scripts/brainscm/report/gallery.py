"""The study's brains as pictures: scans, reconstructions and counterfactuals, all cut at the same places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from brainscm.config import QueryOptions
from brainscm.errors import ScanError
from brainscm.evaluation.truth import read_raw, true_volume
from brainscm.files import reconstruction_name
from brainscm.images import Grid, Mask, Volume, read_volume
from brainscm.preprocess.itk import read_matrix
from brainscm.report import pictures
from brainscm.report.badges import Badge, badges, badges_of
from brainscm.report.changes import YEARS_DECIMALS, Change
from brainscm.report.follow_ups import FollowUp, FollowUps
from brainscm.report.layers import Layer, Stack
from brainscm.report.study import Study, spaced
from brainscm.tables import evenly_spaced

if TYPE_CHECKING:
    from brainscm.preprocess.template import Template

SCANS_KEPT = 8  # at least as many as threads draw pages
SCALE_SAMPLE = 20  # differences that a query's common colour scale is read from
RECONSTRUCTION_LIMIT = 0.3  # of the colours of a reconstruction minus its scan


class Gallery:
    """Draws pictures of one study; every method returns data URIs, ready for an `img`.

    A volume that cannot be read raises `ScanError`, which the page that asks for it tells instead of the picture.
    """

    def __init__(self, study: Study, template: Template) -> None:
        self.study, self.template = study, template
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

    def reconstruction(self, scan: str) -> dict[str, Any]:
        """A scan, its reconstruction from the continuous latent, and their difference."""
        reconstruction = self.reconstructed(scan)
        volume, mask = self.volume(scan), self.mask(scan)
        return {
            "before": self.scan(scan),
            "after": pictures.grey(reconstruction, self.cuts),
            "difference": pictures.signed((reconstruction - volume) * mask, self.cuts, mask, RECONSTRUCTION_LIMIT),
            "limit": RECONSTRUCTION_LIMIT,
            "file": str((self.study.reconstructions / reconstruction_name(scan)).relative_to(self.study.results)),
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
        """Manifest rows of one scan, members of a trajectory, as its differences.

        They are on the scale that all queries share and, where the members all change less, on one of their own.
        """
        scan = items[0]["scan"]
        mask, (limit, _) = self.mask(scan), self._shared_limits
        own_limit = max(self._limits(str(item["query"]))[0] for item in items)
        volumes = [self._result(item["difference_path"]) for item in items]

        def drawn(limit: float) -> list[str]:
            return [pictures.signed(volume, self.cuts, mask, limit) for volume in volumes]

        return {
            "scan": scan,
            "factual": self.scan(scan),
            "differences": drawn(limit),
            "limit": limit,
            "own_differences": drawn(own_limit) if own_limit < limit else [None] * len(items),
            "own_limit": own_limit,
        }

    def stack(self, scan: str, items: Sequence[Mapping[str, Any]], name: str) -> Stack:
        """A scan, what the autoencoder makes of it, and its answers with the truth where it is known, slice by slice.

        A scan's own stack, which has its name, also holds its follow-ups.

        Args:
            items: rows of the manifest; none where nothing was asked. name: of the stack.
        """
        later = self.follow_ups(scan) if name == scan else []
        limit, uncertainty_limit = RECONSTRUCTION_LIMIT, 0.0
        if items or (later and len(self.study.made)):
            limit, uncertainty_limit = self._shared_limits
        own = self.volume(scan)[self.cuts.box]
        inside = self.mask(scan)[self.cuts.box]
        layers = [Layer.of("scan", "grey", own, pictures.WHITE)]
        for item in items:
            query, about = item["query"], ", ".join(badge.name for badge in badges(self.study, item))
            made, difference = (self._result(item[column])[self.cuts.box] for column in ("path", "difference_path"))
            layers += [
                Layer.of(query, "grey", made, pictures.WHITE, about),
                Layer.of(f"{query} − scan", "signed", difference * inside, limit, about),
            ]
            if pd.notna(path := item.get("uncertainty_path")):
                uncertainty = self._result(path)[self.cuts.box] * inside
                layers.append(Layer.of(f"uncertainty of {query}", "positive", uncertainty, uncertainty_limit, about))
            if (whole := self.truth(scan, query)) is not None:
                truth = whole[self.cuts.box]
                layers += [
                    Layer.of(f"truth of {query}", "grey", truth, pictures.WHITE),
                    Layer.of(f"truth of {query} − scan", "signed", (truth - own) * inside, limit),
                ]
        for each in later:
            made, truth = each.answer[self.cuts.box], self.volume(each.later)[self.cuts.box] * inside
            about = ", ".join(badge.name for badge in self.badges_of_follow_up(each))
            layers += [
                Layer.of(each.name, "grey", made, pictures.WHITE, about),
                Layer.of(f"{each.name} − scan", "signed", (made - own) * inside, limit, about),
                Layer.of(f"truth of {each.name}", "grey", truth, pictures.WHITE),
                Layer.of(f"truth of {each.name} − scan", "signed", (truth - own) * inside, limit),
            ]
        made = self.reconstructed(scan)[self.cuts.box]
        layers.append(Layer.of("reconstruction", "grey", made, pictures.WHITE))
        if not items and not later:
            layers.append(Layer.of("reconstruction − scan", "signed", (made - own) * inside, limit))
        return Stack(name, layers, self.grid, self.cuts.box, over=layers[2].name, under="scan")

    @lru_cache(maxsize=SCANS_KEPT)  # noqa: B019
    def follow_ups(self, scan: str) -> list[FollowUp]:
        """The later scans of a participant beside what is expected of the first one, where the evaluation asks that."""
        return self._follow_ups.of(scan) if self._follow_ups else []

    @cached_property
    def _follow_ups(self) -> FollowUps | None:
        return FollowUps.open(self.study)

    def changes_of_follow_up(self, found: FollowUp) -> list[Change]:
        return self.study.follow_up_changes.get((found.scan, round(found.years, YEARS_DECIMALS)), [])

    def badges_of_follow_up(self, found: FollowUp) -> list[Badge]:
        changes = self.changes_of_follow_up(found)
        return badges_of(found.support, changes, self.study.follow_up_coverage)

    def truth(self, scan: str, query: str) -> Volume | None:
        """The true answer that a simulator wrote for a scan, as the evaluation compares with it; None without one."""
        answer = self.study.truths.get((scan, query))
        if answer is None:
            return None
        try:
            own, other = (read_raw(path) for path in (str(self.study.scans.rows.at[scan, "path"]), answer))
        except ScanError:
            return None  # raw heads may be gone by now
        to_scan = read_matrix(self.study.scans.path(scan, "to_template"))
        return true_volume(self.volume(scan), self.mask(scan), own, other, to_scan, self.grid)

    @lru_cache(maxsize=SCANS_KEPT)  # noqa: B019
    def reconstructed(self, scan: str) -> Volume:
        return read_volume(self.study.reconstructions / reconstruction_name(scan), self.grid)

    def effects_stack(self, effects: Mapping[str, Path], limit: float) -> Stack:
        """Decoded effect maps on the template's brain; `effects` by their names."""
        brain = (self.template.brain * self.template.brain_mask)[self.cuts.box]
        white = float(np.percentile(brain[brain > 0], 90)) * pictures.WHITE
        layers = [Layer.of(self.template.name, "grey", brain, white)]
        for name, path in effects.items():
            layers.append(Layer.of(name, "signed", read_volume(path, self.grid)[self.cuts.box], limit))
        return Stack("effects", layers, self.grid, self.cuts.box, over=layers[1].name, under=layers[0].name)

    def mean_change(self, item: Mapping[str, Any]) -> float:
        """Mean absolute difference that a manifest row's counterfactual makes."""
        return float(np.abs(self._result(item["difference_path"])).mean())

    def effect(self, path: Path, limit: float) -> str:
        """A decoded effect map (NIfTI) within the template's brain."""
        return pictures.signed(read_volume(path, self.grid), self.cuts, self.template.brain_mask, limit)

    def largest_effect(self, path: Path) -> float:
        """The largest absolute value of an effect map within the template's brain."""
        return float(np.abs(read_volume(path, self.grid)[self.template.brain_mask > 0]).max())

    def effect_limit(self, paths: list[Path]) -> float:
        """A limit of the colours that holds each map; one that hardly changes anything does not narrow it."""
        return max((_common_limit([read_volume(path, self.grid)]) for path in paths), default=_common_limit([]))

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
