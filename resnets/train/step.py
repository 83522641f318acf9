"""One update of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnets.config import Recipe
from resnets.data import order
from resnets.data.batch import Batch
from resnets.train.data_parallel import DataParallelModel
from resnets.train.fit_memory import micro_batch_slices, outside_passes, run_with_oom_retry
from resnets.train.loss import Losses, LossFn
from resnets.train.optim.optimizers import set_rate
from resnets.train.state import TrainState
from resnets.utils.distributed import ProcessGroup


def seed_step(seed: int, step: int, rank: ProcessGroup) -> None:
    """Let (seed, step, rank) decide what a step draws at random (dropout, sampled regions)."""
    torch.manual_seed(int(order.random_bits(seed, rank.index, step, order.STREAM_STEP)))


def train_step(
    state: TrainState,
    forward: DataParallelModel,
    loss_fn: LossFn,
    batch: Batch,
    autocast: torch.autocast,
    recipe: Recipe,
) -> None:
    """One update of the weights by this process's `batch`, micro-batch by micro-batch."""
    set_rate(state.optimizer, state.schedule.lr(state.step))
    state.tuning.begin(state.step)

    def gradients() -> list[Losses]:
        return _gradients(state, forward, loss_fn, batch, autocast, recipe)

    found = run_with_oom_retry(gradients, state, forward, recipe, len(batch))
    forward.update_running_stats(len(batch) / recipe.batch_size)
    with outside_passes(state):
        if recipe.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optim.clip_norm)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if state.ema is not None:
            state.ema.update_parameters(state.model)
    for losses in found:
        state.interval.add(losses.sums, losses.count)
        state.epoch.add(losses.sums, losses.count)
    if state.schedule.holding:
        wrong = sum(losses.sums["errors"].item() for losses in found)
        wrong = forward.rank.sum({"errors": wrong})["errors"]
        state.schedule.observe_step(100 * wrong / recipe.batch_size)


def _gradients(
    state: TrainState,
    forward: DataParallelModel,
    loss_fn: LossFn,
    batch: Batch,
    autocast: torch.autocast,
    recipe: Recipe,
) -> list[Losses]:
    """Add up the gradients of the global batch's mean loss; the losses of each micro-batch."""
    found: list[Losses] = []
    seed_step(recipe.seed, state.step, forward.rank)
    for start, stop in micro_batch_slices(len(batch), state.micro_batch, recipe):
        part = batch.part(start, stop)
        with forward.no_sync(more=stop < len(batch)):
            with autocast:
                losses = loss_fn(forward, part)
            _weighted(
                losses.total, len(part) * forward.rank.world_size, recipe.batch_size
            ).backward()
        found.append(losses)
    return found


def _weighted(mean: Tensor, count: int, of: int) -> Tensor:
    """A mean's share in the whole batch's; itself, to the bit, where it is all of it."""
    return mean if count == of else mean * (count / of)
