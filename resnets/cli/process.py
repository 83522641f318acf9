"""The process of a command: its standard streams, signals and log.

Imports of the package are deferred, so that `resnets --help` starts quickly.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

RETRY_AFTER = 0.05  # seconds until a signal whose exception was discarded is sent again


class Terminated(BaseException):
    """Raised on SIGTERM and SIGHUP, like KeyboardInterrupt on Ctrl-C, so that blocks clean up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


def open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams.

    Otherwise the next file that is opened, such as a checkpoint, gets the descriptor of the stream,
    and what libraries print goes into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # subprocesses need them too
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # as Python represents a closed stream
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


@contextmanager
def terminate_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Terminated`, so that temporary files are removed.

    A second SIGTERM ends the process at once. Existing handlers stay: that of nohup, which ignores
    SIGHUP, and those of a program that calls `main`. If the signal arrives in a destructor or a
    weakref callback, whose exceptions Python discards, it is sent again.
    """

    def end(number: int, frame: FrameType | None) -> None:
        from resnets.utils.printable import detach_closed_terminal

        if number == signal.SIGHUP:  # may come from both the shell and the system
            detach_closed_terminal()
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.signal(number, signal.SIG_DFL)
        raise Terminated(number)

    def send_again(discarded: sys.UnraisableHookArgs) -> None:
        if not isinstance(discarded.exc_value, Terminated):
            hook(discarded)
            return
        number = discarded.exc_value.code - 128
        signal.signal(number, end)
        threading.Timer(RETRY_AFTER, os.kill, (os.getpid(), number)).start()

    hook, handled = sys.unraisablehook, list[signal.Signals]()
    if threading.current_thread() is threading.main_thread():
        signals = (signal.SIGTERM, signal.SIGHUP)
        handled = [each for each in signals if signal.getsignal(each) is signal.SIG_DFL]
    for each in handled:
        signal.signal(each, end)
    if handled:
        sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for each in handled:
            signal.signal(each, signal.SIG_DFL)


def log_to_stderr() -> None:
    """Print the package's log to stderr."""
    from resnets.utils.printable import StderrHandler

    log = logging.getLogger("resnets")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler())
