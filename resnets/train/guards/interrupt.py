"""Stop a run on SIGTERM, SIGHUP (a closed terminal) or Ctrl-C, between two steps.

A signal during the wait for a batch ends the wait immediately. A second SIGTERM or Ctrl-C ends the
process at any point. A second SIGHUP does not, because the shell and the system often send one
each.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import ClassVar, TypeVar

from resnets.utils.printable import detach_closed_terminal

T = TypeVar("T")


class _StopWaiting(BaseException):
    """A signal arrived while the run was waiting for a batch."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run after it saved a checkpoint; `code` is the exit code to use.

    It is not an `Exception`, so that `except Exception` in a script does not catch Ctrl-C.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopSignals:
    """Context in which SIGTERM, SIGHUP and SIGINT set `received`.

    SIGHUP remains ignored if it was ignored before, as under nohup. Signals reach the main thread
    only; in another thread, `received` is that of the main thread's context, if any.
    """

    _of_main_thread: ClassVar[StopSignals | None] = None

    def __init__(self) -> None:
        self._received: int | None = None
        self._waiting = False
        self._source = self

    @property
    def received(self) -> int | None:
        """The last signal that arrived, or None."""
        return self._source._received

    def request(self, number: int) -> None:
        """Act as if the signal `number` had arrived."""
        self._received = number

    def __enter__(self) -> StopSignals:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        try:
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        except ValueError:  # not the main thread, which receives the signals
            self._before = {}
            self._source = StopSignals._of_main_thread or self
        else:
            self._outer, StopSignals._of_main_thread = StopSignals._of_main_thread, self
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        StopSignals._of_main_thread = self._outer
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            detach_closed_terminal()
        elif self._received == number:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number
        if self._waiting:
            raise _StopWaiting

    def until_signal(self, items: Iterable[T]) -> Iterator[T]:
        """Yield from `items` until a signal arrives while waiting for the next one.

        For a single process only: several must stop at the same step.
        """
        iterator = iter(items)
        try:
            while True:
                self._waiting = True
                item = next(iterator)
                self._waiting = False
                yield item
        except (StopIteration, _StopWaiting):
            return
        finally:
            self._waiting = False

    @property
    def exit_code(self) -> int:
        """0 for SIGTERM (a machine shutdown is not a failure), 130 for Ctrl-C, 129 for SIGHUP."""
        return {signal.SIGINT: 130, signal.SIGHUP: 129}.get(signal.Signals(self.received or 15), 0)
