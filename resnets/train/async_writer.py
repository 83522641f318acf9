"""Asynchronous checkpoints: tensors are copied at once, and a thread writes the copies."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import torch

from resnets.utils.environment import single_threaded_pool

_log = logging.getLogger(__name__)


class Snapshot:
    """Copies of tensors in host memory, in buffers that are reused.

    Copies from a GPU go through pinned memory asynchronously; `tensors` waits for them.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._copied: list[torch.cuda.Event] = []

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Start copying; later work on the tensors' devices does not affect the copies."""
        previous, self._buffers = self._buffers, {}
        for name, tensor in tensors.items():
            tensor, buffer = tensor.detach(), previous.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer.copy_(tensor, non_blocking=tensor.is_cuda)
        devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        # On each device's own stream: the current device may be another one.
        self._copied = [torch.cuda.current_stream(each).record_event() for each in devices]

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The finished copies; valid until the next `copy`."""
        for event in self._copied:
            event.synchronize()
        return self._buffers


class Writer:
    """One thread that runs jobs in order, at most one per name.

    The next `wait_for` or `wait` raises a job's exception. A process that exits finishes its jobs
    first.
    """

    def __init__(self) -> None:
        self._thread = single_threaded_pool(1, "checkpoints")
        self._jobs: dict[str, Future[None]] = {}

    def wait_for(self, name: str) -> None:
        """Wait for the job of this name; raise the exception of any finished job."""
        for key, job in list(self._jobs.items()):
            if key == name or job.done():
                del self._jobs[key]
                job.result()

    def start(self, name: str, job: Callable[[], None]) -> None:
        """Run `job` after those started before it."""
        assert name not in self._jobs
        self._jobs[name] = self._thread.submit(job)

    def wait(self) -> None:
        """Wait for all jobs; raise the first exception among them."""
        for name in list(self._jobs):
            self._jobs.pop(name).result()

    def close(self) -> None:
        """Finish all jobs when the run ends; exceptions not raised so far are logged."""
        self._thread.shutdown()
        for job in self._jobs.values():
            if (error := job.exception()) is not None:
                _log.warning("%s", error)

    def wait_quietly(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for all jobs, without raising their exceptions."""
        concurrent.futures.wait(self._jobs.values(), timeout)
