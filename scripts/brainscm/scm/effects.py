"""Effects as anatomy: what a contrast adds to the mean brain, decoded, with its uncertainty."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from brainscm.autoencoder.model import Autoencoder
from brainscm.autoencoder.volumes import Grid
from brainscm.scm.inference import contrast_row
from brainscm.scm.model import Scm

logger = logging.getLogger("brainscm")


@dataclass(frozen=True)
class EffectMap:
    """decode(mean + effect) - decode(mean), and its standard deviation over draws of the parameters; (x, y, z)."""

    effect: NDArray[np.float32]
    uncertainty: NDArray[np.float32]


def effect_map(scm: Scm, autoencoder: Autoencoder, contrast: str, effect: Literal["total", "direct"]) -> EffectMap:
    """Decode a contrast's average effect on the training scans' mean latent (the latent is not anatomy)."""
    mean_row = scm.design_matrix(scm.training).mean(axis=0)[None]

    def decoded(model: Scm) -> NDArray[np.float32]:
        change = model.image.predict(contrast_row(model, contrast, effect))
        pair = np.concatenate([mean, mean + change]).astype(np.float32)
        with torch.inference_mode():
            before, after = autoencoder.decode(torch.from_numpy(pair).to(device_of(autoencoder))).cpu().numpy()[:, 0]
        return np.asarray(after - before, dtype=np.float32)

    mean = scm.image.predict(mean_row)
    draws = [decoded(scm.draw(k)) for k in range(scm.draws)]
    return EffectMap(decoded(scm), np.std(draws, axis=0, ddof=1).astype(np.float32))


def write_effect_maps(scm: Scm, autoencoder: Autoencoder, grid: Grid, folder: Path) -> None:
    """Write each contrast's maps: `<contrast>_T1w.nii.gz` (total effect), `<contrast>_desc-uncertainty_T1w.nii.gz`, and
    `_desc-direct`, `_desc-directUncertainty` where some of the effect goes through other nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    for contrast, ends in scm.options.contrasts.items():
        mediated = set(scm.graph.descendants(tuple(ends))) & set(scm.graph.image.names)
        total = effect_map(scm, autoencoder, contrast, "total")
        maps = {"": total.effect, "_desc-uncertainty": total.uncertainty}
        if mediated:
            direct = effect_map(scm, autoencoder, contrast, "direct")
            maps |= {"_desc-direct": direct.effect, "_desc-directUncertainty": direct.uncertainty}
        for label, volume in maps.items():
            save_volume(volume, grid, folder / f"{contrast}{label}_T1w.nii.gz")
        logger.info("effect maps of %s written", contrast)


def save_volume(volume: NDArray[np.float32], grid: Grid, path: Path) -> None:
    """Write a template-space volume (x, y, z) as NIfTI, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(volume, grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(grid.affine, code="mni")
    image.set_sform(grid.affine, code="mni")
    partial = path.with_name(f".partial-{path.name}")
    image.to_filename(partial)
    os.replace(partial, path)


def device_of(autoencoder: Autoencoder) -> torch.device:
    """Where an autoencoder's tensors are."""
    tensors = autoencoder.state_dict().values() if isinstance(autoencoder, torch.nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
