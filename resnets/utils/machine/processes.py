"""Environment variables of torchrun, start of worker processes, deferral of signals, a lock."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType

from resnets.utils.errors import ConfigError

# Held by a run while it draws from torch's global random numbers (initial weights, dropout),
# captures a CUDA graph, evaluates or draws figures: everything but its loop, and there each step
# that is not a graph. Runs in threads of one process (`study.grid.shared_process`) then equal runs
# alone.
process_lock = threading.RLock()
RAISING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def environment_int(name: str, default: int | None = None, least: int = 0) -> int:
    """Read an integer >= `least` from environment variable `name`; raises ConfigError."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is not None and text.isdecimal() and int(text) >= least:
        return int(text)
    problem = "is not set" if text is None else f"is {text!r}, not an integer >= {least}"
    raise ConfigError(
        f"environment variable {name} {problem}; torchrun sets it. For a single process unset"
        " WORLD_SIZE"
    )


@contextmanager
def without_main_module() -> Iterator[None]:
    """Context in which spawned processes do not import the program's main module.

    Python runs it again in each of them; with a script without `if __name__ == "__main__"`, each
    process would repeat all of its work. Functions and arguments of such processes must come from
    importable modules.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Context that defers the handlers of SIGINT, SIGTERM and SIGHUP to its end.

    torch traces models in C++ code that calls Python and must not fail: a handler that raises there
    aborts the process and leaves temporary files. A second signal of a kind ends the process at
    once.
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
