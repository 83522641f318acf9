"""Find the largest micro-batch that fits into memory; the global batch size does not change."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnets.config import Recipe
from resnets.data.batch import Batch
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import LossFn
from resnets.train.state import TrainState
from resnets.utils import environment
from resnets.utils.errors import OutOfMemory, is_out_of_memory, within_memory

Step = Callable[
    [TrainState, DataParallelModel, LossFn, Batch, torch.autocast, Recipe], None
]  # `train_step`
log = logging.getLogger("resnets")

# With several processes, once the first batch fitted.
PROBED_HINT = (
    "--fit-memory only probes the first batch of an attempt: continue with --resume and "
    "--fit-memory, or set a smaller --set micro_batch=... or "
)


class PassOutOfMemory(OutOfMemory):
    """A forward or backward pass does not fit; nothing was updated yet."""


def micro_batch_slices(count: int, size: int, recipe: Recipe) -> list[tuple[int, int]]:
    """(start, stop) of micro-batches of `size` out of `count` images; 0 = all at once.

    Ghost batches are not divided.
    """
    unit = recipe.norm_batch or 1
    size = size // unit * unit or count
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def with_oom_retry(step: Step) -> Step:
    """`step` (`train_step`) that halves `state.micro_batch` until its passes fit into memory.

    With several processes only the first batch is probed, in each process before any exchange, and
    the smallest size of all is used: a process that failed later would leave the others waiting.
    Later needs are not seen: larger batches, DDP's buckets, the optimizer's state.
    """

    def step_that_fits(
        state: TrainState,
        model: DataParallelModel,
        loss_fn: LossFn,
        batch: Batch,
        autocast: torch.autocast,
        recipe: Recipe,
    ) -> None:
        if model.group.world_size > 1:
            if not model.probed:
                _probe(state, model, loss_fn, batch, autocast, recipe)
            step(state, model, loss_fn, batch, autocast, recipe)
            return
        while True:
            buffers = _copy_buffers(state.model)
            try:
                step(state, model, loss_fn, batch, autocast, recipe)
                return
            except PassOutOfMemory:
                _undo(state.model, buffers)
            _halve_micro_batch(state, recipe, len(batch))

    return step_that_fits


def _probe(
    state: TrainState,
    model: DataParallelModel,
    loss_fn: LossFn,
    batch: Batch,
    autocast: torch.autocast,
    recipe: Recipe,
) -> None:
    """Find the micro-batch whose passes fit in every process, before any of them exchanges data."""
    state.freeze_schedule.apply(state.step)
    buffers = _copy_buffers(state.model)
    failed = True
    while failed:
        try:
            with passes_in_memory(state, model, len(batch)):
                for start, stop in micro_batch_slices(len(batch), state.micro_batch, recipe):
                    with autocast:
                        losses = loss_fn(model, batch.part(start, stop))
                    losses.total.backward()
            failed = False
        except PassOutOfMemory:
            failed = True
        _undo(state.model, buffers)  # only a probe: the step itself is still to come
        failed = model.group.any(failed)
        if failed:
            _halve_micro_batch(state, recipe, len(batch))
    model.probed = True


@contextmanager
def passes_in_memory(state: TrainState, model: DataParallelModel, count: int) -> Iterator[None]:
    """Context of a step's passes over `count` images: raises PassOutOfMemory if memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = min(state.micro_batch or count, count)
        raise PassOutOfMemory(
            f"out of memory at step {state.step + 1:,} with a micro-batch of {size} images; "
            + (PROBED_HINT if model.probed else "try --fit-memory, --set micro_batch=... or ")
            + "--set recompute=true"
        ) from None


@contextmanager
def update_in_memory(state: TrainState) -> Iterator[None]:
    """Context of the rest of a step: raises OutOfMemory if memory runs out; it is not retried."""
    with within_memory(
        f"no room for gradients and the optimizer's state at step {state.step + 1:,}",
        "use a smaller model, --set optim.kind=sgd, or --set optim.shard=true with several "
        "processes",
    ):
        yield


def _halve_micro_batch(state: TrainState, recipe: Recipe, count: int) -> None:
    """Halve the micro-batch, rounded down to whole ghost batches."""
    unit, before = recipe.norm_batch or 1, min(state.micro_batch or count, count)
    state.micro_batch = before // 2 // unit * unit
    if not state.micro_batch:
        raise OutOfMemory(
            f"out of memory with a micro-batch of {before} image{'s' if before > 1 else ''}; "
            "use a smaller model or smaller images, or --set recompute=true"
        )
    log.info("out of memory: using micro-batches of %d images from here on", state.micro_batch)


def _undo(model: nn.Module, buffers: list[tuple[Tensor, Tensor]]) -> None:
    """Undo a failed pass: drop gradients, restore buffers, release cached memory."""
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    gc.collect()
    environment.release_cached_memory()


def _copy_buffers(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.clone()) for buffer in model.buffers()]
