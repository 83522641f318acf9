"""One update of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnets.config import Recipe
from resnets.data import order
from resnets.data.batch import Batch
from resnets.train.data_parallel import DataParallelModel
from resnets.train.fit_memory import micro_batch_slices, passes_in_memory, update_in_memory
from resnets.train.loss import Losses, LossFn
from resnets.train.optim.optimizers import set_lr
from resnets.train.state import TrainState
from resnets.utils.distributed import ProcessGroup


def train_step(
    state: TrainState,
    model: DataParallelModel,
    loss_fn: LossFn,
    batch: Batch,
    autocast: torch.autocast,
    recipe: Recipe,
) -> None:
    """Update the weights once with this process's share `batch` of the global batch.

    The gradient is that of the global batch's mean loss, accumulated over micro-batches. Raises
    OutOfMemory; `fit_memory.with_oom_retry` wraps this function where micro-batches may shrink.
    """
    set_lr(state.optimizer, state.schedule.lr(state.step))
    state.freeze_schedule.apply(state.step)
    with update_in_memory(state):
        model.prepare()
    seed_step(recipe.seed, state.step, model.group)
    all_losses = update_weights(state, model, loss_fn, batch, autocast, recipe)
    with update_in_memory(state):
        state.step += 1
        if state.ema is not None:
            state.ema.update_parameters(state.model)
    _count(state, all_losses, model.group, recipe.batch_size)


def update_weights(
    state: TrainState,
    model: DataParallelModel,
    loss_fn: LossFn,
    batch: Batch,
    autocast: torch.autocast,
    recipe: Recipe,
) -> list[Losses]:
    """Forward and backward passes and the optimizer's step; the losses of each micro-batch.

    All of it runs on the device, so that a CUDA graph can hold it (`train.cuda_graph`).
    """
    all_losses: list[Losses] = []
    with passes_in_memory(state, model, len(batch)):
        for start, stop in micro_batch_slices(len(batch), state.micro_batch, recipe):
            micro_batch = batch.part(start, stop)
            with model.no_sync(more=stop < len(batch)):
                with autocast:
                    losses = loss_fn(model, micro_batch)
                count = len(micro_batch) * model.group.world_size  # DDP averages over processes
                loss = _scaled(losses.total, count, recipe.batch_size)
                (loss if state.scaler is None else state.scaler.scaled(loss)).backward()
            all_losses.append(losses)
    with update_in_memory(state):
        model.update_running_stats(len(batch) / recipe.batch_size)
        if state.scaler is not None:
            state.scaler.unscale(state.model.parameters())
        if recipe.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optim.clip_norm)
        if state.scaler is None:
            state.optimizer.step()
        else:
            state.scaler.step(state.optimizer)
        state.optimizer.zero_grad(set_to_none=True)
    return all_losses


def _count(
    state: TrainState, all_losses: list[Losses], group: ProcessGroup, batch_size: int
) -> None:
    """Add a step's losses to the log's sums and, while it waits for them, to the schedule's."""
    for losses in all_losses:
        state.interval.add(losses.sums, losses.count)
        state.epoch.add(losses.sums, losses.count)
    if state.schedule.holding:
        errors = sum(losses.sums["errors"].item() for losses in all_losses)
        errors = group.sum({"errors": errors})["errors"]
        state.schedule.observe_step(100 * errors / batch_size)


def _scaled(loss: Tensor, count: int, batch_size: int) -> Tensor:
    """A mean over `count` examples as its part of the batch's mean; bit-identical for all of it."""
    return loss if count == batch_size else loss * (count / batch_size)


def seed_step(seed: int, step: int, group: ProcessGroup) -> None:
    """Seed what a step draws at random (dropout, sampled regions) by (seed, step, process)."""
    torch.manual_seed(int(order.random_bits(seed, group.rank, step, order.STREAM_STEP)))
