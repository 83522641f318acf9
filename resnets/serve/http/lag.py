"""Lag of the event loop, which shows whether the server itself is overloaded."""

from __future__ import annotations

import asyncio
import time

INTERVAL = 0.05  # seconds between measurements
DECAY = 0.7  # of the worst lag per measurement


class EventLoopLag:
    """The recent worst delay of ready callbacks in an event loop, in seconds."""

    def __init__(self) -> None:
        self._worst = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """The current lag; 0 if not started."""
        if self._timer is None:
            return 0.0
        return max(self._worst, time.monotonic() - self._due)

    def start(self) -> None:
        """Start measuring the running loop."""
        self._due = time.monotonic() + INTERVAL
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._measure)

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self) -> None:
        lag = time.monotonic() - self._due
        self._worst = max(lag, DECAY * self._worst)
        self.start()
