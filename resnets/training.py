"""From a recipe to a finished run: the only place that knows every task and the loop."""

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
from resnets.train.log import NoLog, RunLog
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

# Compiling costs tens of seconds; it pays where training takes minutes. Sustained training rates,
# multiply-adds a second, low enough that "auto" errs towards not compiling.
RATE = {"cpu": 60e9, "cuda": 10e12, "mps": 1e12}
PAYS_AFTER_SECONDS = 300.0
RESULT = "result.json"


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes on: its device, and which of several processes this is (`ranks.joined`).

    hang_after: seconds after which a step that has not ended ends the process; 0 = never.
    fit_memory: halve micro-batches until they fit. quiet: say nothing to the terminal.
    """

    device: str = "auto"
    rank: ProcessGroup = field(default_factory=ProcessGroup)
    hang_after: float = 0.0
    fit_memory: bool = False
    quiet: bool = False


def run(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    hang_after: float = 0.0,
    fit_memory: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train by `recipe` into the new folder `out`; returns the contents of its result.json.

    In several processes (`ranks.joined`) all call this alike; the first one writes. `hang_after`:
    seconds after which a step that has not ended ends the process; 0 = never. `fit_memory`: see
    `train.fit_memory`.
    Data and model are opened before anything is written. Raises ConfigError where `out` holds a
    run already or another process writes into it, DataError, Diverged, and Stopped when a signal
    asked the run to stop.
    """

    def refuse() -> None:
        if (out / RECIPE).exists():
            raise ConfigError(
                f"{out} holds a run already; go on with --resume {out}, or other --out"
            )
        CheckpointManager(out, recipe).check_free()
        _check_fits(recipe, fit_memory)
        to_toml(recipe)  # refuses what cannot be written, before anything is read
        if valid_text(str(out)) != str(out):  # safetensors opens no such files
            raise ConfigError(f"--out {out}: not UTF-8; name the run's folder otherwise")

    def begin() -> None:
        CheckpointManager(out, work.recipe).begin(work.recipe)
        _write_recipe(out, work.recipe)

    with _held(out, rank):
        rank.broadcast_from_main(refuse)
        work = _one_after_another(rank, lambda: _kind(recipe).open(recipe))
        place = RunOptions(device, rank, hang_after, fit_memory, quiet)
        means = choose_means(work.recipe, work.model, work.examples, device)
        rank.broadcast_from_main(lambda: _check_norms(work, rank))
        rank.broadcast_from_main(begin)
        return _train(work, out, means, place, None)


def resume(
    out: Path,
    *,
    data: str | None = None,
    duration: str | None = None,
    device: str = "auto",
    rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    hang_after: float = 0.0,
    fit_memory: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Resume the run in `out` at its last checkpoint; on one CPU bitwise as if never stopped.

    `data` says where the set lies now, if it moved. `duration` ("80ep", "6400it") is a new length
    of the whole run. The checkpoint's recipe decides what changes the training; where recipe.toml
    was edited, each difference is logged with what is used. What differs from an uninterrupted run
    is kept in the checkpoint, result.json and the report.
    A run stopped before its first checkpoint starts again. `out` need be seen by the first process
    alone, and there may be more processes or fewer than before. Raises ConfigError, also where
    another process writes into `out`, CheckpointError, and DataError.
    """

    def read() -> tuple[Recipe, Checkpoint | None, list[str]]:
        recipe, saved, notes = _read_run(out)
        _check_fits(recipe, fit_memory)
        return recipe, saved, notes

    with _held(out, rank, begun=True):
        recipe, saved, notes = rank.broadcast_from_main(read)
        if data is not None:
            recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=data))
        kind = _kind(recipe)
        work = _one_after_another(
            rank, lambda: kind.open(recipe) if saved is None else kind.reopen(recipe, saved)
        )
        if duration is not None and duration != recipe.duration:
            step = 0 if saved is None else saved.meta["step"]
            schedule = None if saved is None else saved.meta["state"]["schedule"]
            notes.append(extend(work.recipe, duration, work.examples, step, schedule))
            work.recipe = dataclasses.replace(work.recipe, duration=duration)
        place = RunOptions(device, rank, hang_after, fit_memory, quiet)
        means = choose_means(work.recipe, work.model, work.examples, device, saved)
        rank.broadcast_from_main(lambda: _check_norms(work, rank))
        if notes or data is not None:
            rank.broadcast_from_main(lambda: _rewrite_recipe(out, work.recipe))
        return _train(work, out, means, place, saved, notes)


@contextmanager
def _held(out: Path, rank: ProcessGroup, *, begun: bool = False) -> Iterator[None]:
    """Let no other process write into the run's folder, until all of this run is written.

    With `begun` there must be a run in it.
    """

    def hold() -> None:
        if begun and not (out / RECIPE).is_file() and not (out / FOLDER).is_dir():
            raise ConfigError(f"{out}: no run to resume here (no {RECIPE})")
        held.enter_context(hold_folder(out))

    with ExitStack() as held:
        rank.broadcast_from_main(hold)
        yield


def _read_run(out: Path) -> tuple[Recipe, Checkpoint | None, list[str]]:
    """The recipe to resume the run in `out` with, its newest checkpoint, and what differs."""
    try:
        edited = from_toml(out / RECIPE, stored=True)
    except ConfigError as error:
        saved = CheckpointManager(out, Recipe()).newest()
        if saved is None:
            raise
        return saved.recipe, saved, [f"{error}; the checkpoint's own recipe is used"]
    saved = CheckpointManager(out, edited).newest()
    if saved is None:
        return edited, None, []
    recipe, notes = reconcile(edited, saved.recipe)
    return recipe, saved, notes


def _rewrite_recipe(out: Path, recipe: Recipe) -> None:
    """Let recipe.toml, here and behind a URL, say how the run goes on."""
    CheckpointManager(out, recipe).begin(recipe)
    _write_recipe(out, recipe)


def _write_recipe(out: Path, recipe: Recipe) -> None:
    with atomic_write(out / RECIPE) as path:
        path.write_text(to_toml(recipe), encoding="utf-8")


def _check_fits(recipe: Recipe, fit_memory: bool) -> None:
    if fit_memory and recipe.sync_norm:
        raise ConfigError("--fit-memory: excludes sync_norm, whose batch must be one pass")


def _check_norms(work: Task, rank: ProcessGroup) -> None:
    """ConfigError where a batch norm would see a single value of each channel."""
    shape = work.smallest_input()
    if shape is not None:
        check_norm_values(work.model, work.recipe, shape, rank.world_size)


def _one_after_another(rank: ProcessGroup, open_work: Callable[[], Task]) -> Task:
    """What `open_work` gives, in the first process before the others: it may fetch or unpack."""
    opened: list[Task] = []
    rank.broadcast_from_main(lambda: opened.append(open_work()))
    return opened[0] if opened else open_work()


def _kind(recipe: Recipe) -> type[ClassificationTask] | type[DetectionTask]:
    if recipe.task == "classify":
        return ClassificationTask
    from resnets.detect.task import DetectionTask  # its libraries take a second to import

    return DetectionTask


def choose_means(
    recipe: Recipe, net: Any, examples: int, device: str, saved: Checkpoint | None = None
) -> ExecutionPlan:
    """Resolve what the recipe leaves to the machine: device, precision, compilation, allocator.

    A run that goes on from `saved` keeps its precision, where the device computes in it, and on a
    device of the same kind computes as before, where it can: another choice would change numbers.
    """
    chosen = environment.pick_device(device)
    keeps = chosen.type == "cpu" and environment.tune_malloc()
    before = {} if saved is None else saved.meta.get("means", {})
    precision = environment.pick_precision(recipe.precision, chosen)
    if recipe.precision == "auto":
        kept = before.get("precision", precision)
        precision = kept if environment.computes(kept, chosen) else precision
    if torch.device(before.get("device", "cpu")).type != chosen.type:
        before = {}
    compiled = recipe.compile == "on"
    fuses = chosen.type == "cpu" and not compiled and compiler.load("norm") is not None
    fuses = fuses and before.get("fused", True)
    can = not fuses and recipe.task == "classify" and (chosen.type == "cuda" or shutil.which("c++"))
    if recipe.compile == "auto" and can:
        images = recipe.steps(recipe.duration, examples) * recipe.batch_size
        work = 3 * images * cost.count(net, recipe.model.input_size).multiply_adds
        compiled = work / RATE.get(chosen.type, RATE["cpu"]) > PAYS_AFTER_SECONDS
        compiled = before["compiled"] if before.get("fused") is fuses else compiled
    tiles = fuses and precision == "bfloat16" and convolution.has_kernel()
    tiles = tiles and before.get("tiles", True)
    return ExecutionPlan(str(chosen), precision, compiled, fuses, tiles, keeps)


def _train(
    work: Task,
    out: Path,
    means: ExecutionPlan,
    place: RunOptions,
    saved: Checkpoint | None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    recipe, device, rank = work.recipe, torch.device(means.device), place.rank
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    work.model.to(device).to(memory_format=layout)
    if saved is None:
        work.begin(device)
    use_norm_batch(work.model, recipe.norm_batch, sync=recipe.sync_norm and rank.world_size > 1)
    if means.fused:
        norm_act.use_kernels(work.model)
    forward = DataParallelModel(
        work.compiled() if means.compiled else work.model, rank, place.fit_memory
    )
    stream = work.stream(device, rank)
    total = recipe.steps(recipe.duration, stream.examples)
    state = new_state(work.model, recipe, total, rank)
    history = _history(saved, [*notes, *work.images.notes])
    fixed = {**work.fixed, "means": dataclasses.asdict(means), "history": history}
    saver = Saver(out, recipe, fixed, work.mean_image, work.images.fingerprint)
    if saved is not None:
        saver.restore(state, saved)
    if not rank.is_main:  # the sums of all were saved by the first
        state.interval, state.epoch = state.interval.emptied(), state.epoch.emptied()
    run_log = RunLog(out, total, state.step, place.quiet) if rank.is_main else NoLog()
    with follow_load(run_log.say, means.device) as waits:
        try:
            _write_environment(out, means, rank, waits)
            run_log.say("\n".join(work.summary.lines()))
            run_log.say(_headline(work, means, rank, saved, out))
            for note in (*notes, *work.images.notes):
                run_log.say(f"note: {note}")
            fit(
                state,
                recipe,
                stream,
                work.loss_fn,
                evaluate=work.evaluator(means, rank),
                monitor=work.monitor,
                forward=forward,
                autocast=means.autocast(),
                log=run_log,
                saver=saver,
                hang_after=place.hang_after,
            )
            if rank.is_main:
                saver.wait()
        finally:
            run_log.close()
            saver.close()
            with suppress(OSError):  # the error that ended the run is the one to be told
                _write_environment(out, means, rank, waits)
        return _conclude(work, out, state, means, rank, history)


def _history(saved: Checkpoint | None, notes: Sequence[str]) -> list[dict[str, Any]]:
    """What a run's figures should be read with: the step at which it became so, and a line."""
    before = [] if saved is None else list(saved.meta.get("history", []))
    step = 0 if saved is None else saved.meta["step"]
    said = {each["note"] for each in before}
    return before + [{"step": step, "note": note} for note in notes if note not in said]


def _write_environment(
    out: Path, means: ExecutionPlan, rank: ProcessGroup, waits: LoadFollower
) -> None:
    if rank.is_main:
        found = environment.describe(torch.device(means.device)) | dataclasses.asdict(means)
        found |= {"processes": rank.world_size, **waits.to_json()}
        dump_json(found, out / "environment.json")


def _headline(
    work: Task, means: ExecutionPlan, rank: ProcessGroup, saved: Checkpoint | None, out: Path
) -> str:
    parts = [work.title, means.precision, environment.device_name(torch.device(means.device))]
    parts += [f"{rank.world_size} processes"] if rank.world_size > 1 else []
    parts += ["compiled"] if means.compiled else []
    parts += ["CPU kernels" + ", AMX" * means.tiles] if means.fused else []
    parts += ["allocator keeps its pages"] if means.keeps_pages else []
    if saved is not None:
        parts.append(f"going on at step {saved.meta['step']:,}{_unlike(saved, means)}")
    return f"{out}: " + ", ".join(parts)


def _unlike(saved: Checkpoint, means: ExecutionPlan) -> str:
    """Which of the means that the run had it goes on without."""
    now = dataclasses.asdict(means)
    then, found = now | saved.meta.get("means", {}), []
    if torch.device(then["device"]).type != torch.device(means.device).type:
        found.append(then["device"])
    if then["precision"] != means.precision:
        found.append(then["precision"])
    words = {
        "compiled": ("not compiled", "compiled"),
        "fused": ("no CPU kernels", "CPU kernels"),
        "tiles": ("no AMX kernel", "AMX kernel"),
    }
    if then["fused"] != now["fused"]:
        del words["tiles"]  # one of them
    found += [word[then[name]] for name, word in words.items() if then[name] != now[name]]
    return f" (before: {', '.join(found)})" if found else ""


def _conclude(
    work: Task,
    out: Path,
    state: TrainState,
    means: ExecutionPlan,
    rank: ProcessGroup,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """Measure the run's weights on validation and, this once, on test; write result and report."""
    recipe, path = work.recipe, rank.broadcast_from_main(lambda: find_checkpoint(out))
    result = work.conclude(path, means, rank)
    if not rank.is_main:
        return result
    result["train"] = {
        **state.epoch.means(),
        "examples": state.epoch.count,
        "protocol": "mean over the last epoch while training: augmented pictures, moving weights",
        **result.get("train", {}),
    }
    result["seconds"] = state.seconds
    images = state.step * recipe.batch_size
    result["images_per_second"] = images / max(1e-9, state.seconds)
    result["set"], result["history"] = work.images.to_json(), history
    result["net"], result["data"], result["checkpoint"] = recipe.net_name, work.data, path.name
    result["data_summary"] = work.summary.to_json()
    dump_json(result, out / RESULT)
    write_report(out, recipe, result)
    return result
