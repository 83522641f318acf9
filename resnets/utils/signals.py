"""Signals while C++ code calls back into Python."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

RAISING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_later() -> Iterator[None]:
    """Have the handlers of SIGINT, SIGTERM and SIGHUP run at the end of the block.

    torch traces networks by C++ functions that call Python and must not fail: a handler that raises
    there aborts the process, and what it was writing stays. A second signal of a kind ends the
    process at once.
    """
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number in arrived and number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        arrived.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in RAISING}
        before = {number: each for number, each in before.items() if callable(each)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
