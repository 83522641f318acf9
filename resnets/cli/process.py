"""What a command's process is handed by whatever started it: streams, signals, words.

Nothing of ours is imported until it is needed: `resnets --help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

EMPTY = "is empty; is a variable of the shell not set?"
ENDING = (signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """A signal asked the process to end; like KeyboardInterrupt, so that blocks clean up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


def open_standard_streams() -> None:
    """Open /dev/null in the place of standard streams that are closed.

    Otherwise the next file that is opened gets the number of such a stream, and what libraries
    print goes into it: into a checkpoint, say.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # children expect their streams there too
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # what Python makes of a closed stream
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise `Ended`, so that no temporary file is left; a second SIGTERM
    ends the process at once.

    Handlers that are there already stay: nohup's, which ignores SIGHUP, and those of a program that
    calls us.
    """

    def end(number: int, frame: FrameType | None) -> None:
        from resnets.utils.terminal import leave_terminal

        if number == signal.SIGHUP:  # a shell and the system may both send one
            leave_terminal()
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.signal(number, signal.SIG_DFL)
        raise Ended(number)

    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [each for each in ENDING if signal.getsignal(each) is signal.SIG_DFL]
    for each in ours:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)


def check_words(words: Sequence[str]) -> None:
    """ConfigError for an empty word, which as a path would mean the current folder."""
    from resnets.utils.errors import ConfigError

    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("--") and equals and not value.strip():
            raise ConfigError(f"{name}: {EMPTY}")
        if not word.strip():
            option = words[place - 1] if place and words[place - 1].startswith("-") else ""
            raise ConfigError(f"{option or f'argument {place + 1}'}: {EMPTY}")
