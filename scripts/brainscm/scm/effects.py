"""Effects as anatomy: what a contrast adds to the mean brain, decoded, with its uncertainty; and that in regions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from brainscm.encoding.encoder import Encoder, Factual
from brainscm.images import Grid, Mask, Volume, write_volume
from brainscm.parallel import device_of
from brainscm.regions import Geometry, MeasureRegions
from brainscm.scm.inference import contrast_row
from brainscm.scm.model import Scm
from brainscm.scm.regional_effects import finished, interval
from brainscm.tissue_levels import TissueLevels

logger = logging.getLogger("brainscm")


@dataclass(frozen=True)
class EffectMap:
    """A contrast's average effect, on the brain of the training scans' mean latent (the latent is not anatomy).

    Attributes:
        before: the mean brain, (x, y, z). after: the same under the effect.
        drawn: the same under the effect as each draw of the SCM's parameters has it, without shrinkage.
    """

    before: Volume
    after: Volume
    drawn: Sequence[Volume]

    @property
    def effect(self) -> Volume:
        return np.asarray(self.after - self.before)

    @property
    def uncertainty(self) -> Volume:
        """How far draws lie from the effect, as their root mean square: it holds what shrinkage took away."""
        return np.sqrt(np.mean([np.square(each - self.after) for each in self.drawn], axis=0)).astype(np.float32)

    def regions(self, measure: MeasureRegions, brain_mask: Mask) -> dict[str, tuple[float, float, float]]:
        """Each region's volume in the mean brain, its change and how far draws lie from the change, ml."""
        # In template space, as the mean brain is: no head size to divide by.
        of_mean = measure(self.before, Geometry(brain_mask))
        start, *ends = (of_mean.volumes_ml(volume) for volume in (self.before, self.after, *self.drawn))
        regions = {}
        for name, volume_ml in start.items():
            change, *drawn = [end[name] - volume_ml for end in ends]
            regions[name] = volume_ml, change, float(np.sqrt(np.mean(np.square(np.array(drawn) - change))))
        return regions


def effect_map(
    scm: Scm,
    encoder: Encoder,
    contrast: str,
    effect: Literal["total", "direct"],
    brain_mask: Mask,
    levels: Sequence[TissueLevels],
) -> EffectMap:
    """A contrast's average effect on the mean brain, as a counterfactual of a scan is made of the scan itself.

    Args:
        brain_mask: of the template; outside is nothing.
        levels: how bright the mean brain's tissues are, if the encoder asks for it.
    """

    def shift(model: Scm) -> torch.Tensor:
        step = model.image.predict(contrast_row(model, contrast, effect))
        return torch.from_numpy(step.astype(np.float32)).to(device)

    device = device_of(encoder)
    models = [scm, *(scm.draw(k) for k in range(scm.draws))]
    mean = torch.from_numpy(scm.image.mean[None].astype(np.float32)).to(device)
    inside = torch.from_numpy(brain_mask).to(device)
    with torch.inference_mode():
        before = encoder.decode(mean) * inside
        factual = Factual(encoder, before, mean, levels)
        after = [encoder.apply_shift(factual, shift(model)) * inside for model in models]
    first, *rest = (np.asarray(volume.cpu().numpy()[0, 0]) for volume in (before, *after))
    return EffectMap(first, rest[0], rest[1:])


def write_effect_maps(
    scm: Scm,
    encoder: Encoder,
    grid: Grid,
    measure: MeasureRegions,
    brain_mask: Mask,
    folder: Path,
    levels: Sequence[TissueLevels] = (),
) -> pd.DataFrame:
    """Write each contrast's maps: `<contrast>_T1w.nii.gz` (total effect), `<contrast>_desc-uncertainty_T1w.nii.gz`, and
    `_desc-direct`, `_desc-directUncertainty` where some of the effect goes through other nodes.

    Returns:
        The decoded maps' regional changes, rows like those of `measured_effects` with `source` "decoded"; their
        intervals are those of a t distribution with as many degrees of freedom as there are draws.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, object]] = []
    for contrast, ends in scm.options.contrasts.items():
        mediated = set(scm.graph.descendants(tuple(ends))) & set(scm.graph.image.names)
        found = {"total": effect_map(scm, encoder, contrast, "total", brain_mask, levels)}
        maps = {"": found["total"].effect, "_desc-uncertainty": found["total"].uncertainty}
        if mediated:
            found["direct"] = effect_map(scm, encoder, contrast, "direct", brain_mask, levels)
            maps |= {"_desc-direct": found["direct"].effect, "_desc-directUncertainty": found["direct"].uncertainty}
        for label, volume in maps.items():
            write_volume(folder / f"{contrast}{label}_T1w.nii.gz", volume, grid)
        for effect, made in found.items():
            for region, (mean_ml, change_ml, error_ml) in made.regions(measure, brain_mask).items():
                names = {"contrast": contrast, "effect": effect, "region": region, "source": "decoded"}
                row = interval(change_ml, error_ml, scm.draws)
                records.append({**names, **row, "mean_ml": mean_ml, "scans": len(scm.training)})
        logger.info("effect maps of %s written", contrast)
    return finished(records)
