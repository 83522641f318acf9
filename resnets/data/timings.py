"""How long the stages of the data road take, measured where they run."""

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

    On CUDA they are the device's own, between events on its current stream: the host queues work
    far ahead, and timing it must not make it wait. Elsewhere they are the host's.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._start: Any = None
        self._pairs: deque[tuple[Any, Any]] = deque()  # of events the device has yet to reach
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
        """The sum; on CUDA waits until the device has done all that was timed."""
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
    """What `threads` threads that read and decode images have spent: seconds busy, of the CPU."""

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
    """What a training stream for `device` has spent so far, by stage.

    packed: images come from a packed set already.
    """

    def __init__(self, device: torch.device, *, packed: bool = False) -> None:
        self.device, self.packed = device, packed
        self.decoding = Decoding()
        self.to_device, self.augmenting = Stopwatch(device), Stopwatch(device)
