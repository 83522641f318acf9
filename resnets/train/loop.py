"""The one loop. Classification, detection and segmentation differ in `loss_fn` and their data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import nn

from resnets.config import Recipe
from resnets.data import order
from resnets.data.batch import Batch
from resnets.data.timings import Timings
from resnets.train.clock import TIME, Clock
from resnets.train.log import RunLog
from resnets.train.loss import LossFn
from resnets.train.optim import set_rate
from resnets.train.state import Meter, Saver, TrainState
from resnets.train.stop import Stopped, StopSignals

# A mean loss this many times the first one is called divergence even while it is still finite.
DIVERGED = 20.0


Forward = Callable[..., torch.Tensor]
Evaluate = Callable[[nn.Module], dict[str, dict[str, float]]]


class Diverged(ValueError):  # noqa: N818  (the field's word)
    """The loss became NaN, infinite or absurd; the message says where and what to try."""


class Stream(Protocol):
    """An endless training stream over `examples` pictures; batch k depends on k and `total`."""

    @property
    def examples(self) -> int:
        """Pictures in one epoch."""
        ...

    @property
    def timings(self) -> Timings:
        """What its stages have spent so far."""
        ...

    @property
    def unreadable(self) -> int:
        """Pictures found unreadable so far; others take their place."""
        ...

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """Batches from number `start_step` on, of a run of `total` steps."""
        ...


def fit(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    loss_fn: LossFn,
    *,
    evaluate: Evaluate | None,
    minimise: str = "top1_error",
    forward: Forward,
    autocast: torch.autocast,
    log: RunLog,
    saver: Saver,
) -> None:
    """Train `state` in place up to the recipe's duration, or until `eval.patience` runs out.

    `evaluate(model)` gives figures by split, among them `minimise` in percent; only those of
    "val" decide anything (plateau, best checkpoint). None = nothing to measure.
    `forward` is `state.model` or its compiled form.
    Raises Diverged, and Stopped when a signal asked for it; both leave a good last checkpoint.
    """
    total = recipe.steps(recipe.duration, stream.examples)
    every = {
        "log": recipe.steps(recipe.log_every, stream.examples),
        "eval": recipe.steps(recipe.eval.every, stream.examples),
        "save": recipe.steps(recipe.checkpoint_every, stream.examples),
        "epoch": recipe.steps("1ep", stream.examples),
    }
    clock = Clock(stream.timings, state.seconds)
    guard = _Guard(saver)
    finished = state.step >= total or gave_up(state, recipe)
    with StopSignals() as signals:
        for batch in stream.batches(state.step, total) if not finished else ():
            if (total - state.step) % every["epoch"] == 0:
                state.epoch = Meter()  # counted back from the end: the last one is a whole epoch
            seed_step(recipe.seed, state.step)
            with clock.computing:
                train_step(state, forward, loss_fn, batch, autocast, recipe.optim.clip_norm)
            done = state.step == total
            row_due = done or state.step % every["log"] == 0
            epoch_over = done or state.step % every["epoch"] == 0
            clock.stepped(state.interval if row_due or epoch_over else None)
            log.tick(state.step)
            if row_due:
                _log_interval(state, recipe, stream, log, guard, clock)
            if epoch_over:
                epoch = state.step * recipe.batch_size / stream.examples
                log.write({"kind": TIME, "step": state.step, "epoch": epoch, **clock.epoch_row()})
            if evaluate is not None and (done or state.step % every["eval"] == 0):
                _evaluate(state, recipe, stream.examples, evaluate, minimise, log, saver)
                done = done or gave_up(state, recipe)
            if done or signals.received or state.step % every["save"] == 0:
                guard.check(state)
                state.seconds = clock.total()
                path = saver.save_last(state)
            if done:
                return
            if signals.received:
                raise Stopped(f"stopped at step {state.step:,}; saved {path}", signals.exit_code)
            clock.next()


def seed_step(seed: int, step: int) -> None:
    """Make what a step draws at random (dropout, sampled regions) a function of (seed, step)."""
    torch.manual_seed(int(order.random_bits(seed, 0, step, order.STREAM_STEP)))


def train_step(
    state: TrainState,
    forward: Forward,
    loss_fn: LossFn,
    batch: Batch,
    autocast: torch.autocast,
    clip_norm: float | None,
) -> None:
    """One update of the weights."""
    set_rate(state.optimizer, state.schedule.lr(state.step))
    state.tuning.begin(state.step)
    with autocast:
        losses = loss_fn(forward, batch)
    losses.total.backward()
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.interval.add(losses.sums, losses.count)
    state.epoch.add(losses.sums, losses.count)
    if state.schedule.holding:
        state.schedule.observe_step(100 * losses.sums["errors"].item() / losses.count)


def _log_interval(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    log: RunLog,
    guard: _Guard,
    clock: Clock,
) -> None:
    guard.check(state)
    spent = clock.lap("row")
    steps, seconds = max(1, spent.steps), max(1e-9, spent.seconds)
    log.write(
        {
            "kind": "train",
            "step": state.step,
            "epoch": state.step * recipe.batch_size / stream.examples,
            **state.interval.means(),
            "lr": state.optimizer.param_groups[0]["lr"],
            "images_per_second": steps * recipe.batch_size / seconds,
            "seconds_per_step": seconds / steps,
            "waiting_for_data": spent.waiting / seconds,
            "unreadable": stream.unreadable,
        }
    )
    state.interval = Meter()


def _evaluate(
    state: TrainState,
    recipe: Recipe,
    examples: int,
    evaluate: Evaluate,
    minimise: str,
    log: RunLog,
    saver: Saver,
) -> None:
    measured = evaluate(state.eval_model)
    epoch = state.step * recipe.batch_size / examples
    for split, figures in measured.items():
        log.write({"kind": split, "step": state.step, "epoch": epoch, **figures})
    if "val" in measured:
        error = measured["val"][minimise]
        improved = error < state.schedule.best_error
        state.schedule.observe_evaluation(error)
        state.stale = 0 if improved else state.stale + 1
        if improved:
            saver.save_best(state)
    if gave_up(state, recipe):
        log.say(
            f"stopped early at step {state.step:,}: eval.patience={state.stale} without a lower "
            f"{minimise} on validation; the lowest was {state.schedule.best_error:.2f}%"
        )


def gave_up(state: TrainState, recipe: Recipe) -> bool:
    """Whether `eval.patience` has run out."""
    return recipe.eval.patience is not None and state.stale >= recipe.eval.patience


class _Guard:
    """Stops a run whose loss is no longer a number one can train on."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver
        self.first: float | None = None

    def check(self, state: TrainState) -> None:
        """Raise Diverged when the mean loss since the last row is not finite, or absurd."""
        if state.interval.count == 0:
            return
        loss = state.interval.means()["loss"]
        self.first = loss if self.first is None else self.first
        if math.isfinite(loss) and loss <= DIVERGED * max(1.0, self.first):
            return
        last = self.saver.folder / "last.safetensors"
        kept = f"last good checkpoint: {last}" if last.exists() else "no checkpoint written yet"
        raise Diverged(
            f"the loss is {loss:.3g} at step {state.step:,}; {kept}; try a lower rate (--set "
            "optim.lr=...), a longer warm-up (--set schedule.warmup=0.05), clipping (--set "
            "optim.clip_norm=1) or --set precision=float32"
        )
