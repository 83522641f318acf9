"""Asking a run to stop: SIGTERM and Ctrl-C are noticed between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Stopped(Exception):  # noqa: N818  (a request, not an error)
    """The run was asked to stop and has saved; `code` is the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopSignals:
    """Context in which SIGTERM and SIGINT only set `received`; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None

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
        if self.received == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    @property
    def exit_code(self) -> int:
        """0 for SIGTERM (a machine going down is no failure), 130 for Ctrl-C."""
        return 130 if self.received == signal.SIGINT else 0
