"""The training loop of all tasks: `fit` trains, evaluates, logs and saves checkpoints."""

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
from resnets.utils.errors import within_memory
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.processes import process_lock

Step = Callable[[Batch], None]  # `TrainStep`, a `FitMemoryStep` or a CUDA graph
Evaluate = Callable[[nn.Module], dict[str, dict[str, float]]]


class Stream(Protocol):
    """An endless stream of training batches over `examples` images.

    Batch k depends only on k and `total`; each process gets its shard of it.
    """

    @property
    def examples(self) -> int:
        """Number of images per epoch."""
        ...

    @property
    def timings(self) -> Timings:
        """Time spent in each stage so far."""
        ...

    @property
    def unreadable(self) -> Collection[int]:
        """Indices of images found unreadable so far; other images replace them in batches."""
        ...

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """Yield the batches of a run of `total` steps, beginning with step `start_step`."""
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
    """Train `state` in place for the recipe's duration, or until `eval.patience` is exhausted.

    Args:
        state: All that training changes; `step` increments `state.step`.
        recipe: Recipe with the duration, and the intervals of logging, evaluation and checkpoints.
        stream: Training batches.
        step: Function that updates the weights with one batch.
        evaluate: Function that returns the metrics of a model by split; None if there is no data to
            evaluate on. Only the metrics of "val" affect training (plateau, best checkpoint).
        monitor: Metric of "val" that selects the best checkpoint.
        group: Processes of the run; only the main one writes files.
        log: Destination of the rows of metrics.
        saver: Writer of checkpoints.
        hang_after: Timeout of a step in s, after which the process is ended; 0 = no timeout.

    Raises Diverged, ProcessLost, and Interrupted if a signal stops the run. After any of them the
    last checkpoint is usable.
    """
    total = recipe.steps(recipe.duration, stream.examples)
    epoch = recipe.steps("1ep", stream.examples)
    log_every = recipe.log_every
    if log_every.endswith("it") and recipe.steps(log_every, stream.examples) > epoch:
        log_every = "1ep"  # otherwise the lines of short epochs have no loss

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
                state.epoch.reset()  # epochs are aligned to the end: the last one is complete
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
                divergence.check(state)  # these weights may become the best checkpoint
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
            if stopping:  # also for a signal or write error in another process
                raise _interrupted(state, saver, signals)
            timer.start_step()
        if signals.received is not None and not finished:  # while waiting for a batch
            divergence.check(state)
            state.seconds = timer.total()
            saver.save_last(state, final=True)
            raise _interrupted(state, saver, signals)


def out_of_patience(state: TrainState, recipe: Recipe) -> bool:
    """True if the last `eval.patience` evaluations brought no improvement."""
    return recipe.eval.patience is not None and state.evals_since_best >= recipe.eval.patience


def _row(kind: str, state: TrainState, recipe: Recipe, stream: Stream) -> dict[str, object]:
    """Return the fields that every row of the log has."""
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
    """Log the mean metrics since the last row, and start a new interval."""
    metrics = divergence.check(state)
    unreadable = stream.unreadable
    if group.any(bool(unreadable)):  # several processes may report the same image
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
    """Evaluate the model and log its metrics; "val" updates the schedule and best checkpoint."""
    memory = within_memory(
        f"the evaluation at step {state.step:,}",
        "use a smaller eval.batch_size (classifiers) or smaller images",
        next(state.model.parameters()).device,
    )
    with process_lock, memory:  # cuDNN synchronizes the device, which aborts a capture
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
