"""Training in two processes: the same model as in one, and a stop that stops both."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from test_training_fit import IDENTITY

from brainscm.config import AutoencoderOptions
from brainscm.encoding.quantizer import _rows_of
from brainscm.errors import BrainSCMError
from brainscm.ranks import Ranks
from brainscm.training.fit import fit_autoencoder
from brainscm.training.launch import launch
from brainscm.training.task import TrainingTask
from brainscm.training.trainer import Trainer
from made_up_scans import write_scans

pytestmark = pytest.mark.slow

OPTIONS = AutoencoderOptions(
    alignment="none",
    channels=[4], residual_blocks=1, latent_channels=4, codebooks=2, codebook_size=32, codebook_decay=0.5,
    quantized_share=0.5, batch_size=4, max_steps=6, validation_interval=3, device="cpu",
)  # fmt: skip


@pytest.fixture
def task(tmp_path: Path) -> TrainingTask:
    write_scans(tmp_path, ["train"] * 6 + ["validation"] * 3)
    tables = {"scans_tsv": tmp_path / "scans.tsv", "qc_tsv": tmp_path / "preproc" / "qc.tsv"}
    return TrainingTask(**tables, identity=IDENTITY, options=OPTIONS, seed=1, work_dir=tmp_path / "together")


@pytest.mark.parametrize("quantizer", ["scalar", "residual"])
def test_two_processes_train_the_model_of_one(task, tmp_path, monkeypatch, quantizer):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    task = task.model_copy(update={"options": OPTIONS.model_copy(update={"quantizer": quantizer})})
    alone = fit_autoencoder(task.model_copy(update={"work_dir": tmp_path / "alone"}))
    launch(task, processes=2)
    monkeypatch.setattr(Trainer, "_train_step", lambda _: pytest.fail("the processes did not finish the training"))
    together = fit_autoencoder(task)
    figures = ["loss", "commitment", "psnr_brain_db", "quantized_psnr_brain_db", "codebook_usage", "perplexity"]
    for name in figures:
        torch.testing.assert_close(
            torch.tensor(together.history[name].to_numpy()), torch.tensor(alone.history[name].to_numpy()),
            rtol=5e-3, atol=0, equal_nan=True,
        )  # fmt: skip
    weights = together.encoder.state_dict()
    close = torch.cat(
        [
            torch.isclose(weights[name], expected, rtol=0.02, atol=3e-4).flatten()
            for name, expected in alone.encoder.state_dict().items()
        ]
    )
    # Adam's first steps are as long as the learning rate whatever the size of the gradient: rounding turns a few.
    assert close.float().mean() > 0.998


def test_a_signal_stops_all_processes_and_their_state_is_kept(task, monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    endless = OPTIONS.model_copy(update={"max_steps": 100_000, "validation_interval": 20})

    caplog.set_level("INFO", logger="brainscm")
    work = task.work_dir

    def stop_when_trained_a_little():
        while not any("\n20\t" in path.read_text() for path in work.glob("autoencoder/*/history.tsv")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=stop_when_trained_a_little, daemon=True).start()
    with pytest.raises(BrainSCMError, match="run again to go on"):
        launch(task.model_copy(update={"options": endless}), processes=2)
    (state,) = work.glob("autoencoder/*/state.pt")
    step = torch.load(state, weights_only=True)["progress"]["step"]
    assert 20 <= step < 100_000
    assert f"training stopped at step {step}" in caplog.text


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    with pytest.raises(BrainSCMError, match="4 volumes cannot be shared out evenly among 3 processes"):
        Trainer(None, None, OPTIONS, 1, tmp_path, Ranks(0, 3))


def test_revived_codes_are_drawn_from_the_vectors_of_all_processes(monkeypatch):
    vectors = torch.arange(20.0).reshape(10, 2)
    parts = []
    monkeypatch.setattr(Ranks, "add_up", lambda self, tensors: parts.append(tensors[0].clone()))
    rows = torch.tensor([7, 0, 4, 5])
    for rank in (0, 1):
        _rows_of(vectors[5 * rank : 5 * rank + 5], rows, Ranks(rank, 2))
    assert torch.equal(parts[0] + parts[1], vectors[rows])
