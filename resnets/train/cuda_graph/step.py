"""A training step as a CUDA graph: captured once for each image size, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from resnets.data.batch import Batch
from resnets.data.loading.batches import TrainStream
from resnets.data.timings import Timings
from resnets.train.cuda_graph.capture import Capture, compiled_blocks
from resnets.train.optim.optimizers import set_lr
from resnets.train.state import TrainState
from resnets.train.step import TrainStep
from resnets.utils.machine.environment import copy_to_device

STEPS_PER_TABLE = 512


class GraphBatch(Batch):
    """A placeholder without images: the graph gathers the batch on the device itself."""


class GraphTraining:
    """The stream and the step of a run whose steps are replayed CUDA graphs.

    Batches equal those of `stream` bit for bit: the random draws of `STEPS_PER_TABLE` steps are
    stored on the device (`StepTables`). A graph gathers the batch and runs the forward and backward
    passes, the optimizer, the weight averaging and the sums for the log. Losses equal those of
    `step` up to rounding, because the learning rate is a float32 tensor on the device.

    While the schedule's warmup is held (`hold_until_error`), the next learning rate depends on the
    last step's error, so the host waits for it.

    Args:
        step: The eager step.
        stream: The stream of batches, in memory.
        total: Number of steps of the run.
        compile_blocks: Whether the graph contains compiled blocks.
        capture: Converts the body of a step into a function that replays it.

    Raises RuntimeError if a step cannot be captured; state and model are then unchanged.
    """

    def __init__(
        self,
        step: TrainStep,
        stream: TrainStream,
        total: int,
        *,
        compile_blocks: bool = False,
        capture: Capture,
    ) -> None:
        self._train_step, self._state, self._stream = step, step.state, stream
        self._total = total
        self._tables = StepTables(stream, STEPS_PER_TABLE)
        state = self._state
        self._errors: Tensor | None = None  # errors of the last step
        if state.schedule.holding:
            self._errors = torch.zeros((), dtype=torch.int64, device=stream.device)
        state.freeze_schedule.apply(state.step)
        step.model.prepare()
        sizes = sorted({stream.size_at(number, total) for number in range(state.step, total)})
        self._replay: dict[int, Callable[[], None]] = {}
        blocks = compiled_blocks(state.model, compile_blocks)
        with _restored(state, self._tables), blocks as self._compiled:
            for size in sizes:
                self._tables.fill(state)  # the warm-up steps advanced the row index
                self._replay[size] = capture(partial(self._body, size), stream.device)

    @property
    def examples(self) -> int:
        """Number of images per epoch."""
        return self._stream.examples

    @property
    def timings(self) -> Timings:
        """Time spent in the stages of the eager stream; all of a graph's time is "computing"."""
        return self._stream.timings

    @property
    def unreadable(self) -> Collection[int]:
        """Indices of unreadable images; empty for a data set in memory."""
        return self._stream.unreadable

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """Yield `GraphBatch`es; the step of each is a counter on the device."""
        empty = torch.empty(0)
        while True:
            yield GraphBatch(empty, empty, empty)

    def step(self, batch: Batch) -> None:
        """Update the weights once, as `TrainStep` does."""
        self.replay()

    def replay(self) -> None:
        """Run the next step on the current CUDA stream."""
        state, tables = self._state, self._tables
        if not tables.is_current(state):
            tables.fill(state)
        set_lr(state.optimizer, state.schedule.lr(state.step))  # for the log
        self._replay[self._stream.size_at(state.step, self._total)]()
        state.step += 1
        if state.ema is not None:
            state.ema.n_averaged += 1
        batch_size = self._train_step.recipe.batch_size
        for meter in (state.interval, state.epoch):
            meter.count += batch_size
        if state.schedule.holding:  # warmup is held until the training error is low enough
            assert self._errors is not None
            state.schedule.observe_step(100 * self._errors.item() / batch_size)

    def _body(self, size: int) -> None:
        """Run one step on images of `size` px; the graph captures this function."""
        state, tables = self._state, self._tables
        batch = self._stream.batch_at(size=size, **tables.draws())
        with _lr_on_device(state, tables.lr()):
            all_losses = self._train_step.update_weights(batch)
        if state.ema is not None:
            state.ema.average_with(state.model, tables.ema_weight())
        for losses in all_losses:
            for meter in (state.interval, state.epoch):
                meter.add(losses.sums, 0)  # `replay` counts the examples
        if self._errors is not None:
            self._errors.copy_(torch.stack([each.sums["errors"] for each in all_losses]).sum())
        tables.index.add_(1)


class StepTables:
    """Random draws and rates of `steps` consecutive steps: tensors (steps, ...) on the device.

    They are pure functions of the step (`data.order`, `Schedule`, `AveragedModel.weight`), so they
    are computed for all these steps at once. A step reads row `index`, a counter on the device, and
    increments it; `fill` resets it to 0. The addresses of the tensors do not change.
    """

    def __init__(self, stream: TrainStream, steps: int) -> None:
        self._stream, self.steps = stream, steps
        self.start: int | None = None
        self.lrs: list[float] = []
        device = stream.device
        self._tables = {
            name: torch.from_numpy(each).to(device) for name, each in stream.draws(0, steps).items()
        }
        self._lr = torch.zeros(steps, device=device)
        self._ema_weight = torch.zeros(steps, device=device)
        self.index = torch.zeros(1, dtype=torch.int64, device=device)

    def is_current(self, state: TrainState) -> bool:
        """Return whether the next row belongs to the next step of `state`."""
        if self.start is None or not 0 <= state.step - self.start < self.steps:
            return False
        return self.lrs[state.step - self.start] == state.schedule.lr(state.step)

    def fill(self, state: TrainState) -> None:
        """Compute the rows of the next `steps` steps; does not wait for queued steps."""
        start, device = state.step, self.index.device
        self.start = start
        self.lrs = [state.schedule.lr(start + step) for step in range(self.steps)]
        for name, values in self._stream.draws(start, self.steps).items():
            self._tables[name].copy_(copy_to_device(np.ascontiguousarray(values), device))
        self._lr.copy_(copy_to_device(torch.tensor(self.lrs), device))
        if state.ema is not None:
            count = state.ema.n_averaged
            weights = [state.ema.weight(count + step) for step in range(self.steps)]
            self._ema_weight.copy_(copy_to_device(torch.tensor(weights), device))
        self.index.zero_()

    def draws(self) -> dict[str, Tensor]:
        """Return `rows` (B,) and the other draws of the current step."""
        return {name: each.index_select(0, self.index)[0] for name, each in self._tables.items()}

    def lr(self) -> Tensor:
        """Return the schedule's learning rate of the current step, a scalar tensor."""
        return self._lr.index_select(0, self.index)[0]

    def ema_weight(self) -> Tensor:
        """Return the weight of the current weights in the average, a scalar tensor."""
        return self._ema_weight.index_select(0, self.index)[0]


@contextmanager
def _lr_on_device(state: TrainState, lr: Tensor) -> Iterator[None]:
    """Context in which learning rates are tensors on the device, read by each replay."""
    groups = state.optimizer.param_groups
    before = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
        if "capturable" in group:  # keep Adam's step counters on the device
            group["capturable"] = lr.is_cuda
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["lr"] = value


@contextmanager
def _restored(state: TrainState, tables: StepTables) -> Iterator[None]:
    """Restore in place what warm-up steps changed; tensors that they created become zero."""
    before = {name: each.clone() for name, each in _tensors(state).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in _tensors(state).items():
                if name in before:
                    tensor.copy_(before[name])
                else:
                    tensor.zero_()  # state of an optimizer that had not stepped yet
        state.optimizer.zero_grad(set_to_none=True)
        tables.start = None


def _tensors(state: TrainState) -> Mapping[str, Tensor]:
    """Return all tensors that a step changes, by name."""
    tensors = state.tensors()
    for kind, meter in (("interval", state.interval), ("epoch", state.epoch)):
        for name, each in meter.sums.items():
            tensors[f"{kind}/{name}"] = each
    return tensors
