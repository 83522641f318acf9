"""Environment variables of torchrun, start of worker processes, deferred signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType

from resnets.utils.errors import ConfigError

RAISING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def environment_int(name: str, default: int | None = None, least: int = 0) -> int:
    """The whole number in variable `name`; ConfigError where it is another text, less, or none."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is not None and text.isdecimal() and int(text) >= least:
        return int(text)
    said = "is not set" if text is None else f"is {text!r}, not a whole number from {least} on"
    raise ConfigError(
        f"the variable {name} {said}; torchrun sets it. For a single process unset WORLD_SIZE"
    )


@contextmanager
def without_main() -> Iterator[None]:
    """Context in which spawned processes do not import the program's main module.

    Python runs it again in each of them, which a script without `if __name__ == "__main__"` does
    not survive: each process would start the whole work anew. Functions and arguments of such
    processes must come from modules that can be imported.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


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
