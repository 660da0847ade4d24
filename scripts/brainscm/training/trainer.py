"""Train the VQ-VAE so that a stop at any moment, or a divergence, costs minutes and not the run."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainscm.config import AutoencoderOptions
from brainscm.encoding.model import save_whole
from brainscm.encoding.quantizer import to_vectors
from brainscm.encoding.vqvae import VQVAE, ResidualBlock
from brainscm.errors import BrainSCMError
from brainscm.images import Mask, Volume
from brainscm.parallel import choose_device
from brainscm.tables import write_table
from brainscm.training.augmentation import augment
from brainscm.training.losses import absolute_error, charbonnier, dissimilarity, fourier_error, gradient_error
from brainscm.training.progress import Events, draw_progress
from brainscm.training.ranks import ALONE, Ranks
from brainscm.training.volume_store import ReadAhead, VolumeStore

logger = logging.getLogger("brainscm")

EPOCHS = 30  # passes over the training scans where the config leaves max_steps open
MIN_VALIDATION_INTERVAL = 50  # steps
WARM_UP_SHARE = 0.05  # of all steps, in which the learning rate rises
FINAL_LEARNING_RATE = 0.01  # of the learning rate, at the end of the cosine
GRADIENT_NORM = 1.0
LINEAR_SCANS = 64  # training scans that the linear part is fitted on,
CODEBOOK_SCANS = 16  # and that the codebook starts from
INTENSITY_LOSSES = {"charbonnier": charbonnier, "l1": absolute_error}
VALIDATION_TERMS = ("intensity", "dissimilarity", "commitment", "psnr_brain_db")
COLLAPSE_DB = 6.0  # a validation PSNR so far below the best is a divergence,
COLLAPSE_USAGE = 0.05  # and so is so small a share of the codes used
MAX_ROLLBACKS = 3


def training_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies in it: GPUs since Ampere, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if native else torch.float32


@dataclass
class Progress:
    """All that changes while training, beside the weights and the optimiser."""

    step: int = 0
    seconds: float = 0.0
    rollbacks: int = 0
    best_psnr: float = -math.inf
    best_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    interval: dict[str, float] = field(default_factory=dict)  # sums of the training terms since the last validation
    interval_steps: int = 0
    interval_seconds: float = 0.0
    interval_loading_seconds: float = 0.0  # of these: waiting for a batch


class Trainer:
    """Trains a VQ-VAE on `training`, keeping in `folder` all it needs to go on after a stop.

    Everything random at step t (data order, augmentation, which volumes are quantised, revived codes) is drawn from
    generators seeded with (seed, t), so that there is no generator state to lose: a run that was stopped and resumed
    ends with the same weights, bit for bit on a CPU.

    Each of `ranks` takes its part of every batch. Gradients, the codebook's totals and all figures are added up, so
    that every decision is the same everywhere, and the training that of one process but for rounding.
    """

    def __init__(
        self,
        model: VQVAE,
        training: VolumeStore,
        validation: VolumeStore,
        options: AutoencoderOptions,
        seed: int,
        folder: Path,
        ranks: Ranks = ALONE,
    ) -> None:
        if options.batch_size % ranks.count:
            raise BrainSCMError(
                f"autoencoder.batch_size: {options.batch_size} volumes cannot be shared out evenly among {ranks.count} "
                "processes; choose a multiple."
            )
        self.ranks = ranks
        self.device = choose_device(options.device)
        self.precision = training_precision(self.device)
        self.model = model.to(self.device)
        for module in model.modules():
            if isinstance(module, ResidualBlock):
                module.recompute = options.recompute
        self.training, self.validation = training, validation
        self.batches = ReadAhead(training, self._rows)
        self.options, self.seed, self.folder = options, seed, folder
        epoch = math.ceil(len(training) / options.batch_size)
        self.max_steps = options.max_steps or EPOCHS * epoch
        self.validation_interval = options.validation_interval or max(epoch, MIN_VALIDATION_INTERVAL)
        self.intensity_loss = INTENSITY_LOSSES[options.intensity_loss]
        self.encoder: Callable[[Tensor], Tensor] = model.encoder
        self.decoder: Callable[[Tensor], Tensor] = model.decoder
        if options.compile:  # the two functions and not the module, whose weights keep their names
            self.encoder, self.decoder = (torch.compile(part, dynamic=False) for part in (self.encoder, self.decoder))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
        self.progress = Progress()
        self.events = Events(folder / "events")
        self.best_weights: dict[str, Tensor] = {}

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def run(self) -> None:
        """Train up to `max_steps` and leave the weights that did best on the validation split in the model.

        Raises:
            BrainSCMError: a signal (SIGTERM, SIGUSR1, SIGINT) to any of the processes stopped the training, its state
                being saved; or it diverged more than three times.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.device.type == "cuda":
            self._rehearse()
        with closing(self.events):
            if self.ranks.any(self._state_path.exists()):
                self._restore()
                logger.info("training goes on from step %d of %d", self.progress.step, self.max_steps)
            else:
                self._start()
            logger.info(
                "training on %d scans, validating on %d, %s, %s, %d parameters",
                len(self.training),
                len(self.validation),
                self.device_name,
                str(self.precision).removeprefix("torch."),
                count_parameters(self.model),
            )
            with stop_requests() as stopped, told_when_memory_runs_out(self.options):
                while self.progress.step < self.max_steps:
                    sound = self._train_step()
                    if sound and self._validation_is_due():
                        sound = self._validate()
                    if not sound:
                        self._roll_back()
                    elif self.ranks.any(bool(stopped)):
                        self._save()
                        raise BrainSCMError(f"training stopped at step {self.progress.step}; run again to go on.")
        self.model.load_state_dict(self.best_weights)

    def _validation_is_due(self) -> bool:
        step = self.progress.step
        return step % self.validation_interval == 0 or step == self.max_steps

    def _train_step(self) -> bool:
        """Take one step; False, with the weights untouched, if the loss or its gradient is not finite."""
        started = time.perf_counter()
        step = self.progress.step
        volumes, masks, quantized = self._training_batch(step)
        learning_rate = self._learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

        self.model.train()
        terms, vectors, indices = self._terms(volumes, masks, quantized)
        self.optimizer.zero_grad(set_to_none=True)
        share = 1 / self.ranks.count
        (share * terms["loss"]).backward()
        figures = share * torch.stack([value.detach() for value in terms.values()])
        parameters = list(self.model.parameters())
        self.ranks.add_up([figures, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
        norm = torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM).item()
        values = dict(zip(terms, figures.tolist(), strict=True))
        if not math.isfinite(norm) or not math.isfinite(values["loss"]):
            return False
        self.optimizer.step()
        generator = torch.Generator().manual_seed(int(np.random.default_rng((self.seed, 3, step)).integers(2**62)))
        self.model.codebook.update(vectors, indices, generator, self.ranks)

        for name, value in values.items():
            self.progress.interval[name] = self.progress.interval.get(name, 0.0) + value
        self.progress.step += 1
        self.progress.interval_steps += 1
        seconds = time.perf_counter() - started
        self.progress.seconds += seconds
        self.progress.interval_seconds += seconds
        return True

    def _training_batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's part of the step's batch: volumes, masks, and which are decoded from codes."""
        started = time.perf_counter()
        volumes, masks = self._to_device(*self.batches.read(step))
        self.progress.interval_loading_seconds += time.perf_counter() - started
        changed, quantized = [], []
        for i in range(len(volumes)):
            rng = np.random.default_rng((self.seed, 1, step, self.ranks.rank * len(volumes) + i))
            changed.append(augment(volumes[i], masks[i], rng, self.options.deformation_voxels))
            quantized.append(bool(rng.random() < self.options.quantized_share))
        volumes, masks = (torch.stack(part) for part in zip(*changed, strict=True))
        return volumes, masks, torch.tensor(quantized, device=self.device)

    def _terms(self, volumes: Tensor, masks: Tensor, quantized: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The loss and its terms, the encoder's output as vectors, and the codes that these were given."""
        with self._autocast():
            latents = self.encoder(volumes)
        latents = latents.float()
        codes, indices = self.model.codebook(latents.detach())
        commitment = (latents - codes).square().mean()
        straight_through = latents + (codes - latents).detach()
        decoded = torch.where(quantized[:, None, None, None, None], straight_through, latents)
        with self._autocast():
            reconstruction = self.decoder(decoded)
        reconstruction = reconstruction.float()
        terms = {
            "intensity": self.intensity_loss(reconstruction, volumes, masks),
            "dissimilarity": dissimilarity(reconstruction, volumes, masks),
            "commitment": commitment,
        }
        options = self.options
        weights = {"intensity": 1, "dissimilarity": options.ssim_weight, "commitment": options.commitment_weight}
        for name, loss, weight in (
            ("gradient", gradient_error, options.gradient_weight),
            ("fourier", fourier_error, options.fourier_weight),
        ):
            if weight:
                terms[name], weights[name] = loss(reconstruction, volumes, masks), weight
        terms["loss"] = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        return terms, to_vectors(latents.detach()), indices.flatten()

    @torch.no_grad()
    def _validate(self) -> bool:
        """Judge the model on the validation split, write what users watch, and save; False if training has diverged."""
        started = time.perf_counter()
        self.model.eval()
        codebook = self.model.codebook
        used = torch.zeros(codebook.size, dtype=torch.float64)
        sums: dict[str, float] = dict.fromkeys(VALIDATION_TERMS, 0.0)
        picture = None
        for i in range(self.ranks.rank, len(self.validation), self.ranks.count):
            volumes, masks = self._batch_of(self.validation, [i])
            with self._autocast():
                latents = self.encoder(volumes)
                reconstruction = self.decoder(latents).float()
            codes, indices = codebook(latents.float())
            used += torch.bincount(indices.flatten(), minlength=len(used)).cpu()
            terms = {
                "intensity": self.intensity_loss(reconstruction, volumes, masks),
                "dissimilarity": dissimilarity(reconstruction, volumes, masks),
                "commitment": (latents.float() - codes).square().mean(),
                "psnr_brain_db": -10 * torch.log10((reconstruction - volumes)[masks].square().mean()),
            }
            for name, value in terms.items():
                sums[name] += float(value)
            if picture is None:
                picture = volumes[0, 0].cpu().numpy(), reconstruction[0, 0].cpu().numpy()
        totals = torch.tensor(list(sums.values()), dtype=torch.float64)
        self.ranks.add_up([totals, used])
        means = dict(zip(sums, (totals / len(self.validation)).tolist(), strict=True))
        progress, interval = self.progress, self.progress.interval
        psnr = means["psnr_brain_db"]
        shares = used[used > 0] / used.sum()
        usage = len(shares) / len(used)
        if not psnr > progress.best_psnr - COLLAPSE_DB or usage < COLLAPSE_USAGE:
            return False

        steps = progress.interval_steps
        common = {"step": progress.step, "lr": self._learning_rate(progress.step)}
        progress.seconds += time.perf_counter() - started
        if steps:
            progress.history.append(
                {
                    **common,
                    "split": "train",
                    **{name: total / steps for name, total in interval.items()},
                    "seconds": progress.seconds,
                    "volumes_per_second": steps * self.options.batch_size / progress.interval_seconds,
                    "loading_share": progress.interval_loading_seconds / progress.interval_seconds,
                    "gpu_memory_gb": self._gpu_memory_gb(),
                }
            )
        progress.history.append(
            {
                **common,
                "split": "validation",
                **means,
                "codebook_usage": usage,
                "perplexity": float(torch.exp(-(shares * shares.log()).sum())),
                "seconds": progress.seconds,
            }
        )
        self._report()
        progress.interval, progress.interval_steps = {}, 0
        progress.interval_seconds = progress.interval_loading_seconds = 0.0
        if psnr > progress.best_psnr:
            progress.best_psnr, progress.best_step = psnr, progress.step
            self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        if self.ranks.leads:
            self.events.write(progress.history[-2:] if steps else progress.history[-1:])
        self._save()
        if self.ranks.leads and picture is not None:
            write_table(history_table(progress.history), self.folder / "history.tsv")
            draw_progress(*picture, f"step {progress.step}, {psnr:.1f} dB in the brain", self.folder / "progress.png")
        return True

    def _report(self) -> None:
        progress, validation = self.progress, self.progress.history[-1]
        told = (
            f"step {progress.step}/{self.max_steps}: validation {validation['psnr_brain_db']:.2f} dB in the brain, "
            f"{100 * validation['codebook_usage']:.0f} % of the codes used"
        )
        if progress.step:
            train = progress.history[-2]
            minutes_left = progress.seconds / progress.step * (self.max_steps - progress.step) / 60
            told += (
                f"; loss {train['loss']:.4f}, {train['volumes_per_second']:.2f} volumes/s, {minutes_left:.0f} min left"
            )
        logger.info(told)

    def _roll_back(self) -> None:
        """Go back to the last good state and on from there with half the learning rate."""
        diverged_at, rollbacks = self.progress.step, self.progress.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise BrainSCMError(
                f"autoencoder: training diverged at step {diverged_at}, the {rollbacks}th time; "
                f"lower autoencoder.learning_rate (it was {self.options.learning_rate:g})."
            )
        self.ranks.wait()  # for the file that the first process has written
        self._restore()
        self.ranks.wait()
        self.progress.rollbacks = rollbacks
        self._save()
        logger.warning(
            "training diverged at step %d; back to step %d with the learning rate times %g",
            diverged_at,
            self.progress.step,
            0.5**rollbacks,
        )

    @torch.no_grad()
    def _start(self) -> None:
        """Fit the linear code and the codebook, and judge them: the network has to do better."""
        if self.ranks.leads:
            rows = self._sample_of_scans(0, LINEAR_SCANS)
            self.model.start(lambda: (self._batch_of(self.training, [i]) for i in rows))
            self._start_codebook()
        self.ranks.spread(self.model.state_dict().values())
        if not self._validate():
            raise BrainSCMError(
                f"autoencoder: the linear start uses less than {COLLAPSE_USAGE:.0%} of "
                f"{self.model.codebook.size} codes; "
                "lower autoencoder.codebook_size, or see whether the preprocessed scans are empty."
            )

    def _rehearse(self) -> None:
        """Do the work of a step without learning from it, so that too little memory is told now and not hours later.

        Shapes never change, and a step is what needs most.
        """
        with told_when_memory_runs_out(self.options):
            terms, _, _ = self._terms(*self._training_batch(0))
            terms["loss"].backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _gpu_memory_gb(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    @torch.no_grad()
    def _start_codebook(self) -> None:
        generator, size = torch.Generator().manual_seed(self.seed), self.model.codebook.size
        chosen = self._sample_of_scans(1, CODEBOOK_SCANS)
        samples = []
        for i in chosen:
            volumes, _ = self._batch_of(self.training, [i])
            with self._autocast():
                vectors = to_vectors(self.encoder(volumes))
            rows = torch.randint(len(vectors), (max(1, 64 * size // len(chosen)),), generator=generator)
            samples.append(vectors[rows.to(vectors.device)])
        self.model.codebook.start(torch.cat(samples), generator)

    @property
    def _warm_up_steps(self) -> int:
        return math.ceil(WARM_UP_SHARE * self.max_steps)

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine; halved at each rollback."""
        peak = self.options.learning_rate * 0.5**self.progress.rollbacks
        if step < self._warm_up_steps:
            return peak * (step + 1) / self._warm_up_steps
        done = (step - self._warm_up_steps) / max(1, self.max_steps - self._warm_up_steps)
        return peak * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * done)))

    def _order(self, step: int) -> list[int]:
        """The training scans of a step: each epoch is a permutation of its own."""
        scans, batch = len(self.training), self.options.batch_size
        chosen = []
        for position in range(step * batch, (step + 1) * batch):
            epoch, place = divmod(position, scans)
            chosen.append(int(np.random.default_rng((self.seed, 0, epoch)).permutation(scans)[place]))
        return chosen

    def _rows(self, step: int) -> list[int]:
        """This process's part of the step's training scans."""
        each = self.options.batch_size // self.ranks.count
        return self._order(step)[self.ranks.rank * each :][:each]

    def _sample_of_scans(self, purpose: int, count: int) -> list[int]:
        order = np.random.default_rng((self.seed, 2, purpose)).permutation(len(self.training))
        return sorted(order[:count].tolist())

    def _batch_of(self, store: VolumeStore, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self._to_device(store.volumes[rows], store.masks[rows])

    def _to_device(self, volumes: Volume, masks: Mask) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(volumes).to(self.device).float(), torch.from_numpy(masks).to(self.device)

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.pt"

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self.best_weights,
            "progress": vars(self.progress),
        }
        if self.ranks.leads:
            save_whole(state, self._state_path)

    def _restore(self) -> None:
        state = torch.load(self._state_path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best_weights"]
        self.progress = Progress(**state["progress"])


def history_table(history: list[dict[str, Any]]) -> pd.DataFrame:
    """history.tsv: one row a validation and split, with the same columns whatever has happened so far."""
    columns = ["step", "split", "loss", "intensity", "dissimilarity", "commitment", "gradient", "fourier"]
    columns += ["psnr_brain_db", "codebook_usage", "perplexity", "lr", "seconds", "volumes_per_second"]
    columns += ["loading_share", "gpu_memory_gb"]
    return pd.DataFrame(history, columns=columns)


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def told_when_memory_runs_out(options: AutoencoderOptions) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into advice.

    Raises:
        BrainSCMError: the GPU's memory does not hold a training step.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = ["a smaller autoencoder.batch_size"] if options.batch_size > 1 else []
        advice += [] if options.recompute else ["autoencoder.recompute: true"]
        raise BrainSCMError(
            f"autoencoder: the GPU's memory does not hold a training step; try {', '.join(advice)}"
            f"{', ' if advice else ''}fewer autoencoder.channels, or larger voxels (preprocess.voxel_mm)."
        ) from error


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGUSR1 and SIGINT in a list, which is empty as long as nobody asks to stop."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
