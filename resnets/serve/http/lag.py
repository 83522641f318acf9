"""How late the event loop is, which says whether the server itself is overloaded."""

from __future__ import annotations

import asyncio
import time

STEP = 0.05  # seconds between two looks
KEEP = 0.7  # share of a lag that is still believed after a look that found none


class Lag:
    """Seconds that whatever is ready waits for its turn in an event loop, at worst lately."""

    def __init__(self) -> None:
        self._worst = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """0 while nobody looks."""
        if self._timer is None:
            return 0.0
        return max(self._worst, time.monotonic() - self._due)

    def watch(self) -> None:
        """Look from now on, in the running loop."""
        self._due = time.monotonic() + STEP
        self._timer = asyncio.get_running_loop().call_later(STEP, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        late = time.monotonic() - self._due
        self._worst = max(late, KEEP * self._worst)
        self.watch()
