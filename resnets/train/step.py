"""`TrainStep`: one update of the weights. `train.loop` calls it for each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from resnets.config import Recipe
from resnets.data import order
from resnets.data.batch import Batch
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import Losses, LossFn
from resnets.train.optim.optimizers import set_lr
from resnets.train.state import TrainState
from resnets.utils.errors import OutOfMemory, is_out_of_memory, within_memory
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.processes import process_lock


class PassOutOfMemory(OutOfMemory):
    """A forward or backward pass does not fit into memory; no weight was updated.

    reason: the message without advice.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; try --fit-memory, --set micro_batch=... or --set recompute=true"
        )
        self.reason = reason


@dataclass(frozen=True)
class TrainStep:
    """One update of the weights with this process's shard of a global batch: `step(batch)`.

    The gradient is that of the mean loss over the global batch, accumulated over micro-batches.

    Attributes:
        model: Calls `state.model`, or its compiled form.
        autocast: Context of the forward pass.
        on_gradients: Called after the backward pass, before gradients are clipped.

    Raises PassOutOfMemory during the passes, and OutOfMemory after them.
    """

    state: TrainState
    model: DataParallelModel
    loss_fn: LossFn
    autocast: torch.autocast
    recipe: Recipe
    on_gradients: Callable[[], None] | None = None

    def __call__(self, batch: Batch) -> None:
        """Update the weights once, and add the losses to the sums for the log."""
        state = self.state
        set_lr(state.optimizer, state.schedule.lr(state.step))
        state.freeze_schedule.apply(state.step)
        with self._update_in_memory():
            self.model.prepare()
        with process_lock:
            seed_step(self.recipe.seed, state.step, self.model.group, self.autocast.device)
            all_losses = self.update_weights(batch)
        with self._update_in_memory():
            state.step += 1
            if state.ema is not None:
                state.ema.update_parameters(state.model)
        for losses in all_losses:
            state.interval.add(losses.sums, losses.count)
            state.epoch.add(losses.sums, losses.count)
        if state.schedule.holding:  # warmup is held until the training error is low enough
            errors = sum(losses.sums["errors"].item() for losses in all_losses)
            errors = self.model.group.sum({"errors": errors})["errors"]
            state.schedule.observe_step(100 * errors / self.recipe.batch_size)

    def update_weights(self, batch: Batch) -> list[Losses]:
        """Run forward and backward passes and the optimizer; return the losses per micro-batch.

        All of it runs on the device, so that a CUDA graph can capture it (`train.cuda_graph`).
        """
        state = self.state
        all_losses = self.forward_backward(batch)
        with self._update_in_memory():
            self.model.update_running_stats(len(batch) / self.recipe.batch_size)
            if state.scaler is not None:
                state.scaler.unscale(state.model.parameters())
            if self.on_gradients is not None:
                self.on_gradients()
            if self.recipe.optim.clip_norm is not None:
                nn.utils.clip_grad_norm_(state.model.parameters(), self.recipe.optim.clip_norm)
            if state.scaler is None:
                state.optimizer.step()
            else:
                state.scaler.step(state.optimizer)
            state.optimizer.zero_grad(set_to_none=True)
        return all_losses

    def forward_backward(self, batch: Batch) -> list[Losses]:
        """Accumulate the gradients of `batch`; return the losses per micro-batch."""
        state, model, batch_size = self.state, self.model, self.recipe.batch_size
        all_losses: list[Losses] = []
        with self._passes_in_memory(len(batch)):
            for start, stop in micro_batch_slices(len(batch), state.micro_batch, self.recipe):
                micro_batch = batch.part(start, stop)
                with model.no_sync(more=stop < len(batch)):
                    with self.autocast:
                        losses = self.loss_fn(model, micro_batch)
                    # This is the micro-batch's part of the global mean; DDP averages over
                    # processes.
                    share = len(micro_batch) * model.group.world_size / batch_size
                    loss = losses.total if share == 1 else losses.total * share
                    (loss if state.scaler is None else state.scaler.scale_loss(loss)).backward()
                all_losses.append(losses)
        return all_losses

    @contextmanager
    def _passes_in_memory(self, count: int) -> Iterator[None]:
        """Context of the passes over `count` images; raises PassOutOfMemory if memory runs out."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error, self._device):
                raise
            size = min(self.state.micro_batch or count, count)
            raise PassOutOfMemory(
                f"out of memory at step {self.state.step + 1:,} with a micro-batch of {size} images"
            ) from None

    @contextmanager
    def _update_in_memory(self) -> Iterator[None]:
        """Context of the rest of a step; raises OutOfMemory if memory is exhausted."""
        with within_memory(
            f"no room for gradients and the optimizer's state at step {self.state.step + 1:,}",
            "use a smaller model, --set optim.kind=sgd, or --set optim.shard=true with several "
            "processes",
            self._device,
        ):
            yield

    @property
    def _device(self) -> torch.device:
        return next(self.state.model.parameters()).device


def micro_batch_slices(count: int, size: int, recipe: Recipe) -> list[tuple[int, int]]:
    """Return (start, stop) of the micro-batches of `size` of `count` images; 0 = one for all.

    Ghost batches (`recipe.norm_batch`) are not split.
    """
    unit = recipe.norm_batch or 1
    size = size // unit * unit or count
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def seed_step(seed: int, step: int, group: ProcessGroup, device: str) -> None:
    """Seed the random numbers of a step (dropout, sampled regions) with (seed, step, process).

    Seeds the generators of the CPU and of `device`: `torch.manual_seed` seeds those of all
    backends, and for each that was not initialized it formats a stack trace, a third of a ms.
    """
    number = int(order.random_bits(seed, group.rank, step, order.STREAM_STEP))
    torch.default_generator.manual_seed(number)
    if device == "cuda":
        torch.cuda.manual_seed(number)
    elif device == "mps":
        torch.mps.manual_seed(number)
