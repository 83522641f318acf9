"""Time spent in the stages of the data pipeline, measured where they run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Seconds spent in all `with watch:` blocks so far.

    On CUDA this is device time, between events on the current stream: the host queues work far
    ahead, and timing must not make it wait. Elsewhere it is host time.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._start: Any = None
        self._pairs: deque[tuple[Any, Any]] = deque()  # of events that the device has not reached
        self._total = 0.0

    def __enter__(self) -> None:
        self._start = self._now()

    def __exit__(self, *_: object) -> None:
        if self._cuda is None:
            self._total += self._now() - self._start
            return
        self._pairs.append((self._start, self._now()))
        while self._pairs and self._pairs[0][1].query():
            self._add()

    def seconds(self) -> float:
        """Return the sum; on CUDA waits until the device has finished all timed work."""
        if self._pairs:
            self._pairs[-1][1].synchronize()
        while self._pairs:
            self._add()
        return self._total

    def _add(self) -> None:
        start, end = self._pairs.popleft()
        self._total += start.elapsed_time(end) / 1000

    def _now(self) -> Any:
        if self._cuda is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._cuda))
        return event


class Decoding:
    """Seconds that `threads` threads were busy reading and decoding images, and of the CPU."""

    def __init__(self) -> None:
        self.threads, self.busy, self.cpu = 0, 0.0, 0.0
        self._lock = threading.Lock()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the calling thread's time in this block."""
        busy, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            busy, cpu = time.perf_counter() - busy, time.thread_time() - cpu
            with self._lock:
                self.busy += busy
                self.cpu += cpu


class Timings:
    """Time that a training stream for `device` has spent so far, by stage.

    packed: images come from a packed data set.
    """

    def __init__(self, device: torch.device, *, packed: bool = False) -> None:
        self.device, self.packed = device, packed
        self.decoding = Decoding()
        self.to_device, self.augmenting = Stopwatch(device), Stopwatch(device)
