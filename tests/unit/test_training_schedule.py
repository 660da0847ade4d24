"""Which scans a step sees, how fast it learns, and when it is validated."""

import numpy as np
import pytest

from brainscm.config import AutoencoderOptions
from brainscm.training.schedule import Schedule


def schedule(scans: int = 7, seed: int = 1, **options: object) -> Schedule:
    return Schedule(scans, AutoencoderOptions.model_validate({"batch_size": 2, **options}), seed)


def test_every_epoch_sees_each_scan_once_in_an_order_of_its_own():
    seen = np.concatenate([schedule().batch(step) for step in range(21)]).reshape(6, 7)
    assert (np.sort(seen) == np.arange(7)).all()
    assert len({tuple(order) for order in seen.tolist()}) > 4
    assert schedule(seed=2).batch(0) + schedule(seed=2).batch(1) != seen.ravel()[:4].tolist()
    assert schedule().batch(5) == seen.ravel()[10:12].tolist()  # whatever was asked before


def test_samples_are_drawn_without_repetition_for_each_purpose():
    plan = schedule(scans=100)
    first, second = plan.sample(0, 10), plan.sample(1, 10)
    assert len(set(first)) == len(set(second)) == 10
    assert first == sorted(first) == plan.sample(0, 10) != second
    assert schedule(scans=3).sample(0, 10) == [0, 1, 2]


def test_the_learning_rate_rises_then_falls_as_half_a_cosine_and_is_halved_at_each_rollback():
    plan = schedule(max_steps=100, learning_rate=0.01)
    rates = [plan.learning_rate(step, 0) for step in range(101)]
    assert rates[:6] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01, 0.01])
    assert rates[52] == pytest.approx(0.01 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * 47 / 95))))
    assert rates[100] == pytest.approx(1e-4)
    assert (np.diff(rates[5:]) < 0).all()
    assert plan.learning_rate(40, 2) == pytest.approx(rates[40] / 4)


@pytest.mark.parametrize(
    ("scans", "options", "last", "due"),
    [
        (7, {"max_steps": 12, "validation_interval": 5}, 12, [5, 10, 12]),
        (10, {}, 150, [50, 100, 150]),  # 30 epochs of 5 steps, and not validated oftener than each 50 steps
        (160, {"max_steps": 200}, 200, [80, 160, 200]),  # each epoch, where that is longer
    ],
)
def test_validation_is_due_regularly_and_at_the_end(scans, options, last, due):
    plan = schedule(scans, **options)
    assert plan.max_steps == last
    assert [step for step in range(1, last + 1) if plan.validation_is_due(step)] == due
