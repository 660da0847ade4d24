"""Work on whole scans side by side: their volumes are too small for several threads to share one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from joblib import Parallel, delayed  # type: ignore[import-untyped]

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


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], device: torch.device = CPU) -> Iterator[Result]:
    """`work` of each item, in their order, as many at once as torch may use threads, and each on one.

    What a scan becomes does not depend on the number of threads. On a GPU, whose memory is shared, one at a time.
    """
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    with one_thread():
        yield from Parallel(workers, backend="threading", return_as="generator")(delayed(work)(item) for item in items)
