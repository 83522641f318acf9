"""End a process that hangs, after printing its stack traces."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable

from resnets.utils.printable import echo

EXIT_HUNG = 75  # a temporary failure, retry (EX_TEMPFAIL in sysexits.h)


class Watchdog:
    """A thread that ends the process unless `beat` is called every `seconds`; 0 = disabled.

    It first prints `describe()` and the stack traces of all threads.
    """

    def __init__(self, seconds: float, describe: Callable[[], str]) -> None:
        self.seconds, self.describe = seconds, describe
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._ended = False

    def __enter__(self) -> Watchdog:
        if self.seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            self.beat()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def beat(self) -> None:
        """Restart the timeout."""
        self._set_deadline(time.monotonic() + self.seconds)

    def pause(self) -> None:
        """Suspend the timeout until the next beat."""
        self._set_deadline(None)

    def _set_deadline(self, deadline: float | None) -> None:
        with self._changed:
            earlier = self._deadline is None and deadline is not None
            self._deadline = deadline
            if earlier:  # a later one is read when the thread wakes up
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._ended:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            else:
                return
        try:
            echo(self.describe(), error=True)
            faulthandler.dump_traceback(all_threads=True)
        finally:  # also if stderr has no file, as in some notebooks
            os._exit(EXIT_HUNG)
