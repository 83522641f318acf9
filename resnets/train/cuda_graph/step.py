"""The step as a CUDA graph: captured once for each image size, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from resnets.config import Recipe
from resnets.data.batch import Batch
from resnets.data.loading.loader import TrainStream
from resnets.data.timings import Timings
from resnets.train.cuda_graph.capture import Capture, compiled_blocks
from resnets.train.cuda_graph.tables import StepTables
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import LossFn
from resnets.train.optim.optimizers import set_lr
from resnets.train.state import TrainState
from resnets.train.step import train_step, update_weights

STEPS_PER_TABLE = 512


class GraphBatch(Batch):
    """Stands for a batch that the graph makes itself; it has no images."""


class GraphTraining:
    """The stream and the step of a run whose steps are replays of CUDA graphs.

    Batches are those of `stream` to the bit: draws of `STEPS_PER_TABLE` steps at once lie on the
    device (`StepTables`). A graph makes the batch, and does the forward and backward passes, the
    optimizer's step, the averaged weights and the sums for the log. Losses equal those of
    `train_step` within rounding: the learning rate is float32 on the device.

    While the schedule is held (`hold_until_error`) its next rate depends on the last loss, so
    those steps are `train_step`'s. `total`: steps of the run. `compile_blocks`: the graph holds
    compiled blocks. `capture` turns the body of a step into a function that replays it.
    Raises RuntimeError if a step cannot be captured; state and model are then as before.
    """

    def __init__(
        self,
        state: TrainState,
        model: DataParallelModel,
        loss_fn: LossFn,
        stream: TrainStream,
        autocast: torch.autocast,
        recipe: Recipe,
        total: int,
        *,
        compile_blocks: bool = False,
        capture: Capture,
    ) -> None:
        self._state, self._model, self._loss_fn = state, model, loss_fn
        self._stream, self._autocast, self._recipe = stream, autocast, recipe
        self._total = total
        self._tables = StepTables(stream, STEPS_PER_TABLE)
        state.freeze_schedule.apply(state.step)
        model.prepare()
        sizes = sorted({stream.size_at(step, total) for step in range(state.step, total)})
        self._replay: dict[int, Callable[[], None]] = {}
        blocks = compiled_blocks(state.model, compile_blocks)
        with _restored(state, self._tables), blocks as self._compiled:
            self._tables.fill(state)
            for size in sizes:
                self._replay[size] = capture(partial(self._body, size), stream.device)

    @property
    def examples(self) -> int:
        """Images per epoch."""
        return self._stream.examples

    @property
    def timings(self) -> Timings:
        """Time spent by the stages of the ordinary stream; a graph's are all "computing"."""
        return self._stream.timings

    @property
    def unreadable(self) -> Collection[int]:
        """Indices of unreadable images; none of a set in memory."""
        return self._stream.unreadable

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """The stream's batches while the schedule is held, then `GraphBatch`es without end."""
        held = self._stream.batches(start_step, total)
        while self._state.schedule.holding:
            yield next(held)
        nothing = torch.empty(0)
        while True:
            yield GraphBatch(nothing, nothing, nothing)

    def step(
        self,
        state: TrainState,
        model: DataParallelModel,
        loss_fn: LossFn,
        batch: Batch,
        autocast: torch.autocast,
        recipe: Recipe,
    ) -> None:
        """One update of the weights, in the place of `train_step`."""
        if not isinstance(batch, GraphBatch):
            train_step(state, model, loss_fn, batch, autocast, recipe)
            return
        self.replay()

    def replay(self) -> None:
        """The next step of the run, on the current stream of the device."""
        state, tables = self._state, self._tables
        if not tables.holds(state):
            tables.fill(state)
        set_lr(state.optimizer, state.schedule.lr(state.step))  # for the log
        self._replay[self._stream.size_at(state.step, self._total)]()
        state.step += 1
        if state.ema is not None:
            state.ema.n_averaged += 1
        for meter in (state.interval, state.epoch):
            meter.count += self._recipe.batch_size

    def _body(self, size: int) -> None:
        """What the graph holds."""
        state, tables = self._state, self._tables
        batch = self._stream.batch_at(size=size, **tables.draws())
        with _lr_on_device(state, tables.lr()):
            all_losses = update_weights(
                state, self._model, self._loss_fn, batch, self._autocast, self._recipe
            )
        if state.ema is not None:
            state.ema.move(state.model, tables.ema_weight())
        for losses in all_losses:
            for meter in (state.interval, state.epoch):
                meter.add(losses.sums, 0)  # counted by `replay`
        tables.index.add_(1)


@contextmanager
def _lr_on_device(state: TrainState, lr: Tensor) -> Iterator[None]:
    """The optimizer's learning rates as tensors on the device, which a graph reads at each step."""
    groups = state.optimizer.param_groups
    before = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
        if "capturable" in group:  # Adam's counters of steps lie on the device
            group["capturable"] = lr.is_cuda
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["lr"] = value


@contextmanager
def _restored(state: TrainState, tables: StepTables) -> Iterator[None]:
    """Undo, in place, what warm-up steps changed; what they added becomes zero."""
    before = {name: each.clone() for name, each in _tensors(state).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in _tensors(state).items():
                if name in before:
                    tensor.copy_(before[name])
                else:
                    tensor.zero_()  # moments and counters of an optimizer that had not begun
        state.optimizer.zero_grad(set_to_none=True)
        tables.start = None


def _tensors(state: TrainState) -> Mapping[str, Tensor]:
    """All tensors that a step changes, by name."""
    tensors = {f"model/{name}": each for name, each in state.model.state_dict().items()}
    for number, slots in enumerate(state.optimizer.state.values()):
        for name, each in slots.items():
            if isinstance(each, Tensor):
                tensors[f"optim/{number}/{name}"] = each
    if state.ema is not None:
        for name, each in state.ema.module.state_dict().items():
            tensors[f"ema/{name}"] = each
    if state.scaler is not None:
        for name, each in state.scaler.state_tensors().items():
            tensors[f"scaler/{name}"] = each
    for kind, meter in (("interval", state.interval), ("epoch", state.epoch)):
        for name, each in meter.sums.items():
            tensors[f"{kind}/{name}"] = each
    return tensors
