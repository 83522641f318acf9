"""The one loop. Classification, detection and segmentation differ in `loss_fn` and their data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import nn

from resnets.config import Recipe
from resnets.data.batch import Batch
from resnets.train.log import RunLog
from resnets.train.loss import LossFn
from resnets.train.state import Meter, Saver, TrainState
from resnets.train.stop import Stopped, StopSignals

# A mean loss this many times the first one is called divergence even while it is still finite.
DIVERGED = 20.0


Forward = Callable[..., torch.Tensor]
Evaluate = Callable[[nn.Module], dict[str, dict[str, float]]]


class Diverged(ValueError):  # noqa: N818  (the field's word)
    """The loss became NaN, infinite or absurd; the message says where and what to try."""


class Stream(Protocol):
    """An endless training stream over `examples` pictures whose batch k depends on k alone."""

    @property
    def examples(self) -> int:
        """Pictures in one epoch."""
        ...

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches from number `start_step` on."""
        ...


def fit(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    loss_fn: LossFn,
    *,
    evaluate: Evaluate | None,
    forward: Forward,
    autocast: torch.autocast,
    log: RunLog,
    saver: Saver,
) -> None:
    """Train `state` in place up to the recipe's duration.

    `evaluate(model)` gives figures by split, among them `top1_error` in percent; only those of
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
    clock = _Clock(state.seconds)
    guard = _Guard(saver)
    with StopSignals() as signals:
        for batch in stream.batches(state.step) if state.step < total else ():
            clock.fetched()
            if (total - state.step) % every["epoch"] == 0:
                state.epoch = Meter()  # counted back from the end: the last one is a whole epoch
            train_step(state, forward, loss_fn, batch, autocast, recipe.optim.clip_norm)
            done = state.step == total
            row_due = done or state.step % every["log"] == 0
            clock.computed(state.interval if row_due else None)
            log.tick(state.step)
            if row_due:
                _log_interval(state, recipe, stream.examples, log, guard, clock)
            if evaluate is not None and (done or state.step % every["eval"] == 0):
                _evaluate(state, recipe, stream.examples, evaluate, log, saver)
            if done or signals.received or state.step % every["save"] == 0:
                guard.check(state)
                state.seconds = clock.total()
                path = saver.save_last(state)
            if done:
                return
            if signals.received:
                raise Stopped(f"stopped at step {state.step:,}; saved {path}", signals.exit_code)
            clock.next()


def train_step(
    state: TrainState,
    forward: Forward,
    loss_fn: LossFn,
    batch: Batch,
    autocast: torch.autocast,
    clip_norm: float | None,
) -> None:
    """One update of the weights."""
    rate = state.schedule.lr(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.model.train()
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
    examples: int,
    log: RunLog,
    guard: _Guard,
    clock: _Clock,
) -> None:
    guard.check(state)
    steps = max(1, clock.steps)
    log.write(
        {
            "kind": "train",
            "step": state.step,
            "epoch": state.step * recipe.batch_size / examples,
            **state.interval.means(),
            "lr": state.optimizer.param_groups[0]["lr"],
            "images_per_second": steps * recipe.batch_size / max(1e-9, clock.busy),
            "seconds_per_step": clock.busy / steps,
            "waiting_for_data": clock.waiting / max(1e-9, clock.busy),
        }
    )
    state.interval = Meter()
    clock.new_interval()


def _evaluate(
    state: TrainState,
    recipe: Recipe,
    examples: int,
    evaluate: Evaluate,
    log: RunLog,
    saver: Saver,
) -> None:
    measured = evaluate(state.eval_model)
    epoch = state.step * recipe.batch_size / examples
    for split, figures in measured.items():
        log.write({"kind": split, "step": state.step, "epoch": epoch, **figures})
    if "val" in measured:
        error = measured["val"]["top1_error"]
        improved = error < state.schedule.best_error
        state.schedule.observe_evaluation(error)
        if improved:
            saver.save_best(state)


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


class _Clock:
    """Seconds spent waiting for data and computing, per log interval and in all."""

    def __init__(self, before: float) -> None:
        self._all, self._mark = before, time.perf_counter()
        self.new_interval()

    def new_interval(self) -> None:
        """Start counting anew for the next row."""
        self.steps, self.busy, self.waiting = 0, 0.0, 0.0

    def next(self) -> None:
        """Evaluation and checkpoints are over; the next step begins."""
        self._mark = time.perf_counter()

    def fetched(self) -> None:
        """The batch of this step is here."""
        self.waiting += time.perf_counter() - self._mark

    def computed(self, wait_for: Meter | None) -> None:
        """A step is over; with `wait_for`, the device is too (reading a sum waits for it)."""
        if wait_for is not None:
            wait_for.means()
        spent = time.perf_counter() - self._mark
        self.busy += spent
        self._all += spent
        self.steps += 1

    def total(self) -> float:
        """Training seconds of the whole run, evaluation and checkpoints not counted."""
        return self._all
