"""Save checkpoints asynchronously: tensors are copied, and a thread writes the copies."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from resnets.config import Recipe, to_dict
from resnets.data.splits.image_record import Fingerprint
from resnets.train.guards.divergence import HINTS, Diverged, find_nonfinite
from resnets.train.optim.optimizers import load_state_tensors
from resnets.train.state import Meter, TrainState
from resnets.utils.errors import within_memory
from resnets.utils.machine.environment import accumulator_dtype, single_threaded_pool
from resnets.weights.checkpoint.format import BEST, LAST, Checkpoint, EncodedCheckpoint
from resnets.weights.checkpoint.image_record import FingerprintRecord
from resnets.weights.checkpoint.manager import CheckpointManager
from resnets.weights.checkpoint.store import display_path
from resnets.weights.lazy_tensors import reading_weights
from resnets.weights.load import load_weights

_log = logging.getLogger(__name__)


class Snapshot:
    """Copies of tensors in host memory, in buffers that are reused.

    Copies from a GPU go through pinned memory asynchronously; `tensors` waits for them.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._copied: list[torch.cuda.Event] = []

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Start copying; later operations on the tensors' devices do not affect the copies."""
        previous, self._buffers = self._buffers, {}
        for name, tensor in tensors.items():
            tensor, buffer = tensor.detach(), previous.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer.copy_(tensor, non_blocking=tensor.is_cuda)
        devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        # On each device's own stream: it may not be the current device.
        self._copied = [torch.cuda.current_stream(each).record_event() for each in devices]

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Return the completed copies, which are valid until the next `copy`."""
        for event in self._copied:
            event.synchronize()
        return self._buffers


class Writer:
    """A thread that runs jobs in order, with at most one pending job per name.

    The exception of a job is raised by the next `wait_for` or `wait`. A process that exits
    completes its jobs first.
    """

    def __init__(self) -> None:
        self._thread = single_threaded_pool(1, "checkpoints")
        self._jobs: dict[str, Future[None]] = {}

    def wait_for(self, name: str) -> None:
        """Wait for the job of this name; raise the exception of any completed job."""
        for key, job in list(self._jobs.items()):
            if key == name or job.done():
                del self._jobs[key]
                job.result()

    def start(self, name: str, job: Callable[[], None]) -> None:
        """Run `job` after all jobs started before it."""
        assert name not in self._jobs
        self._jobs[name] = self._thread.submit(job)

    def wait(self) -> None:
        """Wait for all jobs; raise the first of their exceptions."""
        for name in list(self._jobs):
            self._jobs.pop(name).result()

    def close(self) -> None:
        """Complete all jobs when the run ends; exceptions that were not raised are logged."""
        self._thread.shutdown()
        for job in self._jobs.values():
            if (error := job.exception()) is not None:
                _log.warning("%s", error)

    def wait_quietly(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for all jobs, without raising their exceptions."""
        concurrent.futures.wait(self._jobs.values(), timeout)


class Saver:
    """Writes a run's checkpoints: `last`, to resume from, and `best`, to use.

    Training waits only while tensors are copied; a thread writes the files. If writing fails, the
    next save or `wait` raises CheckpointError, or Diverged if a tensor is not finite: an update
    that overflows affects the loss only in the next step.

    Args:
        metadata: Entries of all checkpoints.
        resumed: Checkpoint from which the run was resumed.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        metadata: Mapping[str, Any],
        mean_image: torch.Tensor | None,
        fingerprint: Fingerprint | None = None,
        resumed: Checkpoint | None = None,
    ) -> None:
        self._manager, self._writer = CheckpointManager(folder, recipe), Writer()
        if resumed is not None:
            self._manager.resume_from(resumed)
        self._snapshots = {LAST: Snapshot(), BEST: Snapshot()}
        self._record = FingerprintRecord(fingerprint)
        self._meta = {"recipe": to_dict(recipe), **metadata, **self._record.meta}
        self._constant_tensors = {} if mean_image is None else {"preprocess/mean_image": mean_image}
        self._constant_tensors |= self._record.tensors

    @property
    def path(self) -> str:
        """Path or URL of `last`."""
        return self._manager.path

    def save_last(self, state: TrainState, *, final: bool = False) -> None:
        """Write all that is needed to resume exactly; waits until the `final` one is written."""
        loop = {
            "seconds": state.seconds,
            "evals_since_best": state.evals_since_best,
            "micro_batch": state.micro_batch,
            "schedule": state.schedule.state_dict(),
            "interval": _meter_to_json(state.interval),
            "epoch": _meter_to_json(state.epoch),
        }
        tensors = state.tensors() | _prefixed("optim", state.remote_optimizer_state)
        if state.ema is not None:
            tensors["n_averaged"] = torch.tensor(state.ema.n_averaged)
        self._save(LAST, tensors, {"step": state.step, "state": loop}, final)
        state.remote_optimizer_state = {}  # already copied; frees memory
        if final:
            self.wait()

    def save_best(self, state: TrainState) -> None:
        """Write only the weights that were evaluated."""
        tensors = _prefixed("model", state.eval_model.state_dict())
        self._save(BEST, tensors, {"step": state.step, "averaged": state.ema is not None}, False)

    def _save(
        self, name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any], final: bool
    ) -> None:
        snapshot = self._snapshots[name]
        self._writer.wait_for(name)
        with within_memory(
            f"no room for a copy of the weights and the optimizer's state, to save step"
            f" {meta['step']:,}",
            "use a smaller model",
        ):
            snapshot.copy(tensors)

        def write() -> None:
            copies = snapshot.tensors()
            if (bad := find_nonfinite(copies)) is not None:
                raise Diverged(
                    f"{bad} is not finite at step {meta['step']:,}; that step was not saved; "
                    f"{self._manager.last_good()}; {HINTS}"
                )
            if self._record.file is not None:  # written before a checkpoint refers to it
                self._manager.save_companion(*self._record.file)
                self._record.file = None
            payload = EncodedCheckpoint({**self._constant_tensors, **copies}, self._meta | meta)
            self._manager.save(name, payload, meta["step"], final=final)

        self._writer.start(name, write)

    def wait(self) -> None:
        """Wait until all checkpoints are written; raises CheckpointError if one failed."""
        self._writer.wait()
        self._manager.upload_pending(final=True)

    def close(self) -> None:
        """Complete pending writes, however the run ended."""
        self._writer.close()

    def last_good(self, timeout: float = 0.0) -> str:
        """Describe the last usable checkpoint; waits up to `timeout` s for pending writes."""
        self._writer.wait_quietly(timeout)
        return self._manager.last_good()


def restore_state(state: TrainState, checkpoint: Checkpoint) -> None:
    """Load a checkpoint written by `Saver.save_last` into `state`; may raise CheckpointError."""
    with reading_weights(display_path(checkpoint.path)):
        load_weights(state.model, checkpoint.group("model"), checkpoint.path)
        load_state_tensors(state.model, state.optimizer, checkpoint.group("optim"))
        if state.ema is not None:
            load_weights(state.ema.module, checkpoint.group("ema"), checkpoint.path)
            state.ema.n_averaged = int(checkpoint.tensors["n_averaged"])
        if state.scaler is not None:
            state.scaler.load_state_tensors(checkpoint.group("scaler"))
        loop = checkpoint.meta["state"]
        state.step, state.seconds = checkpoint.step, loop["seconds"]
        # Missing in older checkpoints.
        state.evals_since_best = loop.get("evals_since_best", 0)
        state.micro_batch = loop.get("micro_batch", state.micro_batch)
        state.schedule.load_state_dict(loop["schedule"])
        device = next(state.model.parameters()).device
        state.interval = _meter_from_json(loop["interval"], device)
        state.epoch = _meter_from_json(loop["epoch"], device)


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _meter_to_json(meter: Meter) -> dict[str, Any]:
    return {"sums": {name: s.item() for name, s in meter.sums.items()}, "count": meter.count}


def _meter_from_json(data: Mapping[str, Any], device: torch.device) -> Meter:
    sums = {
        name: torch.tensor(value, dtype=accumulator_dtype(device), device=device)
        for name, value in data["sums"].items()
    }
    return Meter(sums, data["count"])
