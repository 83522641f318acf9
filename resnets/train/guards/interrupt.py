"""Asking a run to stop: SIGTERM, SIGHUP (a closed terminal) and Ctrl-C are noticed between two
steps.

Waiting for a batch is between two steps too: there, a signal ends the wait at once. A second
SIGTERM or Ctrl-C ends the process wherever it is; SIGHUP often comes twice, from shell and system.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import TypeVar

from resnets.utils.terminal import leave_terminal

T = TypeVar("T")


class _WaitEnded(BaseException):
    """A signal came while the run waited for a batch."""


class Interrupted(Exception):  # noqa: N818  (a request, not an error)
    """The run was asked to stop and has saved; `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopSignals:
    """Context in which SIGTERM, SIGHUP and SIGINT set `received`.

    A SIGHUP that is ignored, as under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waiting = False

    def __enter__(self) -> StopSignals:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        try:
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        except ValueError:  # not the main thread: nobody sends us signals
            self._before = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        elif self.received == number:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = number
        if self._waiting:
            raise _WaitEnded

    def waiting_for(self, items: Iterable[T]) -> Iterator[T]:
        """The `items` in order, until a signal comes while the next one is waited for.

        For one process alone: several must stop at the same step.
        """
        rest = iter(items)
        try:
            while True:
                self._waiting = True
                item = next(rest)
                self._waiting = False
                yield item
        except (StopIteration, _WaitEnded):
            return
        finally:
            self._waiting = False

    @property
    def exit_code(self) -> int:
        """0 for SIGTERM (a machine going down is no failure), 130 for Ctrl-C, 129 for SIGHUP."""
        return {signal.SIGINT: 130, signal.SIGHUP: 129}.get(signal.Signals(self.received or 15), 0)
