"""From the table of usable scans to a fitted autoencoder, of whichever kind the options ask for."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter

from brainscm.alignment.registration import Alignment
from brainscm.config import AutoencoderOptions, CustomTemplate
from brainscm.encoding.aligned import Aligned, align
from brainscm.encoding.model import build_vqvae
from brainscm.encoding.pca import PCA
from brainscm.encoding.vqvae import VQVAE
from brainscm.errors import BrainSCMError
from brainscm.images import Grid, Mask, Volume
from brainscm.parallel import CPU, choose_device
from brainscm.preprocess.template import load_template
from brainscm.provenance import code_fingerprint, options_fingerprint
from brainscm.training.progress import draw_progress
from brainscm.training.ranks import ALONE, Ranks
from brainscm.training.trainer import Trainer, count_parameters, history_table
from brainscm.training.volume_store import Prepare, VolumeStore, content_fingerprint

logger = logging.getLogger("brainscm")


@dataclass(frozen=True)
class FittedAutoencoder:
    """A fitted model, how it came about, and the picture drawn of a validation scan."""

    model: VQVAE | PCA | Aligned
    grid: Grid
    data_fingerprint: str
    history: pd.DataFrame
    picture: Path
    parameters: int
    steps: int
    best_step: int
    seconds: float
    device: str
    precision: str


def fit_autoencoder(
    scans: pd.DataFrame,
    preprocessing: Mapping[str, Any],
    options: AutoencoderOptions,
    seed: int,
    work_dir: Path,
    ranks: Ranks = ALONE,
) -> FittedAutoencoder:
    """Fit on the scans of the training split; keep the state in `<work_dir>/autoencoder/<hash>/`, to go on from there.

    The hash covers all that the result depends on (data, preprocessing, options, seed, code), so that a state is
    never taken up by a training that it does not belong to.

    Args:
        scans: as from `usable_scans`: scan, split, image, mask.
        preprocessing: template name and preprocessing options.
        ranks: the processes that train together.

    Raises:
        BrainSCMError: the training or the validation split is empty, a scan cannot be used, or the training was
            stopped or diverged.
    """
    training, validation = (scans[scans["split"] == split] for split in ("train", "validation"))
    for split, rows in (("training", training), ("validation", validation)):
        if rows.empty:
            raise BrainSCMError(
                f"autoencoder: the {split} split has no usable scan; add participants, or see why preprocessing failed."
            )
    grid = Grid.of(training["image"].iloc[0])
    data_fingerprint = content_fingerprint(pd.concat([training, validation]))
    identity = {
        "data": data_fingerprint,
        "preprocessing": preprocessing,
        "options": options.model_dump(exclude={"device"}),
        "seed": seed,
        "code": code_fingerprint(__name__),
    }
    folder = work_dir / "autoencoder" / options_fingerprint(identity)
    folder.mkdir(parents=True, exist_ok=True)
    volumes_folder = work_dir / "autoencoder" / "volumes"
    if not ranks.leads:
        ranks.wait()  # until the first process has built the stores
    alignment = _alignment(preprocessing, options)
    prepare, prepared, device = None, "", CPU
    if alignment is not None:
        prepare, device = _aligner(alignment), alignment.target.device
        prepared = "-" + options_fingerprint([preprocessing, code_fingerprint(__name__)])
        logger.info("autoencoder: aligning %d scans to the template", len(training) + len(validation))
    train_store, validation_store = (
        VolumeStore.open_or_build(split, grid, volumes_folder, prepare, prepared, device)
        for split in (training, validation)
    )
    if ranks.leads:
        ranks.wait()
    logger.info("autoencoder: the state is kept in %s", folder)
    if options.kind == "pca":
        fitted = _fit_pca(train_store, validation_store, grid, data_fingerprint, options, folder)
    else:
        fitted = _fit_vqvae(train_store, validation_store, grid, data_fingerprint, options, seed, folder, ranks)
    if alignment is None:
        return fitted
    assert not isinstance(fitted.model, Aligned)
    return replace(fitted, model=Aligned(fitted.model, alignment))


def _alignment(preprocessing: Mapping[str, Any], options: AutoencoderOptions) -> Alignment | None:
    """The registration to the template's brain on the grid of the scans, if the options ask for it."""
    if options.alignment == "none":
        return None
    chosen = TypeAdapter(str | CustomTemplate).validate_python(preprocessing["template"])
    template = load_template(chosen, preprocessing["options"]["voxel_mm"])
    return Alignment.onto(template).to(choose_device(options.device))


def _aligner(alignment: Alignment) -> Prepare:
    def prepare(volume: Volume, mask: Mask) -> tuple[Volume, Mask]:
        scan, brain = (torch.from_numpy(each.astype(np.float32)).to(alignment.target.device) for each in (volume, mask))
        displacement = alignment.displacement(scan)
        return align(scan, displacement).cpu().numpy(), align(brain, displacement).cpu().numpy() > 0.5

    return prepare


def _fit_vqvae(
    training: VolumeStore,
    validation: VolumeStore,
    grid: Grid,
    data_fingerprint: str,
    options: AutoencoderOptions,
    seed: int,
    folder: Path,
    ranks: Ranks,
) -> FittedAutoencoder:
    torch.manual_seed(seed)
    model = build_vqvae(options, grid.shape)
    trainer = Trainer(model, training, validation, options, seed, folder, ranks)
    trainer.run()
    return FittedAutoencoder(
        model.cpu().eval(),
        grid,
        data_fingerprint,
        history=history_table(trainer.progress.history),
        picture=folder / "progress.png",
        parameters=count_parameters(model),
        steps=trainer.progress.step,
        best_step=trainer.progress.best_step,
        seconds=trainer.progress.seconds,
        device=trainer.device_name,
        precision=str(trainer.precision).removeprefix("torch."),
    )


def _fit_pca(
    training: VolumeStore,
    validation: VolumeStore,
    grid: Grid,
    data_fingerprint: str,
    options: AutoencoderOptions,
    folder: Path,
) -> FittedAutoencoder:
    started = time.perf_counter()
    model = PCA.fit(training.volumes, options.components)
    seconds = time.perf_counter() - started
    if model.latent_shape[0] < options.components:
        logger.warning(
            "autoencoder.components: %d training scans give at most %d components, not %d",
            len(training),
            model.latent_shape[0],
            options.components,
        )
    volume = torch.from_numpy(validation.volumes[[0]]).float()
    picture = folder / "progress.png"
    title = f"PCA, {model.latent_shape[0]} components"
    draw_progress(volume[0, 0].numpy(), model.decode(model.encode(volume))[0, 0].numpy(), title, picture)
    return FittedAutoencoder(
        model,
        grid,
        data_fingerprint,
        history=history_table([]),
        picture=picture,
        parameters=model.mean.numel() + model.components.numel(),
        steps=0,
        best_step=0,
        seconds=seconds,
        device="cpu",
        precision="float32",
    )
