"""A training run: open the task, choose the plan, build the step and call `fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from resnets.config import Recipe, to_toml
from resnets.data.dataset.summary import wrap_entry
from resnets.models.norm import convert_batch_norms, use_cpu_kernels
from resnets.train.cuda_graph.start import start_graph
from resnets.train.cuda_graph.step import GraphTraining
from resnets.train.data_parallel import DataParallelModel
from resnets.train.execution_plan import ExecutionPlan, choose_plan, plan_changes
from resnets.train.fit_memory import FitMemoryStep
from resnets.train.guards.divergence import Diverged
from resnets.train.guards.norm_batch_check import check_norm_values
from resnets.train.log.run_log import NullLog, RunLog
from resnets.train.log.trackers import Trackers
from resnets.train.loop import Evaluate, Step, Stream, fit
from resnets.train.resume import StartPoint, check_is_run, describe_extension, find_start
from resnets.train.saver import Saver, restore_state
from resnets.train.state import TrainState, new_state
from resnets.train.step import TrainStep
from resnets.train.tasks.classification import ClassificationTask
from resnets.train.tasks.custom_parts import CustomParts
from resnets.train.tasks.distill import teacher_changes
from resnets.train.tasks.sequence import SignalTask, TextTask
from resnets.train.tasks.task import Task, check_validation
from resnets.train.write_results import write_environment, write_results
from resnets.utils.errors import within_memory
from resnets.utils.files.locks import lock_folder
from resnets.utils.files.write import atomic_write
from resnets.utils.machine.cpu_count import OtherLoad
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.processes import process_lock
from resnets.utils.machine.wait_policy import adapt_wait_policy
from resnets.weights.checkpoint.format import RECIPE, Checkpoint
from resnets.weights.checkpoint.manager import CheckpointManager


def run_training(
    recipe: Recipe | None,
    out: Path,
    *,
    data: str | None = None,
    duration: str | None = None,
    device: str = "auto",
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    hang_after: float = 0.0,
    fit_memory: bool = False,
    quiet: bool = False,
    parts: CustomParts = CustomParts(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Train with `recipe` in the new folder `out`; without a recipe resume the run in `out`.

    Data and model are opened before any file is written. A resumed run continues from its last
    checkpoint (from step 0 if it has none); on one CPU the result is bit-identical to an
    uninterrupted run. Fields that affect training are read from the checkpoint's recipe; if
    recipe.toml was edited, each difference is logged with the value in use. What may make the run
    differ from an uninterrupted one is recorded in the checkpoint, result.json and the report.

    Args:
        recipe: The recipe of a new run, or None to resume.
        out: The run's folder; only the main process needs access to it.
        data: New location of the data set, for a resumed run.
        duration: New total length of a resumed run ("80ep", "6400it").
        device: auto, cpu, cuda, cuda:1, mps.
        group: Processes of the run (`init_distributed`), all of which call this function with equal
            arguments. Their number may change when a run is resumed.
        hang_after: Timeout of a step in s, after which the process is ended; 0 = no timeout.
        fit_memory: Halve the micro-batches until they fit into memory (`train.fit_memory`).
        quiet: Print nothing.
        parts: Python objects that replace parts of the recipe; required again to resume.

    Returns the contents of result.json.

    Raises ConfigError (also if another process is writing to `out`), DataError, CheckpointError,
    Diverged, OutOfMemory, and Interrupted if a signal stops the run.
    """
    load = OtherLoad() if group.world_size == 1 else None
    with (
        _lock_folder(out, group, must_exist=recipe is None),
        _restored_threads() as threads,
        # The outermost handler: those of single steps below have more specific messages.
        within_memory(
            "the data, weights and checkpoints of the run", "use less data or a smaller model"
        ),
    ):
        with process_lock:
            start = group.broadcast_from_main(lambda: find_start(recipe, out, data, fit_memory))
            task, notes = _open_at(start, duration, parts, group, is_new=recipe is not None)
            checkpoint = start.checkpoint
            plan = choose_plan(task.recipe, task.model, task.examples, device, checkpoint, load)
            if plan.threads < threads:
                notes.append(_fewer_threads(plan.threads, threads, is_new=checkpoint is None))
            group.broadcast_from_main(lambda: _check_batch_norms(task, group))
            if recipe is not None or notes or data is not None:
                group.broadcast_from_main(lambda: _write_recipe(out, task.recipe))

            train_step, stream = build_step(task, plan, group, is_new=checkpoint is None)
            state = train_step.state
            total = task.recipe.steps(task.recipe.duration, stream.examples)
            notes += task.split_report.notes
            if checkpoint is not None:
                _restore(state, checkpoint, plan.device, group)
            step, batches, plan = _choose_step(train_step, stream, total, plan, fit_memory)
            if plan.cuda_graph_obstacle is not None:
                notes.append(f"cuda_graph: not used: {plan.cuda_graph_obstacle}")
            history = _extend_history(checkpoint, notes)
            metadata = {**task.metadata, "execution_plan": asdict(plan), "history": history}
            fingerprint = task.split_report.fingerprint
            saver = Saver(out, task.recipe, metadata, task.mean_image, fingerprint, checkpoint)
        log = _open_log(task, out, total, state.step, quiet=quiet) if group.is_main else NullLog()
        with adapt_wait_policy(log.info, plan.device) as wait_policy:
            try:
                write_environment(out, plan, group, wait_policy)
                _log_start(log, task, _format_headline(task, plan, group, checkpoint, out), notes)
                fit(
                    state,
                    task.recipe,
                    batches,
                    step,
                    evaluate=_open_evaluator(task, plan, group),
                    monitor=task.monitor,
                    group=group,
                    log=log,
                    saver=saver,
                    hang_after=hang_after,
                )
                if group.is_main:
                    saver.wait()
            except Diverged as error:
                hint = f"; `resnets replay {out}` repeats a step that is not finite"
                raise Diverged(f"{error}{hint}") from None
            finally:
                log.close()
                saver.close()
                with suppress(OSError):  # report the original error instead
                    write_environment(out, plan, group, wait_policy)
            with process_lock:
                return write_results(task, out, state, plan, group, history)


def _open_at(
    start: StartPoint,
    duration: str | None,
    parts: CustomParts,
    group: ProcessGroup,
    *,
    is_new: bool,
) -> tuple[Task, list[str]]:
    """Open the task of a run at its start or checkpoint; also return notes on what has changed.

    duration: a new total length. is_new: the run is not resumed.
    """
    checkpoint, notes = start.checkpoint, list(start.notes)
    parts.check(start.recipe)
    task = _open_main_first(group, lambda: open_task(start.recipe, checkpoint, parts))
    if is_new and checkpoint is None:
        check_validation(task)
    if checkpoint is not None:
        notes += parts.describe_changes(checkpoint.recipe)
        notes += teacher_changes(task.recipe, task.metadata, checkpoint)
    if duration is not None and duration != start.recipe.duration:
        notes.append(_extend(task, duration, checkpoint))
    return task, notes


def _open_evaluator(task: Task, plan: ExecutionPlan, group: ProcessGroup) -> Evaluate | None:
    with within_memory(
        f"the evaluation data do not fit on {plan.device}",
        "use a smaller model or fewer validation and test examples",
        plan.device,
    ):
        return task.evaluator(plan, group)


def _open_log(task: Task, out: Path, total: int, step: int, *, quiet: bool) -> RunLog | NullLog:
    return RunLog(out, total, step, quiet, Trackers(task.recipe, out), task.summary.unit)


def _restore(state: TrainState, checkpoint: Checkpoint, device: str, group: ProcessGroup) -> None:
    """Restore the state of a checkpoint; its sums, which are of all processes, in the main one."""
    with within_memory(
        f"the state of the checkpoint does not fit on {device}", "use another --device", device
    ):
        restore_state(state, checkpoint)
    if not group.is_main:
        state.interval, state.epoch = state.interval.zeroed(), state.epoch.zeroed()


def _log_start(log: RunLog | NullLog, task: Task, headline: str, notes: list[str]) -> None:
    log.info("\n".join(task.summary.lines()))
    log.info(headline)
    for note in notes:
        log.info("\n".join(wrap_entry("note", note)))


@contextmanager
def _lock_folder(out: Path, group: ProcessGroup, *, must_exist: bool) -> Iterator[None]:
    """Context in which no other process can write to the run's folder.

    With `must_exist`, raises ConfigError if the folder does not contain a run.
    """

    def lock() -> None:
        if must_exist:
            check_is_run(out)
        stack.enter_context(lock_folder(out))

    with ExitStack() as stack:
        group.broadcast_from_main(lock)
        yield


@contextmanager
def _restored_threads() -> Iterator[int]:
    """Context that yields torch's number of threads, and restores it on exit."""
    threads = torch.get_num_threads()
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _fewer_threads(used: int, available: int, *, is_new: bool) -> str:
    reason = "since other programs use the cores" if is_new else "as before, for equal results"
    return (
        f"computing with {used} of {available} threads, {reason}; a run keeps their number, on"
        " which last bits depend (OMP_NUM_THREADS sets another)"
    )


def _open_main_first(group: ProcessGroup, open_task: Callable[[], Task]) -> Task:
    """Open the task in the main process first, because it may download or unpack data."""
    opened: list[Task] = []
    group.broadcast_from_main(lambda: opened.append(open_task()))
    return opened[0] if opened else open_task()


def open_task(recipe: Recipe, checkpoint: Checkpoint | None, parts: CustomParts) -> Task:
    """Open the data and the model of a new run, or of the run of `checkpoint`."""
    if recipe.task == "classify":
        if checkpoint is None:
            return ClassificationTask.open(recipe, parts)
        return ClassificationTask.reopen(recipe, checkpoint, parts)
    if recipe.task in ("text", "signals"):
        cls = TextTask if recipe.task == "text" else SignalTask
        return cls.open(recipe) if checkpoint is None else cls.reopen(recipe, checkpoint)
    # Deferred: its dependencies take a second to import.
    from resnets.train.tasks.detection import DetectionTask

    if checkpoint is None:
        return DetectionTask.open(recipe)
    return DetectionTask.reopen(recipe, checkpoint)


def _extend(task: Task, duration: str, checkpoint: Checkpoint | None) -> str:
    """Set a new length of the run; return a note on its effect."""
    step = 0 if checkpoint is None else checkpoint.meta["step"]
    schedule = None if checkpoint is None else checkpoint.meta["state"]["schedule"]
    note = describe_extension(task.recipe, duration, task.examples, step, schedule)
    task.recipe = replace(task.recipe, duration=duration)
    return note


def _check_batch_norms(task: Task, group: ProcessGroup) -> None:
    """Raise ConfigError if a batch norm would see a single value per channel."""
    shape = task.smallest_input()
    if shape is not None:
        check_norm_values(task.model, task.recipe, shape, group.world_size)


def _write_recipe(out: Path, recipe: Recipe) -> None:
    """Write recipe.toml to the folder and, if the recipe specifies one, to the checkpoint URL."""
    CheckpointManager(out, recipe).upload_recipe(recipe)
    with atomic_write(out / RECIPE) as path:
        path.write_text(to_toml(recipe), encoding="utf-8")


def build_step(
    task: Task, plan: ExecutionPlan, group: ProcessGroup, *, is_new: bool
) -> tuple[TrainStep, Stream]:
    """Build the training step of a run with its state at step 0, and the stream of batches.

    is_new: the run is not resumed. Raises OutOfMemory.
    """
    recipe, device = task.recipe, torch.device(plan.device)
    with within_memory(f"the model does not fit on {plan.device}", "use a smaller one", device):
        model = _place_model(task, plan, group, is_new=is_new)
    with within_memory(
        f"the training images do not fit on {plan.device}",
        "--set data.in_memory=never reads those of folders and archives batch by batch",
        device,
    ):
        stream = task.stream(device, group)
    with within_memory(
        f"momentum and averaged weights do not fit on {plan.device}",
        "use a smaller model, --set ema_decay=0, or --set optim.shard=true with several processes",
        device,
    ):
        total = recipe.steps(recipe.duration, stream.examples)
        state = new_state(task.model, recipe, total, group, plan.precision)
    return TrainStep(state, model, task.loss_fn, plan.autocast(), recipe), stream


def _place_model(
    task: Task, plan: ExecutionPlan, group: ProcessGroup, *, is_new: bool
) -> DataParallelModel:
    """Move the model to the device, and prepare it for training according to `plan`."""
    recipe, device = task.recipe, torch.device(plan.device)
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    task.model.to(device).to(memory_format=memory_format)
    if is_new:
        task.setup(device)
    sync = recipe.sync_norm and group.world_size > 1
    convert_batch_norms(task.model, recipe.norm_batch, sync)
    if plan.fused:
        use_cpu_kernels(task.model)
    return DataParallelModel(task.model, group, compiled=plan.compiled)


def _choose_step(
    train_step: TrainStep, stream: Stream, total: int, plan: ExecutionPlan, fit_memory: bool
) -> tuple[Step, Stream, ExecutionPlan]:
    """Return step and stream for `fit`, and the plan completed with the outcome of `cuda_graph`."""
    step: Step = FitMemoryStep(train_step) if fit_memory else train_step
    if not train_step.recipe.cuda_graph:
        return step, stream, plan
    graph: GraphTraining | str = "--fit-memory may change the micro-batch"
    if not fit_memory:
        graph = start_graph(train_step, stream, total, compile_blocks=plan.compiled)
    if isinstance(graph, str):
        return step, stream, replace(plan, cuda_graph_obstacle=graph)
    return graph.step, graph, replace(plan, cuda_graph=True)


def _extend_history(checkpoint: Checkpoint | None, notes: list[str]) -> list[dict[str, Any]]:
    """Return the checkpoint's history with `notes` added, each with the step where it applies."""
    before = [] if checkpoint is None else list(checkpoint.meta.get("history", []))
    step = 0 if checkpoint is None else checkpoint.meta["step"]
    known = {each["note"] for each in before}
    return before + [{"step": step, "note": note} for note in notes if note not in known]


def _format_headline(
    task: Task, plan: ExecutionPlan, group: ProcessGroup, checkpoint: Checkpoint | None, out: Path
) -> str:
    parts = [task.title, str(plan)]
    parts += [f"{group.world_size} processes"] if group.world_size > 1 else []
    lines = wrap_entry("run", f"{out}: {', '.join(parts)}")
    if checkpoint is not None:
        step = checkpoint.meta["step"]
        lines.append(f"resuming at step {step:,}{plan_changes(checkpoint, plan)}")
    return "\n".join(lines)
