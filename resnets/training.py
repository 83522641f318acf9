"""From a recipe to a finished run: `run` and `resume` open the task, choose the plan and train."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resnets.classification import ClassificationTask
from resnets.config import (
    ConfigError,
    Recipe,
    atomic_write,
    dump_json,
    from_toml,
    hold_folder,
    to_toml,
)
from resnets.models import convolution, cost, norm_act
from resnets.models.norm import use_norm_batch
from resnets.ops import compiler
from resnets.report.run_report import write_report
from resnets.train.batch_norm_check import check_norm_values
from resnets.train.data_parallel import DataParallelModel
from resnets.train.log import NullLog, RunLog
from resnets.train.loop import fit
from resnets.train.resume import extend, reconcile
from resnets.train.state import Saver, TrainState, new_state
from resnets.train.task import ExecutionPlan, Task
from resnets.utils import environment
from resnets.utils.distributed import ProcessGroup
from resnets.utils.openmp import LoadFollower, follow_load
from resnets.utils.terminal import valid_text
from resnets.weights.checkpoint.format import FOLDER, RECIPE, Checkpoint, find_checkpoint
from resnets.weights.checkpoint.manager import CheckpointManager

if TYPE_CHECKING:
    from resnets.detect.task import DetectionTask

# Compilation takes tens of seconds; it pays off where training takes minutes. Sustained training
# rates in multiply-adds per second, low enough that "auto" errs towards not compiling.
MULTIPLY_ADDS_PER_SECOND = {"cpu": 60e9, "cuda": 10e12, "mps": 1e12}
MIN_SECONDS_TO_COMPILE = 300.0
RESULT = "result.json"


@dataclass(frozen=True)
class RunOptions:
    """Options of this machine's part of a run; none of them changes what is learned.

    group: this process and the number of processes (`init_distributed`). hang_after: seconds
    after which an unfinished step ends the process; 0 = never. fit_memory: halve micro-batches
    until they fit. quiet: print nothing to the terminal.
    """

    device: str = "auto"
    group: ProcessGroup = field(default_factory=ProcessGroup)
    hang_after: float = 0.0
    fit_memory: bool = False
    quiet: bool = False


def run(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    hang_after: float = 0.0,
    fit_memory: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train with `recipe` into the new folder `out`; returns the contents of its result.json.

    With several processes (`init_distributed`), each calls this with the same arguments, and the
    main process writes. `hang_after`: seconds after which an unfinished step ends the process;
    0 = never. `fit_memory`: see `train.fit_memory`.
    Data and model are opened before anything is written. Raises ConfigError if `out` already
    contains a run or another process is writing to it, DataError, Diverged, and Interrupted when a
    signal asked the run to stop.
    """
    options = RunOptions(device, group, hang_after, fit_memory, quiet)
    with _lock_folder(out, group):
        group.broadcast_from_main(lambda: _check_new_run(recipe, out, fit_memory))
        task = _open_main_first(group, lambda: _task_class(recipe).open(recipe))
        plan = choose_plan(task.recipe, task.model, task.examples, device)
        group.broadcast_from_main(lambda: _check_batch_norms(task, group))
        group.broadcast_from_main(lambda: _write_recipe(out, task.recipe))
        return _train(task, out, plan, options, None)


def resume(
    out: Path,
    *,
    data: str | None = None,
    duration: str | None = None,
    device: str = "auto",
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    hang_after: float = 0.0,
    fit_memory: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Resume the run in `out` from its last checkpoint; on one CPU, bit-identical to no stop.

    `data`: the data set's current location, if it moved. `duration` ("80ep", "6400it"): a new
    length of the whole run. Fields that affect training come from the checkpoint's recipe; where
    recipe.toml was edited, each difference is logged with the value in use. Differences from an
    uninterrupted run are recorded in the checkpoint, result.json and the report.
    A run stopped before its first checkpoint starts again from step 0. Only the main process needs
    to see `out`, and the number of processes may change. Raises ConfigError, also if another
    process is writing to `out`, CheckpointError, and DataError.
    """

    def read() -> tuple[Recipe, Checkpoint | None, list[str]]:
        recipe, checkpoint, notes = _read_run(out)
        _check_fit_memory(recipe, fit_memory)
        return recipe, checkpoint, notes

    options = RunOptions(device, group, hang_after, fit_memory, quiet)
    with _lock_folder(out, group, must_exist=True):
        recipe, checkpoint, notes = group.broadcast_from_main(read)
        if data is not None:
            recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=data))
        task_class = _task_class(recipe)
        task = _open_main_first(
            group,
            lambda: (
                task_class.open(recipe)
                if checkpoint is None
                else task_class.reopen(recipe, checkpoint)
            ),
        )
        if duration is not None and duration != recipe.duration:
            step = 0 if checkpoint is None else checkpoint.meta["step"]
            schedule = None if checkpoint is None else checkpoint.meta["state"]["schedule"]
            notes.append(extend(task.recipe, duration, task.examples, step, schedule))
            task.recipe = dataclasses.replace(task.recipe, duration=duration)
        plan = choose_plan(task.recipe, task.model, task.examples, device, checkpoint)
        group.broadcast_from_main(lambda: _check_batch_norms(task, group))
        if notes or data is not None:
            group.broadcast_from_main(lambda: _write_recipe(out, task.recipe))
        return _train(task, out, plan, options, checkpoint, notes)


@contextmanager
def _lock_folder(out: Path, group: ProcessGroup, *, must_exist: bool = False) -> Iterator[None]:
    """Keep other processes from writing to the run's folder until this run has been written.

    With `must_exist`, the folder has to contain a run.
    """

    def lock() -> None:
        if must_exist and not (out / RECIPE).is_file() and not (out / FOLDER).is_dir():
            raise ConfigError(f"{out}: no run to resume here (no {RECIPE})")
        stack.enter_context(hold_folder(out))

    with ExitStack() as stack:
        group.broadcast_from_main(lock)
        yield


def _check_new_run(recipe: Recipe, out: Path, fit_memory: bool) -> None:
    """Raise ConfigError where a run with `recipe` cannot start in `out`."""
    if (out / RECIPE).exists():
        raise ConfigError(f"{out} already contains a run; use --resume {out}, or another --out")
    CheckpointManager(out, recipe).check_free()
    _check_fit_memory(recipe, fit_memory)
    to_toml(recipe)  # raises for values that cannot be written, before any data is read
    if valid_text(str(out)) != str(out):  # safetensors cannot open such paths
        raise ConfigError(f"--out {out}: not valid UTF-8; choose another folder name")


def _check_fit_memory(recipe: Recipe, fit_memory: bool) -> None:
    if fit_memory and recipe.sync_norm:
        raise ConfigError(
            "--fit-memory: cannot be combined with sync_norm, which needs the batch in one pass"
        )


def _check_batch_norms(task: Task, group: ProcessGroup) -> None:
    """Raise ConfigError where a batch norm would see a single value per channel."""
    shape = task.smallest_input()
    if shape is not None:
        check_norm_values(task.model, task.recipe, shape, group.world_size)


def _read_run(out: Path) -> tuple[Recipe, Checkpoint | None, list[str]]:
    """The recipe to resume the run in `out` with, its newest checkpoint, and the differences."""
    try:
        edited = from_toml(out / RECIPE, stored=True)
    except ConfigError as error:
        checkpoint = CheckpointManager(out, Recipe()).newest()
        if checkpoint is None:
            raise
        return checkpoint.recipe, checkpoint, [f"{error}; using the checkpoint's own recipe"]
    checkpoint = CheckpointManager(out, edited).newest()
    if checkpoint is None:
        return edited, None, []
    recipe, notes = reconcile(edited, checkpoint.recipe)
    return recipe, checkpoint, notes


def _write_recipe(out: Path, recipe: Recipe) -> None:
    """Write recipe.toml to the folder and, where the recipe names one, to the checkpoint URL."""
    CheckpointManager(out, recipe).begin(recipe)
    with atomic_write(out / RECIPE) as path:
        path.write_text(to_toml(recipe), encoding="utf-8")


def _open_main_first(group: ProcessGroup, open_task: Callable[[], Task]) -> Task:
    """Open the task in the main process first: it may download or unpack data."""
    opened: list[Task] = []
    group.broadcast_from_main(lambda: opened.append(open_task()))
    return opened[0] if opened else open_task()


def _task_class(recipe: Recipe) -> type[ClassificationTask] | type[DetectionTask]:
    if recipe.task == "classify":
        return ClassificationTask
    from resnets.detect.task import DetectionTask  # its dependencies take a second to import

    return DetectionTask


def choose_plan(
    recipe: Recipe, model: Any, examples: int, device: str, checkpoint: Checkpoint | None = None
) -> ExecutionPlan:
    """Resolve the recipe's "auto" settings: device, precision, compilation, kernels, malloc.

    A run resumed from `checkpoint` keeps its precision if the device supports it and, on a device
    of the same type, its other settings where possible: changing them would change results.
    """
    chosen = environment.pick_device(device)
    malloc_tuned = chosen.type == "cpu" and environment.tune_malloc()
    before = {} if checkpoint is None else checkpoint.meta.get("means", {})
    precision = environment.pick_precision(recipe.precision, chosen)
    if recipe.precision == "auto":
        previous = before.get("precision", precision)
        precision = previous if environment.computes(previous, chosen) else precision
    if torch.device(before.get("device", "cpu")).type != chosen.type:
        before = {}
    compiled = recipe.compile == "on"
    fused = chosen.type == "cpu" and not compiled and compiler.load("norm") is not None
    fused = fused and before.get("fused", True)
    can_compile = chosen.type == "cuda" or shutil.which("c++")
    if recipe.compile == "auto" and not fused and recipe.task == "classify" and can_compile:
        images = recipe.steps(recipe.duration, examples) * recipe.batch_size
        multiply_adds = 3 * images * cost.count(model, recipe.model.input_size).multiply_adds
        rate = MULTIPLY_ADDS_PER_SECOND.get(chosen.type, MULTIPLY_ADDS_PER_SECOND["cpu"])
        compiled = multiply_adds / rate > MIN_SECONDS_TO_COMPILE
        compiled = before["compiled"] if before.get("fused") is fused else compiled
    tiles = fused and precision == "bfloat16" and convolution.has_kernel()
    tiles = tiles and before.get("tiles", True)
    return ExecutionPlan(str(chosen), precision, compiled, fused, tiles, malloc_tuned)


def _train(
    task: Task,
    out: Path,
    plan: ExecutionPlan,
    options: RunOptions,
    checkpoint: Checkpoint | None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Build model and state, restore `checkpoint`, call `fit`, then evaluate and write results."""
    recipe, device, group = task.recipe, torch.device(plan.device), options.group
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    task.model.to(device).to(memory_format=memory_format)
    if checkpoint is None:
        task.setup(device)
    use_norm_batch(task.model, recipe.norm_batch, sync=recipe.sync_norm and group.world_size > 1)
    if plan.fused:
        norm_act.use_kernels(task.model)
    model = DataParallelModel(
        task.compiled_model() if plan.compiled else task.model, group, options.fit_memory
    )
    stream = task.stream(device, group)
    total = recipe.steps(recipe.duration, stream.examples)
    state = new_state(task.model, recipe, total, group)
    notes = [*notes, *task.split_report.notes]
    history = _history(checkpoint, notes)
    metadata = {**task.metadata, "means": dataclasses.asdict(plan), "history": history}
    saver = Saver(out, recipe, metadata, task.mean_image, task.split_report.fingerprint)
    if checkpoint is not None:
        saver.restore(state, checkpoint)
    if not group.is_main:  # the main process saved the sums of all
        state.interval, state.epoch = state.interval.zeroed(), state.epoch.zeroed()
    log = RunLog(out, total, state.step, options.quiet) if group.is_main else NullLog()
    with follow_load(log.info, plan.device) as load:
        try:
            _write_environment(out, plan, group, load)
            log.info("\n".join(task.summary.lines()))
            log.info(_headline(task, plan, group, checkpoint, out))
            for note in notes:
                log.info(f"note: {note}")
            fit(
                state,
                recipe,
                stream,
                task.loss_fn,
                evaluate=task.evaluator(plan, group),
                monitor=task.monitor,
                model=model,
                autocast=plan.autocast(),
                log=log,
                saver=saver,
                hang_after=options.hang_after,
            )
            if group.is_main:
                saver.wait()
        finally:
            log.close()
            saver.close()
            with suppress(OSError):  # report the error that ended the run instead
                _write_environment(out, plan, group, load)
        return _write_results(task, out, state, plan, group, history)


def _history(checkpoint: Checkpoint | None, notes: Sequence[str]) -> list[dict[str, Any]]:
    """Notes to read the run's results with, each with the step from which it applies."""
    before = [] if checkpoint is None else list(checkpoint.meta.get("history", []))
    step = 0 if checkpoint is None else checkpoint.meta["step"]
    known = {each["note"] for each in before}
    return before + [{"step": step, "note": note} for note in notes if note not in known]


def _write_environment(
    out: Path, plan: ExecutionPlan, group: ProcessGroup, load: LoadFollower
) -> None:
    if group.is_main:
        found = environment.describe(torch.device(plan.device)) | dataclasses.asdict(plan)
        found |= {"processes": group.world_size, **load.to_json()}
        dump_json(found, out / "environment.json")


def _headline(
    task: Task, plan: ExecutionPlan, group: ProcessGroup, checkpoint: Checkpoint | None, out: Path
) -> str:
    parts = [task.title, plan.precision, environment.device_name(torch.device(plan.device))]
    parts += [f"{group.world_size} processes"] if group.world_size > 1 else []
    parts += ["compiled"] if plan.compiled else []
    parts += ["CPU kernels" + ", AMX" * plan.tiles] if plan.fused else []
    parts += ["malloc tuned"] if plan.keeps_pages else []
    if checkpoint is not None:
        step = checkpoint.meta["step"]
        parts.append(f"resuming at step {step:,}{_plan_changes(checkpoint, plan)}")
    return f"{out}: " + ", ".join(parts)


def _plan_changes(checkpoint: Checkpoint, plan: ExecutionPlan) -> str:
    """The settings of the checkpoint's execution plan that differ from `plan`."""
    now = dataclasses.asdict(plan)
    then, changes = now | checkpoint.meta.get("means", {}), []
    if torch.device(then["device"]).type != torch.device(plan.device).type:
        changes.append(then["device"])
    if then["precision"] != plan.precision:
        changes.append(then["precision"])
    words = {
        "compiled": ("not compiled", "compiled"),
        "fused": ("no CPU kernels", "CPU kernels"),
        "tiles": ("no AMX kernel", "AMX kernel"),
    }
    if then["fused"] != now["fused"]:
        del words["tiles"]  # included in "fused"
    changes += [word[then[name]] for name, word in words.items() if then[name] != now[name]]
    return f" (before: {', '.join(changes)})" if changes else ""


def _write_results(
    task: Task,
    out: Path,
    state: TrainState,
    plan: ExecutionPlan,
    group: ProcessGroup,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """Evaluate the final weights on validation and, this once, on test; write result and report."""
    recipe, path = task.recipe, group.broadcast_from_main(lambda: find_checkpoint(out))
    result = task.evaluate_checkpoint(path, plan, group)
    if not group.is_main:
        return result
    result["train"] = {
        **state.epoch.means(),
        "examples": state.epoch.count,
        "protocol": "mean over the last epoch during training: augmented images, changing weights",
        **result.get("train", {}),
    }
    result["seconds"] = state.seconds
    images = state.step * recipe.batch_size
    result["images_per_second"] = images / max(1e-9, state.seconds)
    result["set"], result["history"] = task.split_report.to_json(), history
    result["net"], result["data"], result["checkpoint"] = recipe.net_name, task.data_name, path.name
    result["data_summary"] = task.summary.to_json()
    dump_json(result, out / RESULT)
    write_report(out, recipe, result)
    return result
