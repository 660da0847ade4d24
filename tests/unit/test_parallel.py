"""Whole scans side by side: in order, one torch thread each, and an error is told as it is."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from brainscm.errors import ScanError
from brainscm.parallel import side_by_side


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_as_many_at_once_as_torch_has_threads_in_order_and_one_thread_each() -> None:
    together = threading.Barrier(3, timeout=20)

    def work(item: int) -> tuple[int, int]:
        together.wait()  # passes only while three are under way
        return item, torch.get_num_threads()

    assert list(side_by_side(work, range(6))) == [(item, 1) for item in range(6)]
    assert torch.get_num_threads() == 3


def test_one_at_a_time_where_a_gpu_is_shared() -> None:
    running: list[int] = []

    def work(item: int) -> int:
        running.append(item)
        time.sleep(0.05)  # long enough for another to begin, were it allowed to
        assert running == [item]
        return running.pop()

    assert list(side_by_side(work, range(4), torch.device("cuda"))) == [0, 1, 2, 3]


def test_the_error_of_a_scan_is_told_and_the_threads_come_back() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ScanError("sub-2: is cut short")
        return item

    with pytest.raises(ScanError, match="sub-2: is cut short"):
        list(side_by_side(work, range(5)))
    assert torch.get_num_threads() == 3
