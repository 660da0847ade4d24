"""Train a network so that a stop at any moment, or a divergence, costs minutes and not the run."""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from brainscm.config import AutoencoderOptions
from brainscm.encoding.encoder import Network
from brainscm.encoding.quantizer import to_rows
from brainscm.errors import BrainSCMError
from brainscm.files import whole
from brainscm.ranks import ALONE, Ranks
from brainscm.tables import write_table
from brainscm.training.augmentation import augment
from brainscm.training.hardware import Passes, told_when_memory_runs_out
from brainscm.training.history import Progress, history_table
from brainscm.training.interruption import on_stop_request
from brainscm.training.losses import Objective
from brainscm.training.progress import Events, draw_progress
from brainscm.training.schedule import Schedule
from brainscm.training.validation import COLLAPSE_USAGE, Validation, validate
from brainscm.training.volume_store import ReadAhead, Stores

logger = logging.getLogger("brainscm")

GRADIENT_NORM = 1.0
LINEAR_SCANS = 64  # training scans that the linear part is fitted on,
QUANTIZER_SCANS = 16  # and that the quantiser starts from,
QUANTIZER_VECTORS = 1 << 15  # by so many of their vectors
MAX_ROLLBACKS = 3


class Trainer:
    """Trains a network, keeping in `folder` all it needs to go on after a stop.

    Everything random at step t (data order, augmentation, which volumes are quantised, revived codes) is drawn from
    generators seeded with (seed, t), so that there is no generator state to lose: a run that was stopped and resumed
    ends with the same weights, bit for bit on a CPU.

    Each of `ranks` takes its part of every batch. Gradients, the quantiser's totals and all figures are added up, so
    that every decision is the same everywhere, and the training that of one process but for rounding.
    """

    def __init__(
        self,
        network: Network,
        stores: Stores,
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
        self.network, self.stores, self.options, self.ranks = network, stores, options, ranks
        self.seed, self.folder = seed, folder
        self.passes = Passes(network, options)
        self.schedule = Schedule(len(stores.training), options, seed)
        self.objective = Objective(options)
        self.batches = ReadAhead(stores.training, self._rows)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
        self.progress = Progress()
        self.events = Events(folder / "events")
        self.best_weights: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train to the end of the schedule and leave the weights that did best on the validation split in the network.

        Raises:
            BrainSCMError: a signal (SIGTERM, SIGUSR1, SIGINT) to any of the processes stopped the training, its state
                being saved; or it diverged more than three times.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.passes.device.type == "cuda":
            self._rehearse()
        last = self.schedule.max_steps
        with closing(self.events):
            if self.ranks.any(self._state_path.exists()):
                self._restore()
                logger.info("training goes on from step %d of %d", self.progress.step, last)
            else:
                self._start()
            logger.info(
                "training on %d scans, validating on %d, %s, %s, %d parameters",
                len(self.stores.training),
                len(self.stores.validation),
                self.passes.device_name,
                self.passes.precision_name,
                count_parameters(self.network),
            )
            requests: list[bool] = []
            with on_stop_request(lambda: requests.append(True)), told_when_memory_runs_out(self.options):
                while self.progress.step < last:
                    sound = self._train_step()
                    if sound and self.schedule.validation_is_due(self.progress.step):
                        sound = self._validate()
                    if not sound:
                        self._roll_back()
                    elif self.ranks.any(bool(requests)):
                        self._save()
                        raise BrainSCMError(f"training stopped at step {self.progress.step}; run again to go on.")
        self.network.load_state_dict(self.best_weights)

    def _train_step(self) -> bool:
        """Take one step; False, with the weights untouched, if the loss or its gradient is not finite."""
        started = time.perf_counter()
        step = self.progress.step
        volumes, masks, quantized = self._training_batch(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate

        self.network.train()
        terms, vectors, indices = self._terms(volumes, masks, quantized)
        self.optimizer.zero_grad(set_to_none=True)
        share = 1 / self.ranks.count
        (share * terms["loss"]).backward()
        figures = share * torch.stack([value.detach() for value in terms.values()])
        parameters = list(self.network.parameters())
        self.ranks.add_up([figures, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
        norm = torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM).item()
        values = dict(zip(terms, figures.tolist(), strict=True))
        if not math.isfinite(norm) or not math.isfinite(values["loss"]):
            return False
        self.optimizer.step()
        generator = torch.Generator().manual_seed(int(np.random.default_rng((self.seed, 3, step)).integers(2**62)))
        self.network.quantizer.update(vectors, indices, generator, self.ranks)
        self.progress.count_step(values, time.perf_counter() - started)
        return True

    def _training_batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's part of the step's batch: volumes, masks, and which are decoded from codes."""
        started = time.perf_counter()
        volumes, masks = self.passes.take(*self.batches.read(step))
        self.progress.interval_loading_seconds += time.perf_counter() - started
        changed, quantized = [], []
        for i in range(len(volumes)):
            rng = np.random.default_rng((self.seed, 1, step, self.ranks.rank * len(volumes) + i))
            changed.append(augment(volumes[i], masks[i], rng, self.options.deformation_voxels))
            quantized.append(bool(rng.random() < self.options.quantized_share))
        volumes, masks = (torch.stack(part) for part in zip(*changed, strict=True))
        return volumes, masks, torch.tensor(quantized, device=self.passes.device)

    def _terms(self, volumes: Tensor, masks: Tensor, quantized: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The loss and its terms, the encoder's output as vectors, and the codes that these were given."""
        latents = self.passes.encode(volumes).float()
        codes, indices = self.network.quantizer(latents.detach())
        commitment = (latents - codes).square().mean()
        straight_through = latents + (codes - latents).detach()
        decoded = torch.where(quantized[:, None, None, None, None], straight_through, latents)
        terms = self.objective(self.passes.decode(decoded), volumes, masks, commitment)
        return terms, to_rows(latents.detach()), to_rows(indices)

    def _validate(self) -> bool:
        """Validate, write what users watch, and save; False if training has diverged."""
        started = time.perf_counter()
        progress = self.progress
        found = validate(self.network, self.passes, self.stores.validation, self.objective, self.ranks)
        if found.has_diverged(progress.best_psnr):
            return False
        progress.seconds += time.perf_counter() - started
        rows = self._rows_of_history(found)
        progress.history += rows
        self._report()
        if found.psnr > progress.best_psnr:
            progress.best_psnr, progress.best_step = found.psnr, progress.step
            self.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        if self.ranks.leads:
            self.events.write(rows)
        self._save()
        if self.ranks.leads and found.picture is not None:
            write_table(history_table(progress.history), self.folder / "history.tsv")
            title = f"step {progress.step}, {found.psnr:.1f} dB in the brain"
            draw_progress(*found.picture, title, self.folder / "progress.png")
        return True

    def _rows_of_history(self, found: Validation) -> list[dict[str, object]]:
        """Of the training since the last validation, if there was any, and of this one."""
        progress = self.progress
        common = {"step": progress.step, "lr": self.learning_rate}
        validated = {
            **common,
            "split": "validation",
            **found.means,
            "codebook_usage": found.use.usage,
            "perplexity": found.use.perplexity,
            "bits_per_voxel": found.use.bits_per_voxel,
            "seconds": progress.seconds,
        }
        trained = progress.close_interval(self.options.batch_size)
        if not trained:
            return [validated]
        return [{**common, "split": "train", **trained, "gpu_memory_gb": self.passes.gpu_memory_gb}, validated]

    def _report(self) -> None:
        progress, validation, last = self.progress, self.progress.history[-1], self.schedule.max_steps
        told = (
            f"step {progress.step}/{last}: validation {validation['psnr_brain_db']:.2f} dB in the brain, "
            f"{validation['quantized_psnr_brain_db']:.2f} dB from codes of "
            f"{validation['bits_per_voxel']:.2f} bits a voxel"
        )
        if progress.step:
            train = progress.history[-2]
            minutes_left = progress.seconds / progress.step * (last - progress.step) / 60
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
        """Fit the linear code and the quantiser, and validate them: training has to do better."""
        if self.ranks.leads:
            rows = self.schedule.sample(0, LINEAR_SCANS)
            self.network.start(lambda: (self.passes.read(self.stores.training, row) for row in rows))
            self._start_quantizer()
        self.ranks.broadcast(self.network.state_dict().values())
        if not self._validate():
            raise BrainSCMError(
                f"autoencoder: the linear start uses less than {COLLAPSE_USAGE:.0%} of "
                f"{sum(self.network.quantizer.sizes)} codes; "
                "lower autoencoder.codebook_size, or see whether the preprocessed scans are empty."
            )

    @torch.no_grad()
    def _start_quantizer(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        chosen = self.schedule.sample(1, QUANTIZER_SCANS)
        samples = []
        for row in chosen:
            volumes, _ = self.passes.read(self.stores.training, row)
            vectors = to_rows(self.passes.encode(volumes).float())
            drawn = torch.randint(len(vectors), (QUANTIZER_VECTORS // len(chosen),), generator=generator)
            samples.append(vectors[drawn.to(vectors.device)])
        self.network.quantizer.start(torch.cat(samples), generator)

    def _rehearse(self) -> None:
        """Do the work of a step without learning from it, so that too little memory is told now and not hours later.

        Shapes never change, and a step is what needs most.
        """
        with told_when_memory_runs_out(self.options):
            terms, _, _ = self._terms(*self._training_batch(0))
            terms["loss"].backward()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """Of the present step."""
        return self.schedule.learning_rate(self.progress.step, self.progress.rollbacks)

    def _rows(self, step: int) -> list[int]:
        """This process's part of the step's training scans."""
        each = self.options.batch_size // self.ranks.count
        return self.schedule.batch(step)[self.ranks.rank * each :][:each]

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.pt"

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_weights": self.best_weights,
            "progress": vars(self.progress),
        }
        if self.ranks.leads:
            with whole(self._state_path) as partial:
                torch.save(state, partial)

    def _restore(self) -> None:
        state = torch.load(self._state_path, map_location=self.passes.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_weights = state["best_weights"]
        self.progress = Progress(**state["progress"])


def count_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
