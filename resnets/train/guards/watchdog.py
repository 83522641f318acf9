"""Ends a process that hangs, and says where: waiting for ever would help nobody."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

from resnets.utils.terminal import say

HUNG = 75  # exit code: the machine's fault, try again (sysexits.h, EX_TEMPFAIL)


class Watchdog:
    """A thread that expects a `beat` at least every `seconds` while it is watching; 0 = never.

    `describe()` is what it prints, before the stacks of all threads, when none came.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def beat(self) -> None:
        """All is well, and watched from now on."""
        self._set(time.monotonic() + self.seconds)

    def rest(self) -> None:
        """What comes may take as long as it likes, until the next beat."""
        self._set(None)

    def _set(self, deadline: float | None) -> None:
        with self._changed:
            earlier = self._deadline is None and deadline is not None
            self._deadline = deadline
            if earlier:  # else the thread looks again when the old deadline is over
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
        say(self.describe(), error=True)
        faulthandler.dump_traceback(all_threads=True)
        os._exit(HUNG)
