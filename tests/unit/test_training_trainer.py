"""Training learns, survives every kind of interruption, and gives up in one sentence."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog

from brainscm.config import AutoencoderOptions
from brainscm.encoding.vqvae import VQVAE
from brainscm.errors import BrainSCMError
from brainscm.parallel import choose_device
from brainscm.training.history import history_table
from brainscm.training.progress import Events
from brainscm.training.trainer import Trainer
from brainscm.training.validation import COLLAPSE_USAGE
from brainscm.training.volume_store import Stores, VolumeStore

pytestmark = pytest.mark.slow

OPTIONS = AutoencoderOptions(
    alignment="none",
    channels=[8, 8], residual_blocks=1, latent_channels=4, codebook_size=16, max_steps=12, validation_interval=5,
    batch_size=2, device="cpu",
)  # fmt: skip
GRID = (16, 16, 16)


def make_store(folder: Path, scans: int, seed: int) -> VolumeStore:
    """Smooth bright balls of several sizes in the dark."""
    rng = np.random.default_rng(seed)
    distance = np.linalg.norm(np.indices(GRID) - 7.5, axis=0)
    radii = rng.uniform(4, 7, scans)
    volumes = np.clip(radii[:, None, None, None] - distance, 0, 1)[:, None]
    folder.mkdir()
    np.save(folder / "volumes.npy", volumes.astype(np.float16))
    np.save(folder / "masks.npy", volumes > 0)
    return VolumeStore(folder)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(make_store(tmp_path / "train", 5, seed=0), make_store(tmp_path / "validation", 2, seed=1))


def make_trainer(stores: Stores, folder: Path, **changes) -> Trainer:
    options = OPTIONS.model_copy(update=changes)
    torch.manual_seed(0)
    return Trainer(VQVAE(GRID, options), stores, options, seed=7, folder=folder)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def assert_same_training(one: Trainer, other: Trainer) -> None:
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name
    timing = ["seconds", "volumes_per_second", "loading_share"]
    histories = [history_table(trainer.progress.history).drop(columns=timing) for trainer in (one, other)]
    assert histories[0].equals(histories[1])


def interrupt(trainer: Trainer, at_step: int, action) -> None:
    """Call `action` in the middle of the training, right after a step."""
    take_step = trainer._train_step

    def step_and_interrupt() -> bool:
        sound = take_step()
        if trainer.progress.step == at_step:
            action()
        return sound

    trainer._train_step = step_and_interrupt


def test_it_learns_what_the_linear_start_leaves(stores, tmp_path):
    changes = {"channels": [16, 16], "max_steps": 150, "validation_interval": 50, "learning_rate": 1e-2}
    trainer = make_trainer(stores, tmp_path / "run", **changes)
    trainer.run()
    history = history_table(trainer.progress.history)
    psnr = history.loc[history["split"] == "validation", "psnr_brain_db"]
    assert psnr.iloc[-1] > psnr.iloc[0] + 1
    losses = history.loc[history["split"] == "train", "loss"]
    assert losses.iloc[-1] < 0.7 * losses.iloc[0]
    assert history["step"].tolist() == [0, 50, 50, 100, 100, 150, 150]
    assert history.loc[history["split"] == "validation", "codebook_usage"].between(0.05, 1).all()
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert kept == {"state.pt", "history.tsv", "progress.png", "events"}


@pytest.mark.parametrize(
    ("killed_at", "changes"),
    [
        (1, {}),
        (3, {}),
        (7, {}),
        (7, {"quantizer": "residual", "codebooks": 2}),
        (7, {"intensity_loss": "l1"}),
        (7, {"compile": True}),
    ],
    ids=str,
)
def test_a_killed_training_ends_with_the_same_weights(stores, tmp_path, monkeypatch, killed_at, changes):
    # Traced as for any hardware; making machine code of it would take a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    whole = make_trainer(stores, tmp_path / "whole", **changes)
    whole.run()

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    killed = make_trainer(stores, tmp_path / "killed", **changes)
    interrupt(killed, killed_at, kill)
    with pytest.raises(Killed):
        killed.run()
    resumed = make_trainer(stores, tmp_path / "killed", **changes)
    resumed.run()
    assert_same_training(whole, resumed)


def read_events(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, as TensorBoard shows them: a restart takes back what was written from its step on."""
    curves: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == SessionLog.START:
                curves = {tag: {s: v for s, v in found.items() if s < event.step} for tag, found in curves.items()}
            for value in event.summary.value:
                assert event.step not in curves.setdefault(value.tag, {})
                curves[value.tag][event.step] = value.simple_value
    return curves


def test_a_resumed_training_writes_each_event_once(stores, tmp_path):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    trainer = make_trainer(stores, tmp_path / "run")
    trainer._save, saves = (lambda: None if trainer.progress.step == 10 else saves()), trainer._save
    interrupt(trainer, 11, kill)  # step 10 is written and not saved
    with pytest.raises(Killed):
        trainer.run()
    resumed = make_trainer(stores, tmp_path / "run")
    resumed.run()
    curves = read_events(tmp_path / "run" / "events")
    history = history_table(resumed.progress.history).set_index(["split", "step"])
    assert set(curves["psnr_brain_db/validation"]) == {0, 5, 10, 12}
    for split, names in (("validation", ["psnr_brain_db", "codebook_usage", "lr"]), ("train", ["loss", "lr"])):
        for name in names:
            for step, value in curves[f"{name}/{split}"].items():
                assert value == pytest.approx(history.loc[(split, step), name], rel=1e-6)


def test_a_restart_within_a_second_keeps_the_events_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.7e9)  # event files are named by the second
    first, second = Events(tmp_path), Events(tmp_path)
    for events, steps in ((first, (0, 5, 10)), (second, (10, 15))):
        for step in steps:
            events.write([{"step": step, "split": "validation", "psnr_brain_db": float(step)}])
        events.close()
    assert read_events(tmp_path)["psnr_brain_db/validation"] == {0: 0.0, 5: 5.0, 10: 10.0, 15: 15.0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_the_next_run_goes_on_from_there(stores, tmp_path, number):
    whole = make_trainer(stores, tmp_path / "whole")
    whole.run()
    stopped = make_trainer(stores, tmp_path / "stopped")
    interrupt(stopped, 8, lambda: os.kill(os.getpid(), number))
    with pytest.raises(BrainSCMError, match="training stopped at step 8; run again to go on"):
        stopped.run()
    assert signal.getsignal(number) == signal.SIG_DFL
    resumed = make_trainer(stores, tmp_path / "stopped")
    first_steps: list[int] = []
    take_step = resumed._train_step
    resumed._train_step = lambda: first_steps.append(resumed.progress.step) or take_step()
    resumed.run()
    assert first_steps[0] == 8
    assert_same_training(whole, resumed)


def test_a_finished_training_is_not_repeated(stores, tmp_path):
    whole = make_trainer(stores, tmp_path / "run")
    whole.run()
    again = make_trainer(stores, tmp_path / "run")
    again._train_step = lambda: pytest.fail("trained again")
    again.run()
    assert_same_training(whole, again)


def test_the_best_weights_are_kept(stores, tmp_path):
    trainer = make_trainer(stores, tmp_path / "run")
    kept = {}

    def spoil():
        kept.update(trainer.best_weights)
        trainer.progress.best_psnr += 1  # whatever the last step learns, it is no better than this

    interrupt(trainer, 11, spoil)
    trainer.run()
    assert trainer.progress.best_step in (5, 10)
    assert all(torch.equal(value, kept[name]) for name, value in weights_of(trainer).items())


def test_a_passing_divergence_costs_a_rollback_and_half_the_learning_rate(stores, tmp_path, caplog):
    trainer = make_trainer(stores, tmp_path / "run")
    trouble = iter([8])  # once: it does not come back after the rollback
    loss = trainer.objective.intensity

    def loss_with_trouble(*arguments):
        nan = trainer.progress.step == 8 and next(trouble, None) == 8
        return loss(*arguments) * (float("nan") if nan else 1)

    trainer.objective.intensity = loss_with_trouble
    trainer.run()
    assert "diverged at step 8; back to step 5" in caplog.text
    assert trainer.progress.rollbacks == 1
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * make_lr(11), rel=1e-6)
    assert all(torch.isfinite(value).all() for value in weights_of(trainer).values())


def make_lr(step: int) -> float:
    """The schedule by hand: 1 step of warm-up, then a cosine from 1 to 0.01 over the other 11."""
    return OPTIONS.learning_rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (step - 1) / 11)))


def test_a_lasting_divergence_ends_in_one_sentence(stores, tmp_path):
    trainer = make_trainer(stores, tmp_path / "run")
    loss = trainer.objective.intensity
    trainer.objective.intensity = lambda reconstruction, *rest: (
        loss(reconstruction, *rest) * (float("nan") if reconstruction.requires_grad else 1)
    )
    with pytest.raises(BrainSCMError, match=r"diverged at step 0, .*lower autoencoder.learning_rate"):
        trainer.run()


def test_a_collapsed_codebook_is_rolled_back(stores, tmp_path, caplog):
    trainer = make_trainer(stores, tmp_path / "run", quantizer="residual", codebooks=1, codebook_size=64)

    once = iter([True])

    def collapse():
        if next(once, False):
            trainer.network.quantizer.stages[0].codes.fill_(1e3)
            trainer.network.quantizer.stages[0].codes[0] = 0

    interrupt(trainer, 10, collapse)
    trainer.run()
    assert "diverged at step 10; back to step 5" in caplog.text
    assert trainer.progress.history[-1]["codebook_usage"] > COLLAPSE_USAGE


def test_a_missing_gpu_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(BrainSCMError, match="set it to auto or cpu"):
        choose_device("cuda")


def test_compiled_training_is_the_same_but_for_rounding(stores, tmp_path, monkeypatch):
    compiled = []

    def compile_for_any_hardware(function, **options):
        compiled.append(function.__name__)
        return compile_function(function, backend="aot_eager", **options)

    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", compile_for_any_hardware)
    trainers = [make_trainer(stores, tmp_path / str(choice), compile=choice, max_steps=2) for choice in (False, True)]
    for trainer in trainers:
        trainer.run()
    assert compiled == ["encoder", "decoder"]
    plain, other = (weights_of(trainer) for trainer in trainers)
    assert plain.keys() == other.keys()
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=0.02, atol=3e-4, msg=name)


@pytest.mark.parametrize("changes", [{"quantizer_step": 0.1}, {"quantizer": "residual", "codebooks": 2}], ids=str)
def test_decoding_from_codes_is_trained(stores, tmp_path, changes):
    trainer = make_trainer(stores, tmp_path / "run", quantized_share=1.0, max_steps=60, **changes)
    trainer.run()
    history = history_table(trainer.progress.history)
    validation = history[history["split"] == "validation"]
    psnr = validation["quantized_psnr_brain_db"]
    assert psnr.max() > psnr.iloc[0] + 0.15  # 0.22 on a machine without AVX-512
    assert validation["codebook_usage"].gt(0.3).all()
    assert validation["bits_per_voxel"].between(0, 1).all()


def test_every_loss_of_the_config_is_trained_on_and_told(stores, tmp_path):
    changes = {"gradient_weight": 0.5, "fourier_weight": 0.25, "max_steps": 2, "validation_interval": 1}
    trainer = make_trainer(stores, tmp_path / "run", **changes)
    trainer.run()
    row = history_table(trainer.progress.history).query("split == 'train'").iloc[0]
    weights = {"intensity": 1, "dissimilarity": 0.1, "commitment": 0.25, "gradient": 0.5, "fourier": 0.25}
    assert row["gradient"] > 0
    assert row["fourier"] > 0
    assert row["loss"] == pytest.approx(sum(weight * row[name] for name, weight in weights.items()), rel=1e-4)


def test_too_little_gpu_memory_is_told_with_advice(stores, tmp_path, monkeypatch):
    trainer = make_trainer(stores, tmp_path / "run")

    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(trainer, "_terms", fail)
    with pytest.raises(BrainSCMError, match=r"smaller autoencoder.batch_size, autoencoder.recompute: true, fewer"):
        trainer._rehearse()


def test_the_start_is_judged_and_kept_where_training_does_not_improve_on_it(stores, tmp_path, monkeypatch):
    trainer = make_trainer(stores, tmp_path / "run")
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
    trainer.run()
    psnr = history_table(trainer.progress.history).query("split == 'validation'")["psnr_brain_db"]
    assert psnr.nunique() == 1
    assert trainer.progress.best_step == 0
