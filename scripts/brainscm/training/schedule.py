"""When what happens in a training: which scans each step sees, how fast it learns, when it is validated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from brainscm.config import AutoencoderOptions

EPOCHS = 30  # passes over the training scans where the config leaves max_steps open
MIN_VALIDATION_INTERVAL = 50  # steps
WARM_UP_SHARE = 0.05  # of all steps, in which the learning rate rises
FINAL_LEARNING_RATE = 0.01  # of the learning rate, at the end of the cosine


@dataclass(frozen=True)
class Schedule:
    """The plan of a training on `scans` scans; all of it follows from the seed."""

    scans: int
    options: AutoencoderOptions
    seed: int

    @property
    def epoch(self) -> int:
        """Steps in which every scan is seen once."""
        return math.ceil(self.scans / self.options.batch_size)

    @property
    def max_steps(self) -> int:
        return self.options.max_steps or EPOCHS * self.epoch

    @property
    def warm_up_steps(self) -> int:
        return math.ceil(WARM_UP_SHARE * self.max_steps)

    def validation_is_due(self, step: int) -> bool:
        interval = self.options.validation_interval or max(self.epoch, MIN_VALIDATION_INTERVAL)
        return step % interval == 0 or step == self.max_steps

    def learning_rate(self, step: int, rollbacks: int) -> float:
        """Linear warm-up, then half a cosine; halved at each rollback."""
        peak = self.options.learning_rate * 0.5**rollbacks
        if step < self.warm_up_steps:
            return peak * (step + 1) / self.warm_up_steps
        done = (step - self.warm_up_steps) / max(1, self.max_steps - self.warm_up_steps)
        return peak * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * 0.5 * (1 + math.cos(math.pi * done)))

    def batch(self, step: int) -> list[int]:
        """The rows of a step's scans: each epoch is a permutation of its own."""
        size = self.options.batch_size
        chosen = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, self.scans)
            chosen.append(int(np.random.default_rng((self.seed, 0, epoch)).permutation(self.scans)[place]))
        return chosen

    def sample(self, purpose: int, count: int) -> list[int]:
        """The rows of at most `count` scans, drawn for a purpose."""
        order = np.random.default_rng((self.seed, 2, purpose)).permutation(self.scans)
        return sorted(order[:count].tolist())
