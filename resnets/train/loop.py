"""The training loop of every task: `fit` trains, evaluates, logs and saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

from torch import nn

from resnets.config import Recipe
from resnets.data.batch import Batch
from resnets.data.timings import Timings
from resnets.train.guards.divergence import HINTS, Diverged, DivergenceCheck
from resnets.train.guards.interrupt import Interrupted, StopSignals
from resnets.train.guards.watchdog import Watchdog
from resnets.train.log.run_log import NullLog, RunLog
from resnets.train.log.timing import TIME, StepTimer
from resnets.train.optim.optimizers import schedule_lr
from resnets.train.saver import Saver
from resnets.train.state import TrainState
from resnets.utils.distributed import ProcessGroup
from resnets.utils.errors import within_memory
from resnets.utils.processes import process_lock

Step = Callable[[Batch], None]  # `TrainStep`, with or without `--fit-memory`, or a CUDA graph
Evaluate = Callable[[nn.Module], dict[str, dict[str, float]]]


class Stream(Protocol):
    """An endless stream of training batches over `examples` images.

    Batch k depends only on k and `total`; each process gets its share of it.
    """

    @property
    def examples(self) -> int:
        """Images per epoch."""
        ...

    @property
    def timings(self) -> Timings:
        """Time spent in each stage so far."""
        ...

    @property
    def unreadable(self) -> Collection[int]:
        """Indices of images found unreadable so far; others replace them."""
        ...

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """Yield batches from step `start_step` on, of a run of `total` steps."""
        ...


def fit(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    step: Step,
    *,
    evaluate: Evaluate | None,
    monitor: str,
    group: ProcessGroup,
    log: RunLog | NullLog,
    saver: Saver,
    hang_after: float = 0.0,
) -> None:
    """Train `state` in place for the recipe's duration, or until `eval.patience` runs out.

    Args:
        state: What training changes; `step` advances `state.step`.
        recipe: Length of the run, and intervals of the log, of evaluations and checkpoints.
        stream: Training batches.
        step: Updates the weights by one batch.
        evaluate: Returns the metrics of a model by split, or None without data to evaluate on.
            Only those of "val" affect training (plateau, best checkpoint).
        monitor: The metric of "val" that selects the best checkpoint.
        group: The processes of the run, of which the main one writes.
        log: Where rows of metrics go.
        saver: Where checkpoints go.
        hang_after: Seconds after which an unfinished step ends the process; 0 = never.

    Raises Diverged, ProcessLost, and Interrupted when a signal asked to stop; all of them leave a
    usable last checkpoint.
    """
    total = recipe.steps(recipe.duration, stream.examples)
    epoch = recipe.steps("1ep", stream.examples)
    log_every = recipe.log_every
    if log_every.endswith("it") and recipe.steps(log_every, stream.examples) > epoch:
        log_every = "1ep"  # else the lines of short epochs would have no loss

    def is_due(interval: str) -> bool:
        return state.step == total or recipe.is_due(interval, state.step, stream.examples)

    timer = StepTimer(stream.timings, state.seconds)
    divergence = DivergenceCheck(saver.last_good, group)
    watchdog = Watchdog(hang_after, lambda: _hang_message(state, saver, group, hang_after))
    finished = state.step >= total or out_of_patience(state, recipe)
    with (
        StopSignals() as signals,
        watchdog,
        group.translate_errors(lambda: f"at step {state.step + 1:,}; {saver.last_good()}"),
    ):
        batches: Iterable[Batch] = stream.batches(state.step, total) if not finished else ()
        for batch in signals.until_signal(batches) if group.world_size == 1 else batches:
            if (total - state.step) % epoch == 0:
                state.epoch.reset()  # counted back from the end: the last one is a whole epoch
            with timer.computing:
                step(batch)
            watchdog.beat()
            stopping = group.any(signals.received is not None or log.error is not None)
            done = state.step == total
            log_due, epoch_over = is_due(log_every), is_due("1ep")
            timer.end_step(state.interval if log_due or epoch_over else None)
            log.tick(state.step)
            if log_due:
                _log_interval(state, recipe, stream, log, divergence, timer, group)
            if epoch_over:
                log.write(_row(TIME, state, recipe, stream) | timer.epoch_row())
            if evaluate is not None and is_due(recipe.eval.every):
                divergence.check(state)  # the evaluated weights may become the best checkpoint
                watchdog.pause()
                _evaluate(state, recipe, stream, evaluate, monitor, log, saver, group)
                watchdog.beat()
                done = done or out_of_patience(state, recipe)
            if done or stopping or is_due(recipe.checkpoint_every):
                divergence.check(state)
                state.seconds = timer.total()
                state.gather(group)
                if group.is_main:
                    saver.save_last(state, final=done or stopping)
            if done and log.error is None:
                return
            if log.error is not None and (done or stopping):
                raise ValueError(
                    f"{log.error}; stopped at step {state.step:,}, {saver.last_good()}; free"
                    " space and continue with --resume"
                )
            if stopping:  # possibly because of a signal or a write error in another process
                raise _interrupted(state, saver, signals)
            timer.start_step()
        if signals.received is not None and not finished:  # while waiting for a batch
            divergence.check(state)
            state.seconds = timer.total()
            saver.save_last(state, final=True)
            raise _interrupted(state, saver, signals)


def out_of_patience(state: TrainState, recipe: Recipe) -> bool:
    """Whether `eval.patience` evaluations in a row did not improve."""
    return recipe.eval.patience is not None and state.evals_since_best >= recipe.eval.patience


def _row(kind: str, state: TrainState, recipe: Recipe, stream: Stream) -> dict[str, object]:
    """Return the fields that every row of the log begins with."""
    epoch = state.step * recipe.batch_size / stream.examples
    return {"kind": kind, "step": state.step, "epoch": epoch}


def _log_interval(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    log: RunLog | NullLog,
    divergence: DivergenceCheck,
    timer: StepTimer,
    group: ProcessGroup,
) -> None:
    """Log the mean metrics since the last row, and start the next interval."""
    metrics = divergence.check(state)
    unreadable = stream.unreadable
    if group.any(bool(unreadable)):  # several processes may have met the same image
        unreadable = set(group.all_gather(list(unreadable)))
    times = timer.lap("row")
    steps, seconds = max(1, times.steps), max(1e-9, times.seconds)
    log.write(
        {
            **_row("train", state, recipe, stream),
            **metrics,
            **({} if state.scaler is None else state.scaler.row()),
            "lr": schedule_lr(state.optimizer),
            "images_per_second": steps * recipe.batch_size / seconds,
            "seconds_per_step": seconds / steps,
            "waiting_for_data": times.waiting / seconds,
            "unreadable": len(unreadable),
        }
    )
    state.interval.reset()


def _evaluate(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    evaluate: Evaluate,
    monitor: str,
    log: RunLog | NullLog,
    saver: Saver,
    group: ProcessGroup,
) -> None:
    """Evaluate and log the model; "val" also updates the schedule and the best checkpoint."""
    memory = within_memory(
        f"the evaluation at step {state.step:,}",
        "use a smaller eval.batch_size (classifiers) or smaller images",
        next(state.model.parameters()).device,
    )
    with process_lock, memory:  # cuDNN waits for the whole device, which would end a capture
        results = evaluate(state.eval_model)
    for split, metrics in results.items():
        log.write(_row(split, state, recipe, stream) | metrics)
        loss = metrics.get("loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss on {split} is {loss:.3g} at step {state.step:,}: in eval mode the "
                f"network's outputs are not finite; {saver.last_good(60)}; {HINTS}"
            )
    if "val" in results:
        error = results["val"][monitor]
        improved = error < state.schedule.best_error
        state.schedule.observe_evaluation(error)
        state.evals_since_best = 0 if improved else state.evals_since_best + 1
        if improved and group.is_main:
            saver.save_best(state)
    if out_of_patience(state, recipe):
        unit = "%" if monitor.endswith("error") else ""
        log.info(
            f"stopped early at step {state.step:,}: eval.patience={state.evals_since_best}"
            f" evaluations without a lower {monitor} on validation; the lowest was"
            f" {state.schedule.best_error:.2f}{unit}"
        )


def _interrupted(state: TrainState, saver: Saver, signals: StopSignals) -> Interrupted:
    return Interrupted(f"stopped at step {state.step:,}; saved {saver.path}", signals.exit_code)


def _hang_message(state: TrainState, saver: Saver, group: ProcessGroup, seconds: float) -> str:
    return (
        f"rank {group.rank} of {group.world_size}: step {state.step + 1:,} did not finish within "
        f"{seconds:,.0f} s; {saver.last_good()}. Continue with --resume. Stack traces of all "
        "threads:"
    )
