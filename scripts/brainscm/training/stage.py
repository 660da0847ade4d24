"""The stage: train, see how well each scan survives, and write the model with all that tells of it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from brainscm.alignment.registration import Alignment
from brainscm.config import CustomTemplate
from brainscm.encoding.aligned import Aligned
from brainscm.encoding.encoder import Fitted, Network
from brainscm.encoding.model import encoder_class, save_encoder
from brainscm.files import write_json
from brainscm.parallel import choose_device
from brainscm.preprocess.template import load_template
from brainscm.preprocess.tissues import MeasureTissues
from brainscm.tables import write_table
from brainscm.training.card import make_card
from brainscm.training.fit import fit_autoencoder
from brainscm.training.launch import launch
from brainscm.training.reconstruction import reconstruction_table
from brainscm.training.task import TrainingTask

logger = logging.getLogger("brainscm")


def run(
    task: TrainingTask,
    template: str | CustomTemplate,
    out_dir: Path,
    processes: int = 1,
    mpi: str | None = None,
) -> None:
    """Fit the autoencoder and write its model and what is told of it.

    These are model.pt, model.json, history.tsv, codes.tsv, reconstruction.tsv, reconstructions/ and progress.png.

    Args:
        template: that the task's scans were brought to.
        processes, mpi: of the training, see `launch`; an encoder in closed form takes one.

    Raises:
        BrainSCMError: see `fit_autoencoder` and `launch`.
    """
    if issubclass(encoder_class(task.options.kind), Network) and (processes > 1 or mpi):
        launch(task, processes, mpi)
    fitted = fit_autoencoder(task)
    loaded = load_template(template, task.identity.voxel_mm, task.work_dir / "template")
    encoder: Fitted | Aligned = fitted.encoder
    if task.is_aligned:
        encoder = Aligned(fitted.encoder, Alignment.onto(loaded))
    encoder.to(choose_device(task.options.device))
    reconstruction = reconstruction_table(encoder, task.scans, MeasureTissues(loaded), out_dir / "reconstructions")
    identity = save_encoder(encoder, task.identity, out_dir / "model.pt")
    card = make_card(task, fitted, encoder, identity, reconstruction)
    write_json(out_dir / "model.json", card)
    write_table(fitted.history, out_dir / "history.tsv")
    write_table(fitted.codes, out_dir / "codes.tsv")
    write_table(reconstruction, out_dir / "reconstruction.tsv")
    shutil.copyfile(fitted.picture, out_dir / "progress.png")
    held_out = card["metrics"].get("test", card["metrics"]["validation"])
    logger.info("held-out scans: %.2f dB, SSIM %.4f in the brain", held_out["psnr_brain_db"], held_out["ssim_brain"])
