"""CUDA streams and events of the simulated device (fake_device.py)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch


class Stream:
    """Of one device: asynchronous copies to the host, which are done when somebody waits."""

    def __init__(self, _: Any = None) -> None:
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    def copy_later(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy what `source` holds now; until then `target` holds something else."""
        self.pending.append((target, source.detach().clone()))
        target.fill_(float("nan") if target.is_floating_point() else 77)

    def synchronize(self) -> None:
        pending, self.pending = self.pending, []
        for target, source in pending:
            target.copy_(source)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.stream = self
        return event

    def wait_stream(self, _: Stream) -> None: ...


class Event:
    """A point in a stream."""

    stream: Stream | None = None

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or current_stream()

    def query(self) -> bool:
        return self.stream is None or not self.stream.pending

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.synchronize()

    def elapsed_time(self, _: Event) -> float:
        return 0.0


_streams = {index: Stream() for index in range(2)}


class _Thread(threading.local):
    """What CUDA has for each thread: its device, and its stream if not the device's own."""

    device = 0
    stream: Stream | None = None


thread_state = _Thread()


def current_stream(device: Any = None) -> Stream:
    """Of `device` ("cuda:1", 1, None: the current one) in this thread."""
    index = device if isinstance(device, int) else torch.device(device or "cuda").index
    index = thread_state.device if index is None else index
    own = thread_state.stream if index == thread_state.device else None
    return own or _streams[index]


@contextlib.contextmanager
def use_stream(stream: Stream) -> Iterator[None]:
    """Make a stream of the current device the current one of this thread."""
    before, thread_state.stream = thread_state.stream, stream
    try:
        yield
    finally:
        thread_state.stream = before


def set_device(device: Any) -> None:
    """Make a device the current one of this thread."""
    index = device if isinstance(device, int) else torch.device(device).index
    thread_state.device = thread_state.device if index is None else index
