"""What is done about requests to stop: SIGTERM and SIGUSR1 of a batch system, SIGINT of a user."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def on_stop_request(act: Callable[[], Any]) -> Iterator[None]:
    """Call `act` at each request to stop, instead of what would be done about it."""

    def handle(number: int, frame: FrameType | None) -> None:
        act()

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
