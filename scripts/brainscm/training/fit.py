"""From the scans of a task to a fitted encoder, of whichever kind the options ask for."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from brainscm.encoding.encoder import ClosedForm, Fitted, Network
from brainscm.encoding.model import encoder_class
from brainscm.errors import BrainSCMError
from brainscm.provenance import code_fingerprint, options_fingerprint
from brainscm.ranks import ALONE, Ranks
from brainscm.training.code_use import codes_table
from brainscm.training.history import history_table
from brainscm.training.progress import draw_progress
from brainscm.training.task import TrainingTask
from brainscm.training.trainer import Trainer, count_parameters
from brainscm.training.validation import code_use
from brainscm.training.volume_store import Stores, VolumeStore, content_fingerprint

logger = logging.getLogger("brainscm")

SPLITS_SEEN = ("train", "validation")  # of the stores


@dataclass(frozen=True)
class FittedAutoencoder:
    """A fitted encoder, how it came about, and the picture drawn of a validation scan.

    Attributes:
        codes: which codes each split uses, codebook by codebook; empty where there are none.
        bits_per_voxel: of the codes of the validation split.
    """

    encoder: Fitted
    data_fingerprint: str
    history: pd.DataFrame
    picture: Path
    parameters: int
    steps: int = 0
    best_step: int = 0
    seconds: float = 0.0
    codes: pd.DataFrame = field(default_factory=lambda: codes_table({}))
    bits_per_voxel: float | None = None
    device: str = "cpu"
    precision: str = "float32"


def fit_autoencoder(task: TrainingTask, ranks: Ranks = ALONE) -> FittedAutoencoder:
    """Fit on the scans of the training split, which are brought to the template first if the task says so.

    The state is kept in `<work_dir>/autoencoder/<hash>/`, to go on from there. The hash covers all that the result
    depends on (data, identity, options, seed, code), so that a state is never taken up by another training.

    Args:
        ranks: the processes that train together.

    Raises:
        BrainSCMError: the training or the validation split is empty, a scan cannot be used, or the training was
            stopped or diverged.
    """
    encoder = encoder_class(task.options.kind)
    chosen = {split: _scans_of(task, split) for split in SPLITS_SEEN}
    data = content_fingerprint(task.scans, [*chosen["train"], *chosen["validation"]], task.is_aligned)
    depends_on = {
        "data": data,
        "identity": task.identity.as_json(),
        "options": task.options.model_dump(exclude={"device"}),
        "seed": task.seed,
        "code": code_fingerprint(__name__),
    }
    folder = task.folder / options_fingerprint(depends_on)
    folder.mkdir(parents=True, exist_ok=True)
    if not ranks.leads:
        ranks.wait()  # until the first process has built the stores
    stores = Stores(*(_store(task, scans) for scans in chosen.values()))
    if ranks.leads:
        ranks.wait()
    logger.info("autoencoder: the state is kept in %s", folder)
    if issubclass(encoder, ClosedForm):
        return _solve(encoder, stores, task, data, folder)
    assert issubclass(encoder, Network)
    return _train(encoder, stores, task, data, folder, ranks)


def _scans_of(task: TrainingTask, split: str) -> list[str]:
    scans = task.scans.of_split(split)["scan"].tolist()
    if not scans:
        name = {"train": "training"}.get(split, split)
        raise BrainSCMError(
            f"autoencoder: the {name} split has no usable scan; add participants, or see why preprocessing failed."
        )
    return scans


def _store(task: TrainingTask, scans: list[str]) -> VolumeStore:
    return VolumeStore.open_or_build(task.scans, scans, task.folder / "volumes", task.is_aligned)


def _solve(
    encoder_class: type[ClosedForm], stores: Stores, task: TrainingTask, data: str, folder: Path
) -> FittedAutoencoder:
    started = time.perf_counter()
    encoder = encoder_class.solve(stores.training.volumes, task.options)
    seconds = time.perf_counter() - started
    volume = torch.from_numpy(stores.validation.volumes[[0]]).float()
    reconstruction = encoder.decode(encoder.encode(volume))
    picture = folder / "progress.png"
    title = f"{encoder.kind}, {math.prod(encoder.latent_shape)} numbers a scan"
    draw_progress(volume[0, 0].numpy(), reconstruction[0, 0].numpy(), title, picture)
    parameters = sum(tensor.numel() for tensor in encoder.state_dict().values())
    return FittedAutoencoder(encoder, data, history_table([]), picture, parameters, seconds=seconds)


def _train(
    encoder_class: type[Network], stores: Stores, task: TrainingTask, data: str, folder: Path, ranks: Ranks
) -> FittedAutoencoder:
    torch.manual_seed(task.seed)
    network = encoder_class(task.scans.grid.shape, task.options)
    trainer = Trainer(network, stores, task.options, task.seed, folder, ranks)
    trainer.run()
    uses = {split: code_use(network, trainer.passes, store) for split, store in zip(SPLITS_SEEN, stores, strict=True)}
    return FittedAutoencoder(
        network.cpu().eval(),
        data,
        history=history_table(trainer.progress.history),
        picture=folder / "progress.png",
        parameters=count_parameters(network),
        steps=trainer.progress.step,
        best_step=trainer.progress.best_step,
        seconds=trainer.progress.seconds,
        codes=codes_table(uses),
        bits_per_voxel=uses["validation"].bits_per_voxel,
        device=trainer.passes.device_name,
        precision=trainer.passes.precision_name,
    )
