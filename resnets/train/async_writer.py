"""Writing beside the loop: tensors are copied at once, and a thread turns the copies into files."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import torch

from resnets.utils.environment import single_threaded_pool

_log = logging.getLogger(__name__)


class Snapshot:
    """Copies of tensors in the machine's memory, in buffers that serve again the next time.

    From a GPU they go through pinned memory and are not waited for; `finish` does.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Begin to copy; what the current stream does to the tensors later is not seen."""
        kept, self._buffers = self._buffers, {}
        for name, tensor in tensors.items():
            tensor, buffer = tensor.detach(), kept.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer.copy_(tensor, non_blocking=tensor.is_cuda)
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._copied = torch.cuda.Event()
            self._copied.record()

    def finish(self) -> Mapping[str, torch.Tensor]:
        """The copies, once they are whole; valid up to the next `take`."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._buffers


class Writer:
    """One thread that does jobs in order, of each name one at a time.

    What a job raises comes out of the next `ready` or `wait`. A process that ends lets the jobs
    end first.
    """

    def __init__(self) -> None:
        self._thread = single_threaded_pool(1, "checkpoints")
        self._jobs: dict[str, Future[None]] = {}

    def ready(self, name: str) -> None:
        """Wait for the job of this name; raise what any finished one raised."""
        for key, job in list(self._jobs.items()):
            if key == name or job.done():
                del self._jobs[key]
                job.result()

    def start(self, name: str, job: Callable[[], None]) -> None:
        """Do `job` as soon as those before it are done."""
        assert name not in self._jobs
        self._jobs[name] = self._thread.submit(job)

    def wait(self) -> None:
        """Wait for all jobs; raise what the first of them raised."""
        for name in list(self._jobs):
            self._jobs.pop(name).result()

    def close(self) -> None:
        """Let all jobs end, of a run that ends; what they raised and nobody asked for is said."""
        self._thread.shutdown()
        for job in self._jobs.values():
            if (error := job.exception()) is not None:
                _log.warning("%s", error)

    def settle(self, seconds: float) -> None:
        """Wait so long for all jobs, and raise nothing."""
        concurrent.futures.wait(self._jobs.values(), seconds)
