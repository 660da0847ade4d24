"""Where work is done: on which device, and whole scans side by side, whose volumes are too small to be shared out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from joblib import Parallel, delayed  # type: ignore[import-untyped]

from brainscm.errors import BrainSCMError

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU = torch.device("cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch to one thread: sums over several would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def workers_on(device: torch.device) -> int:
    """How many scans are worked on at once: as many as torch may use threads; on a GPU, whose memory is shared, one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def side_by_side(
    work: Callable[[Item], Result], items: Iterable[Item], device: torch.device = CPU, more: int = 0
) -> Iterator[Result]:
    """`work` of each item, in their order, as many at once as a device takes, and `more`; each on one thread.

    What a scan becomes does not depend on the number of threads.
    """
    workers = workers_on(device) + more
    with one_thread():
        yield from Parallel(workers, backend="threading", return_as="generator")(delayed(work)(item) for item in items)


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        BrainSCMError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BrainSCMError("autoencoder.device: cuda was asked for and torch sees no GPU; set it to auto or cpu.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def device_of(module: object) -> torch.device:
    """Where the tensors of a module are; the CPU for what has none."""
    tensors = module.state_dict().values() if isinstance(module, torch.nn.Module) else ()
    return next((tensor.device for tensor in tensors), CPU)
