"""Effects as anatomy: what a contrast adds to the mean brain, decoded, with its uncertainty; and that in regions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brainscm.encoding.encoder import Encoder
from brainscm.images import Grid, write_volume
from brainscm.parallel import device_of
from brainscm.scm.inference import contrast_row
from brainscm.scm.model import Scm
from brainscm.scm.regional_effects import finished, interval

# Regional volumes in ml of a template-space volume (x, y, z).
Measure = Callable[[NDArray[np.float32]], Mapping[str, float]]

logger = logging.getLogger("brainscm")


@dataclass(frozen=True)
class EffectMap:
    """decode(mean + effect) - decode(mean), and its standard deviation over draws of the parameters; (x, y, z).

    `regions`: each region's volume in the mean brain, its change and the change's standard deviation over draws, ml.
    """

    effect: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    regions: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def effect_map(
    scm: Scm,
    autoencoder: Encoder,
    contrast: str,
    effect: Literal["total", "direct"],
    measure: Measure | None = None,
) -> EffectMap:
    """Decode a contrast's average effect on the training scans' mean latent (the latent is not anatomy)."""

    def decode(latent: NDArray) -> NDArray[np.float32]:
        batch = torch.from_numpy(latent.astype(np.float32)).to(device_of(autoencoder))
        with torch.inference_mode():
            return np.asarray(autoencoder.decode(batch).cpu().numpy()[0, 0])

    mean = scm.image.mean[None]
    before = decode(mean)
    models = [scm, *(scm.draw(k) for k in range(scm.draws))]
    after = [decode(mean + model.image.predict(contrast_row(model, contrast, effect))) for model in models]
    regions = {}
    if measure is not None:
        start, ends = measure(before), [measure(volume) for volume in after]
        for name, volume_ml in start.items():
            change, *drawn = [end[name] - volume_ml for end in ends]
            regions[name] = volume_ml, change, float(np.std(drawn, ddof=1))
    uncertainty = np.std(after[1:], axis=0, ddof=1).astype(np.float32)
    return EffectMap(after[0] - before, uncertainty, regions)


def write_effect_maps(
    scm: Scm, autoencoder: Encoder, grid: Grid, folder: Path, measure: Measure | None = None
) -> pd.DataFrame:
    """Write each contrast's maps: `<contrast>_T1w.nii.gz` (total effect), `<contrast>_desc-uncertainty_T1w.nii.gz`, and
    `_desc-direct`, `_desc-directUncertainty` where some of the effect goes through other nodes.

    Returns:
        The decoded maps' regional changes, rows like those of `measured_effects` with `source` "decoded"; their
        intervals are those of a t distribution with one degree of freedom less than there are draws.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, object]] = []
    for contrast, ends in scm.options.contrasts.items():
        mediated = set(scm.graph.descendants(tuple(ends))) & set(scm.graph.image.names)
        total = effect_map(scm, autoencoder, contrast, "total", measure)
        found = {"total": total}
        maps = {"": total.effect, "_desc-uncertainty": total.uncertainty}
        if mediated:
            direct = effect_map(scm, autoencoder, contrast, "direct", measure)
            found["direct"] = direct
            maps |= {"_desc-direct": direct.effect, "_desc-directUncertainty": direct.uncertainty}
        for label, volume in maps.items():
            write_volume(folder / f"{contrast}{label}_T1w.nii.gz", volume, grid)
        for effect, made in found.items():
            for region, (mean_ml, change_ml, error_ml) in made.regions.items():
                names = {"contrast": contrast, "effect": effect, "region": region, "source": "decoded"}
                row = interval(change_ml, error_ml, scm.draws - 1)
                records.append({**names, **row, "mean_ml": mean_ml, "scans": len(scm.training)})
        logger.info("effect maps of %s written", contrast)
    return finished(records)
