"""Limits of a server, the exception for rejected requests, and the lag of its event loop."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from resnets.config import ConfigError
from resnets.config.ranges import check_range

LAG_INTERVAL = 0.05  # seconds between measurements of the event loop's lag
LAG_DECAY = 0.7  # of the worst lag per measurement
MAX_BATCH = 4096  # images computed at once when a server starts, to measure the time of a batch


class RequestError(Exception):
    """A rejected request; becomes a JSON response with this HTTP status."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    max_batch: batch size. max_delay: seconds that the first image of a batch waits for others.
    max_latency: target in seconds from acceptance to response; requests that would take longer at
    the current pace are shed. queue: images accepted but not answered, per model. upload: bytes of
    a body. pixels: of one image. images: per request. stall: seconds without data. body: seconds
    for a whole body. answer: timeout of an accepted request in seconds. readers: bodies read
    concurrently. connections: open concurrently.
    """

    max_batch: int = 32
    max_delay: float = 0.005
    max_latency: float = 1.0
    queue: int = 256
    upload: int = 32 << 20
    pixels: int = 50_000_000
    images: int = 64
    stall: float = 10.0
    body: float = 120.0
    answer: float = 30.0
    readers: int = 256
    connections: int = 512

    def __post_init__(self) -> None:
        check_range("--max-batch", self.max_batch, f"[1, {MAX_BATCH}]")
        check_range("--max-delay-ms", 1000 * self.max_delay, "[0, inf)")
        check_range("--queue", self.queue, "[1, inf)")
        if self.upload < 1:
            raise ConfigError("--max-upload-mb: must be at least one byte")
        if self.pixels < 1:
            raise ConfigError("--max-megapixels: must be at least one pixel")
        if not self.max_latency > self.max_delay:
            raise ConfigError("--max-latency-ms: must be more than --max-delay-ms")

    @property
    def total_body_bytes(self) -> int:
        """Maximum bytes of all bodies together."""
        return 8 * self.upload


class EventLoopLag:
    """The recent worst delay of ready callbacks in an event loop: a measure of overload."""

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
        self._due = time.monotonic() + LAG_INTERVAL
        self._timer = asyncio.get_running_loop().call_later(LAG_INTERVAL, self._measure)

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self) -> None:
        lag = time.monotonic() - self._due
        self._worst = max(lag, LAG_DECAY * self._worst)
        self.start()
