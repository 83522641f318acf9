"""Find the largest micro-batch that fits into memory; the global batch size does not change."""

from __future__ import annotations

import gc
import logging

import torch
from torch import Tensor, nn

from resnets.config import Recipe
from resnets.data.batch import Batch
from resnets.train.state import TrainState
from resnets.train.step import PassOutOfMemory, TrainStep
from resnets.utils.errors import OutOfMemory
from resnets.utils.machine import environment

log = logging.getLogger("resnets")


class FitMemoryStep:
    """A `TrainStep` that halves `state.micro_batch` until its passes fit into memory.

    With several processes only the first batch is probed: each process probes it before any
    exchange, and all use the smallest resulting size, because a process that failed later would
    leave the others waiting. Larger memory needs of later steps are not detected: larger batches,
    DDP's buckets, the optimizer's state.
    """

    def __init__(self, step: TrainStep) -> None:
        self._step = step
        self._is_probed = False

    def __call__(self, batch: Batch) -> None:
        """Update the weights once; raises OutOfMemory if not even a single image fits."""
        state = self._step.state
        if self._step.model.group.world_size > 1:
            self._step_in_group(batch)
            return
        while True:
            buffers = _copy_buffers(state.model)
            try:
                self._step(batch)
                return
            except PassOutOfMemory:
                _undo_pass(state.model, buffers)
            _halve_micro_batch(state, self._step.recipe, len(batch))

    def _step_in_group(self, batch: Batch) -> None:
        if not self._is_probed:
            self._probe(batch)
            self._is_probed = True
        try:
            self._step(batch)
        except PassOutOfMemory as error:
            raise OutOfMemory(
                f"{error.reason}; --fit-memory only probes the first batch of an attempt: continue"
                " with --resume and --fit-memory, or set a smaller --set micro_batch=... or --set"
                " recompute=true"
            ) from None

    def _probe(self, batch: Batch) -> None:
        """Find the micro-batch whose passes fit in every process, before any exchange."""
        step, state = self._step, self._step.state
        state.freeze_schedule.apply(state.step)
        buffers = _copy_buffers(state.model)
        failed = True
        while failed:
            try:
                step.forward_backward(batch)
                failed = False
            except PassOutOfMemory:
                failed = True
            _undo_pass(state.model, buffers)  # the step itself follows
            failed = step.model.group.any(failed)
            if failed:
                _halve_micro_batch(state, step.recipe, len(batch))


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


def _undo_pass(model: nn.Module, buffers: list[tuple[Tensor, Tensor]]) -> None:
    """Delete gradients, restore buffers, and release cached memory."""
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    gc.collect()
    environment.release_cached_memory()


def _copy_buffers(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.clone()) for buffer in model.buffers()]
