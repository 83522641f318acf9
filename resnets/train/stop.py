"""Asking a run to stop: SIGTERM and Ctrl-C are noticed between two steps.

Waiting for a batch is between two steps too: there, a signal ends the wait at once. A second signal
of the same kind ends the process wherever it is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import TypeVar

T = TypeVar("T")


class _WaitEnded(BaseException):
    """A signal came while the run waited for a batch."""


class Stopped(Exception):  # noqa: N818  (a request, not an error)
    """The run was asked to stop and has saved; `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopSignals:
    """Context in which SIGTERM and SIGINT set `received`; the second of a kind stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._waiting = False

    def __enter__(self) -> StopSignals:
        try:
            self._before = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
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
        if self.received == number:
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
        """0 for SIGTERM (a machine going down is no failure), 130 for Ctrl-C."""
        return 130 if self.received == signal.SIGINT else 0
