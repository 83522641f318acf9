"""A training run: `run` opens the task, chooses the plan, builds the state and calls `fit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from resnets.config import (
    ConfigError,
    Recipe,
    atomic_write,
    from_toml,
    lock_folder,
    to_toml,
)
from resnets.data.dataset.summary import wrapped
from resnets.models.norm import convert_batch_norms, use_cpu_kernels
from resnets.train.cuda_graph.start import start_graph
from resnets.train.cuda_graph.step import GraphTraining
from resnets.train.data_parallel import DataParallelModel
from resnets.train.execution_plan import ExecutionPlan, choose_plan, plan_changes
from resnets.train.guards.divergence import Diverged
from resnets.train.guards.norm_batch_check import check_norm_values
from resnets.train.log.run_log import NullLog, RunLog
from resnets.train.log.trackers import Trackers, check_trackers
from resnets.train.loop import Stream, fit
from resnets.train.results import write_environment, write_results
from resnets.train.resume import extend, reconcile
from resnets.train.saver import Saver
from resnets.train.state import TrainState, new_state
from resnets.train.tasks.classification import ClassificationTask
from resnets.train.tasks.custom_parts import CustomParts
from resnets.train.tasks.distill import teacher_changes
from resnets.train.tasks.sequence import SignalTask, TextTask
from resnets.train.tasks.task import Task
from resnets.utils.distributed import ProcessGroup
from resnets.utils.errors import within_memory
from resnets.utils.printable import valid_text
from resnets.utils.wait_policy import adapt_wait_policy
from resnets.weights.checkpoint.format import (
    FOLDER,
    RECIPE,
    Checkpoint,
)
from resnets.weights.checkpoint.manager import CheckpointManager


def run(
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
    """Train with `recipe` into the new folder `out`, or without one resume the run in `out`.

    Returns the contents of result.json. With several processes (`init_distributed`) each calls this
    with the same arguments, the main process writes, and only it needs to see `out`; their number
    may change when a run is resumed. `hang_after`: seconds after which an unfinished step ends the
    process; 0 = never. `fit_memory`: see `train.fit_memory`. `parts`: Python objects in place of
    what the recipe names; a resumed run needs them again.

    Data and model are opened before anything is written. A resumed run continues from its last
    checkpoint (from step 0 if there is none), on one CPU bit-identical to an uninterrupted run.
    `data`: the data set's current location. `duration` ("80ep", "6400it"): a new length of the
    whole run. Fields that affect training come from the checkpoint's recipe; where recipe.toml was
    edited, each difference is logged with the value in use. Differences from an uninterrupted run
    are recorded in the checkpoint, result.json and the report.

    Raises ConfigError (also if another process is writing to `out`), DataError, CheckpointError,
    Diverged, OutOfMemory, and Interrupted when a signal asked the run to stop.
    """
    with _lock_folder(out, group, must_exist=recipe is None):
        start = group.broadcast_from_main(lambda: _start(recipe, out, data, fit_memory))
        checkpoint, notes = start.checkpoint, start.notes
        parts.check(start.recipe)
        if checkpoint is not None:
            notes = [*notes, *parts.changes(checkpoint.recipe)]
        task = _open_main_first(group, lambda: open_task(start.recipe, checkpoint, parts))
        if checkpoint is not None:
            notes = [*notes, *teacher_changes(task.recipe, task.metadata, checkpoint)]
        if duration is not None and duration != start.recipe.duration:
            notes = [*notes, _extend(task, duration, checkpoint)]
        plan = choose_plan(task.recipe, task.model, task.examples, device, checkpoint)
        group.broadcast_from_main(lambda: _check_batch_norms(task, group))
        if recipe is not None or notes or data is not None:
            group.broadcast_from_main(lambda: _write_recipe(out, task.recipe))

        with within_memory(f"the model does not fit on {plan.device}", "use a smaller one"):
            model = place_model(task, plan, group, fit_memory, is_new=checkpoint is None)
        with within_memory(
            f"the training images do not fit on {plan.device}",
            "--set data.in_memory=never reads those of folders and archives batch by batch",
        ):
            stream = task.stream(torch.device(plan.device), group)
        total = task.recipe.steps(task.recipe.duration, stream.examples)
        with within_memory(
            f"momentum and averaged weights do not fit on {plan.device}",
            "use a smaller model, --set ema_decay=0, or --set optim.shard=true with several "
            "processes",
        ):
            state = new_state(task.model, task.recipe, total, group, plan.precision)
        history = _history(checkpoint, notes := [*notes, *task.split_report.notes])
        saver = make_saver(task, out, plan, history)
        if checkpoint is not None:
            saver.restore(state, checkpoint)
        if not group.is_main:  # the main process saved the sums of all
            state.interval, state.epoch = state.interval.zeroed(), state.epoch.zeroed()
        fast = _graph(task, state, stream, model, plan, total)
        trackers = Trackers(task.recipe, out) if group.is_main else None
        log: RunLog | NullLog = NullLog()
        if group.is_main:
            log = RunLog(out, total, state.step, quiet, trackers, task.summary.unit)
        with adapt_wait_policy(log.info, plan.device) as load:
            try:
                write_environment(out, plan, group, load)
                log.info("\n".join(task.summary.lines()))
                log.info(_headline(task, plan, group, checkpoint, out))
                for note in notes:
                    log.info(f"note: {note}")
                if isinstance(fast, str):
                    log.info(f"cuda_graph: not used: {fast}")
                graph = fast if isinstance(fast, GraphTraining) else None
                fit(
                    state,
                    task.recipe,
                    graph or stream,
                    task.loss_fn,
                    evaluate=task.evaluator(plan, group),
                    monitor=task.monitor,
                    model=model,
                    autocast=plan.autocast(),
                    log=log,
                    saver=saver,
                    hang_after=hang_after,
                    step=graph.step if graph is not None else None,
                )
                if group.is_main:
                    saver.wait()
            except Diverged as error:
                again = f"; `resnets replay {out}` repeats a step that is not finite"
                raise Diverged(f"{error}{again}") from None
            finally:
                log.close()
                saver.close()
                with suppress(OSError):  # report the error that ended the run instead
                    write_environment(out, plan, group, load)
            return write_results(task, out, state, plan, group, history)


@dataclass(frozen=True)
class _Start:
    """Where a run starts: its recipe, a checkpoint to resume from, and how that differs."""

    recipe: Recipe
    checkpoint: Checkpoint | None = None
    notes: list[str] = field(default_factory=list)


def _start(recipe: Recipe | None, out: Path, data: str | None, fit_memory: bool) -> _Start:
    """A new run of `recipe`, or the run in `out`; raises ConfigError where it cannot start."""
    if recipe is None:
        start = read_run(out)
        if data is not None:
            moved = replace(start.recipe.data, source=data)
            start = replace(start, recipe=replace(start.recipe, data=moved))
    else:
        start = _Start(recipe)
        if (out / RECIPE).exists():
            raise ConfigError(f"{out} already contains a run; use --resume {out}, or another --out")
        CheckpointManager(out, recipe).check_free()
        to_toml(recipe)  # raises for values that cannot be written, before any data is read
        if valid_text(str(out)) != str(out):  # safetensors cannot open such paths
            raise ConfigError(f"--out {out}: not valid UTF-8; choose another folder name")
    check_trackers(start.recipe.trackers)
    if fit_memory and start.recipe.sync_norm:
        raise ConfigError(
            "--fit-memory: cannot be combined with sync_norm, which needs the batch in one pass"
        )
    return start


def read_run(out: Path) -> _Start:
    """The recipe to resume the run in `out` with, its newest checkpoint, and the differences."""
    try:
        edited = from_toml(out / RECIPE, stored=True)
    except ConfigError as error:
        checkpoint = CheckpointManager(out, Recipe()).latest()
        if checkpoint is None:
            raise
        note = f"{error}; using the checkpoint's own recipe"
        return _Start(checkpoint.recipe, checkpoint, [note])
    checkpoint = CheckpointManager(out, edited).latest()
    if checkpoint is None:
        return _Start(edited)
    recipe, notes = reconcile(edited, checkpoint.recipe)
    return _Start(recipe, checkpoint, notes)


@contextmanager
def _lock_folder(out: Path, group: ProcessGroup, *, must_exist: bool) -> Iterator[None]:
    """Keep other processes from writing to the run's folder until this run has been written.

    With `must_exist`, the folder has to contain a run.
    """

    def lock() -> None:
        if must_exist and not (out / RECIPE).is_file() and not (out / FOLDER).is_dir():
            raise ConfigError(f"{out}: no run to resume here (no {RECIPE})")
        stack.enter_context(lock_folder(out))

    with ExitStack() as stack:
        group.broadcast_from_main(lock)
        yield


def _open_main_first(group: ProcessGroup, open_task: Callable[[], Task]) -> Task:
    """Open the task in the main process first: it may download or unpack data."""
    opened: list[Task] = []
    group.broadcast_from_main(lambda: opened.append(open_task()))
    return opened[0] if opened else open_task()


def open_task(recipe: Recipe, checkpoint: Checkpoint | None, parts: CustomParts) -> Task:
    """Data and model of the recipe's task: new, or as a run with `checkpoint` had them."""
    if recipe.task == "classify":
        if checkpoint is None:
            return ClassificationTask.open(recipe, parts)
        return ClassificationTask.reopen(recipe, checkpoint, parts)
    if recipe.task in ("text", "signals"):
        kind = TextTask if recipe.task == "text" else SignalTask
        return kind.open(recipe) if checkpoint is None else kind.reopen(recipe, checkpoint)
    # Its dependencies take a second to import.
    from resnets.train.tasks.detection import DetectionTask

    if checkpoint is None:
        return DetectionTask.open(recipe)
    return DetectionTask.reopen(recipe, checkpoint)


def _extend(task: Task, duration: str, checkpoint: Checkpoint | None) -> str:
    """Give the run a new length; returns the note that says what that changes."""
    step = 0 if checkpoint is None else checkpoint.meta["step"]
    schedule = None if checkpoint is None else checkpoint.meta["state"]["schedule"]
    note = extend(task.recipe, duration, task.examples, step, schedule)
    task.recipe = replace(task.recipe, duration=duration)
    return note


def _check_batch_norms(task: Task, group: ProcessGroup) -> None:
    """Raise ConfigError where a batch norm would see a single value per channel."""
    shape = task.smallest_input()
    if shape is not None:
        check_norm_values(task.model, task.recipe, shape, group.world_size)


def _write_recipe(out: Path, recipe: Recipe) -> None:
    """Write recipe.toml to the folder and, where the recipe names one, to the checkpoint URL."""
    CheckpointManager(out, recipe).upload_recipe(recipe)
    with atomic_write(out / RECIPE) as path:
        path.write_text(to_toml(recipe), encoding="utf-8")


def place_model(
    task: Task, plan: ExecutionPlan, group: ProcessGroup, fit_memory: bool, *, is_new: bool
) -> DataParallelModel:
    """Bring the task's model to the device, in the form in which `plan` trains it."""
    recipe, device = task.recipe, torch.device(plan.device)
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    task.model.to(device).to(memory_format=memory_format)
    if is_new:
        task.setup(device)
    sync = recipe.sync_norm and group.world_size > 1
    convert_batch_norms(task.model, recipe.norm_batch, sync)
    if plan.fused:
        use_cpu_kernels(task.model)
    return DataParallelModel(task.model, group, fit_memory, compiled=plan.compiled)


def _graph(
    task: Task,
    state: TrainState,
    stream: Stream,
    model: DataParallelModel,
    plan: ExecutionPlan,
    total: int,
) -> GraphTraining | str | None:
    """The steps of the run as CUDA graphs, or why not; None if the recipe does not ask for it."""
    if not task.recipe.cuda_graph:
        return None
    if task.recipe.distill.teacher is not None:
        return "a teacher (distill.teacher) is computed in each step"
    return start_graph(
        state,
        task.recipe,
        stream,
        task.loss_fn,
        model=model,
        autocast=plan.autocast(),
        total=total,
        compile_blocks=plan.compiled,
    )


def make_saver(task: Task, out: Path, plan: ExecutionPlan, history: list[dict[str, Any]]) -> Saver:
    """The writer of a run\'s checkpoints, with the metadata that all of them hold."""
    metadata = {**task.metadata, "execution_plan": dataclasses.asdict(plan), "history": history}
    return Saver(out, task.recipe, metadata, task.mean_image, task.split_report.fingerprint)


def _history(checkpoint: Checkpoint | None, notes: list[str]) -> list[dict[str, Any]]:
    """Notes to read the run's results with, each with the step from which it applies."""
    before = [] if checkpoint is None else list(checkpoint.meta.get("history", []))
    step = 0 if checkpoint is None else checkpoint.meta["step"]
    known = {each["note"] for each in before}
    return before + [{"step": step, "note": note} for note in notes if note not in known]


def _headline(
    task: Task, plan: ExecutionPlan, group: ProcessGroup, checkpoint: Checkpoint | None, out: Path
) -> str:
    parts = [task.title, str(plan)]
    parts += [f"{group.world_size} processes"] if group.world_size > 1 else []
    lines = wrapped("run", f"{out}: {', '.join(parts)}")
    if checkpoint is not None:
        step = checkpoint.meta["step"]
        lines.append(f"resuming at step {step:,}{plan_changes(checkpoint, plan)}")
    return "\n".join(lines)
