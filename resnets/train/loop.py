"""The one loop. Classification, detection and segmentation differ in `loss_fn` and their data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

import torch
from torch import nn

from resnets.config import Recipe
from resnets.data.batch import Batch
from resnets.data.timings import Timings
from resnets.train.data_parallel import DataParallelModel
from resnets.train.guards.divergence import CURES, Diverged
from resnets.train.guards.interrupt import Interrupted, StopSignals
from resnets.train.guards.watchdog import Watchdog
from resnets.train.log import NoLog, RunLog
from resnets.train.loss import LossFn
from resnets.train.state import Meter, Saver, TrainState
from resnets.train.step import train_step
from resnets.train.timing import TIME, StepTimer
from resnets.utils.distributed import ProcessGroup

# A mean loss this many times the first one is called divergence even while it is still finite.
DIVERGED = 20.0


Evaluate = Callable[[nn.Module], dict[str, dict[str, float]]]


class Stream(Protocol):
    """An endless training stream over `examples` pictures; batch k depends on k and `total`.

    Of each batch it gives this process's part.
    """

    @property
    def examples(self) -> int:
        """Pictures in one epoch."""
        ...

    @property
    def timings(self) -> Timings:
        """What its stages have spent so far."""
        ...

    @property
    def unreadable(self) -> Collection[int]:
        """Rows of pictures found unreadable so far; others take their place."""
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
    monitor: str = "top1_error",
    forward: DataParallelModel,
    autocast: torch.autocast,
    log: RunLog | NoLog,
    saver: Saver,
    hang_after: float = 0.0,
) -> None:
    """Train `state` in place up to the recipe's duration, or until `eval.patience` runs out.

    `evaluate(model)` gives figures by split, among them `monitor` in percent; only those of
    "val" decide anything (plateau, best checkpoint). None = nothing to measure.
    `forward` calls `state.model` or its compiled form, and knows the other processes. The first
    of them alone writes. A step that takes longer than `hang_after` seconds ends the process.
    Raises Diverged, RankLost, and Stopped when a signal asked for it; all leave a good last
    checkpoint.
    """
    rank = forward.rank
    total = recipe.steps(recipe.duration, stream.examples)
    every = {
        "log": recipe.steps(recipe.log_every, stream.examples),
        "eval": recipe.steps(recipe.eval.every, stream.examples),
        "save": recipe.steps(recipe.checkpoint_every, stream.examples),
        "epoch": recipe.steps("1ep", stream.examples),
    }
    clock = StepTimer(stream.timings, state.seconds)
    guard = DivergenceCheck(saver, rank)
    watchdog = Watchdog(hang_after, lambda: _hung(state, saver, rank, hang_after))
    finished = state.step >= total or gave_up(state, recipe)
    with StopSignals() as signals, watchdog, rank.lost(lambda: _where(state, saver)):
        batches: Iterable[Batch] = stream.batches(state.step, total) if not finished else ()
        for batch in signals.waiting_for(batches) if rank.world_size == 1 else batches:
            if (total - state.step) % every["epoch"] == 0:
                state.epoch = Meter()  # counted back from the end: the last one is a whole epoch
            with clock.computing:
                train_step(state, forward, loss_fn, batch, autocast, recipe)
            watchdog.beat()
            stopping = rank.any(signals.received is not None or log.failed is not None)
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
                guard.check(state)  # what is measured may become the best
                watchdog.rest()
                _evaluate(state, recipe, stream.examples, evaluate, monitor, log, saver, rank)
                watchdog.beat()
                done = done or gave_up(state, recipe)
            if done or stopping or state.step % every["save"] == 0:
                guard.check(state)
                state.seconds = clock.total()
                state.meet(rank)
                if rank.is_main:
                    saver.save_last(state, final=done or stopping)
            if done and log.failed is None:
                return
            if log.failed is not None and (done or stopping):
                raise ValueError(
                    f"{log.failed}; stopped at step {state.step:,}, {saver.last_good()}; free"
                    " space and go on with --resume"
                )
            if stopping:  # perhaps another process was asked, or cannot write its rows
                raise _stopped(state, saver, signals)
            clock.next()
        if signals.received is not None and not finished:  # while waiting for a batch
            guard.check(state)
            state.seconds = clock.total()
            saver.save_last(state, final=True)
            raise _stopped(state, saver, signals)


def _stopped(state: TrainState, saver: Saver, signals: StopSignals) -> Interrupted:
    return Interrupted(f"stopped at step {state.step:,}; saved {saver.path}", signals.exit_code)


def _log_interval(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    log: RunLog | NoLog,
    guard: DivergenceCheck,
    clock: StepTimer,
) -> None:
    means = guard.check(state)
    unreadable = stream.unreadable
    if guard.rank.any(bool(unreadable)):  # several processes may have met the same
        unreadable = set(guard.rank.gather(list(unreadable)))
    spent = clock.lap("row")
    steps, seconds = max(1, spent.steps), max(1e-9, spent.seconds)
    log.write(
        {
            "kind": "train",
            "step": state.step,
            "epoch": state.step * recipe.batch_size / stream.examples,
            **means,
            "lr": state.optimizer.param_groups[0]["lr"],
            "images_per_second": steps * recipe.batch_size / seconds,
            "seconds_per_step": seconds / steps,
            "waiting_for_data": spent.waiting / seconds,
            "unreadable": len(unreadable),
        }
    )
    state.interval = Meter()


def _evaluate(
    state: TrainState,
    recipe: Recipe,
    examples: int,
    evaluate: Evaluate,
    monitor: str,
    log: RunLog | NoLog,
    saver: Saver,
    rank: ProcessGroup,
) -> None:
    measured = evaluate(state.eval_model)
    epoch = state.step * recipe.batch_size / examples
    for split, figures in measured.items():
        log.write({"kind": split, "step": state.step, "epoch": epoch, **figures})
    if "val" in measured:
        error = measured["val"][monitor]
        improved = error < state.schedule.best_error
        state.schedule.observe_evaluation(error)
        state.stale = 0 if improved else state.stale + 1
        if improved and rank.is_main:
            saver.save_best(state)
    if gave_up(state, recipe):
        log.say(
            f"stopped early at step {state.step:,}: eval.patience={state.stale} without a lower "
            f"{monitor} on validation; the lowest was {state.schedule.best_error:.2f}%"
        )


def gave_up(state: TrainState, recipe: Recipe) -> bool:
    """Whether `eval.patience` has run out."""
    return recipe.eval.patience is not None and state.stale >= recipe.eval.patience


class DivergenceCheck:
    """Stops a run whose loss is no longer a number one can train on."""

    def __init__(self, saver: Saver, rank: ProcessGroup) -> None:
        self.saver, self.rank = saver, rank
        self.first: float | None = None

    def check(self, state: TrainState) -> dict[str, float]:
        """Means since the last row; raises Diverged when the loss is not finite, or absurd."""
        means = state.interval.means(self.rank)
        if "loss" not in means:
            return means
        loss = means["loss"]
        self.first = loss if self.first is None else self.first
        if math.isfinite(loss) and loss <= DIVERGED * max(1.0, self.first):
            return means
        good = self.saver.last_good(60)
        raise Diverged(f"the loss is {loss:.3g} at step {state.step:,}; {good}; {CURES}")


def _where(state: TrainState, saver: Saver) -> str:
    return f"at step {state.step + 1:,}; {saver.last_good()}"


def _hung(state: TrainState, saver: Saver, rank: ProcessGroup, seconds: float) -> str:
    return (
        f"rank {rank.index} of {rank.world_size}: step {state.step + 1:,} has not ended after "
        f"{seconds:,.0f} s; {saver.last_good()}. Go on with --resume. What each thread was doing:"
    )
