"""The micro-batch that fits into memory, found by trying; the global batch stays as it is."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from resnets.config import Recipe
from resnets.train.data_parallel import DataParallelModel
from resnets.train.state import TrainState
from resnets.utils import environment

T = TypeVar("T")
log = logging.getLogger("resnets")

# What is said besides raising torch.OutOfMemoryError: by allocators of CPUs, by cuBLAS and cuDNN,
# and by oneDNN, which does not name its reason.
SAID = (
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "out of memory",
    "could not create a primitive",
)


# The trial of several processes was passed.
LATER = (
    "--fit-memory tries the first batch of an attempt alone: go on with --resume and --fit-memory, "
    "or begin with a smaller --set micro_batch=... or "
)


class OutOfMemory(ValueError):  # noqa: N818  (what it says)
    """A step that does not fit into memory, and cannot or may not be made smaller."""


def micro_batch_slices(count: int, size: int, recipe: Recipe) -> list[tuple[int, int]]:
    """Where micro-batches of `size` of `count` pictures start and stop; ghost batches stay whole.

    0 = all at once.
    """
    unit = recipe.norm_batch or 1
    size = size // unit * unit or count
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def run_with_oom_retry(
    gradients: Callable[[], T],
    state: TrainState,
    forward: DataParallelModel,
    recipe: Recipe,
    count: int,
) -> T:
    """`gradients()` of `count` pictures, with `state.micro_batch` halved until they fit.

    Without `forward.fits_memory` what does not fit raises TooBig. In several processes only the
    first batch is tried, by each of them alone before they exchange anything, and the least size
    of all is taken; a process that fails later would leave the others waiting. So what comes later
    is not seen: larger batches, the buffers of the exchange, the optimizer's state.
    """
    if forward.rank.world_size > 1 and forward.fits_memory:
        kept = _statistics(state.model)
        while True:
            failed = _attempt(gradients) is None
            _let_go(state.model, kept)  # a trial only: the step itself is yet to come
            if not forward.rank.any(failed):
                break
            _halve(state, recipe, count)
        forward.fits_memory, forward.tried = False, True
    with outside_passes(state):
        forward.begin()
    while True:
        kept = _statistics(state.model) if forward.fits_memory else []
        found = _attempt(gradients)
        if found is not None:
            return found
        _let_go(state.model, kept)
        if not forward.fits_memory:
            many = min(state.micro_batch or count, count)
            raise OutOfMemory(
                f"out of memory at step {state.step + 1:,}, with {many} pictures in one pass; "
                + (LATER if forward.tried else "try --fit-memory, --set micro_batch=... or ")
                + "--set recompute=true"
            )
        _halve(state, recipe, count)


@contextmanager
def outside_passes(state: TrainState) -> Iterator[None]:
    """Context of all else in a step: raises TooBig where memory runs out there."""
    step = state.step + 1
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory at step {step:,}, outside the forward and backward pass: no room for "
            "gradients and the optimizer's state; take a smaller net, --set optim.kind=sgd, or "
            "--set optim.shard=true with several processes"
        ) from None


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator said so."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        said in str(error) for said in SAID
    )


def _attempt(gradients: Callable[[], T]) -> T | None:
    """`gradients()`, which are never None; None where memory ran out."""
    try:
        return gradients()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None


def _halve(state: TrainState, recipe: Recipe, count: int) -> None:
    """Half the size, in whole ghost batches."""
    unit, before = recipe.norm_batch or 1, min(state.micro_batch or count, count)
    state.micro_batch = before // 2 // unit * unit
    if not state.micro_batch:
        raise OutOfMemory(
            f"out of memory even with {before} picture{'s' if before > 1 else ''} in one pass; "
            "take a smaller net or smaller pictures, or --set recompute=true"
        )
    log.info("out of memory: %d pictures in one pass from here on", state.micro_batch)


def _let_go(net: nn.Module, kept: list[tuple[Tensor, Tensor]]) -> None:
    """Forget a step that failed: gradients, moved statistics, memory kept for reuse."""
    net.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)
    gc.collect()
    environment.give_back_pages()


def _statistics(net: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.clone()) for buffer in net.buffers()]
