"""Ctrl-C as a wish, not as an exception at a random place: a job is cancelled in order, however it came to run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noticed() -> Iterator[threading.Event]:
    """Set the event on the first Ctrl-C or SIGTERM; the next one interrupts as usual."""
    asked = threading.Event()
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def notice(_: int, __: object) -> None:
        asked.set()
        restore()

    for number in SIGNALS:
        before[number] = signal.signal(number, notice)
    try:
        yield asked
    finally:
        restore()
