"""Training length of a grid's models: a budget in steps, epochs or minutes, resolved once."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import MappingProxyType

import torch
from torch import nn

from resnets.config import ConfigError, Recipe
from resnets.data import open_data
from resnets.data.dataset.labels import is_multilabel
from resnets.data.dataset.summary import announce
from resnets.data.loading.batches import TrainStream
from resnets.data.transforms.preprocess import fit_preprocess
from resnets.models import build
from resnets.models.block_config import MakeBlock
from resnets.study.grid.cells import Grid, cell_recipe
from resnets.study.grid.model_names import custom_block
from resnets.study.grid.worker import init_worker, worker_context
from resnets.study.trained_models import multilabel_error
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loop import Stream
from resnets.train.loss import LossFn, classification_loss
from resnets.train.run import open_task
from resnets.train.state import new_state
from resnets.train.step import TrainStep
from resnets.train.tasks.custom_parts import CustomParts
from resnets.utils.machine import environment
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.precision import autocast, pick_precision
from resnets.utils.machine.processes import without_main_module

Blocks = Mapping[str, MakeBlock]  # from outside the package, by the names of `Grid.blocks`

# Fewer steps, or fewer than one pass over the training set, are no basis for a conclusion.
MIN_STEPS = 20
# Seconds from the start of a worker to its first step, and from its last to the written report.
CELL_OVERHEAD = 10.0
# Fraction of a budget in minutes that is planned; the rest is for what timing does not capture.
PLANNED_FRACTION = 0.9
TIMED_STEPS, TIMED_SECONDS = 5, 10.0


@dataclass(frozen=True)
class Survey:
    """Size of the data and speed of the models, from which a budget is resolved.

    examples: training images. seconds: model -> seconds of one training step with its share of the
    evaluations; empty if not timed.
    """

    examples: int
    seconds: Mapping[str, float]


def parse_budget(text: str) -> tuple[float, str]:
    """Split "2000it", "30ep" or "5min" into amount and "it", "ep" or "min"; ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(it|ep|min)", text.strip())
    if not match or float(match[1]) <= 0:
        raise ConfigError(f"budget: {text!r} is not a budget such as '2000it', '30ep' or '5min'")
    return float(match[1]), match[2]


def resolve_budget(grid: Grid, jobs: int, device: str, threads: int, blocks: Blocks) -> Grid:
    """Set the grid's steps from the size of the data and, for minutes, a few timed steps."""
    timed = parse_budget(grid.budget)[1] == "min"
    survey = _survey_in_subprocess(grid, device, threads, timed=timed, blocks=blocks)
    return set_steps(grid, survey, jobs)


def custom_parts(model: str, blocks: Blocks) -> CustomParts:
    """Return the custom parts of a model whose name has a block from outside the package."""
    label = custom_block(model)
    return CustomParts() if label is None else CustomParts(partial(build, block=blocks[label]))


def set_steps(grid: Grid, survey: Survey, jobs: int) -> Grid:
    """Return the grid with the number of steps its budget allows with `jobs` cells at a time.

    Raises ConfigError if they are too few for a conclusion.
    """
    amount, unit = parse_budget(grid.budget)
    recipe = cell_recipe(grid, grid.models[0], 0)
    epoch = recipe.steps("1ep", survey.examples)
    if unit == "min":
        steps = int(_steps_within(60 * amount, grid, survey, jobs))
    else:
        steps = recipe.steps(grid.budget, survey.examples)
    min_steps = max(MIN_STEPS, epoch)
    if steps < min_steps:
        raise ConfigError(
            f"budget: {grid.budget} is {max(0, steps)} steps for each of {sum(grid.seeds)} runs, "
            f"too few for a conclusion: one pass over the training set takes {epoch}; give "
            f"{_min_budget(min_steps, unit, epoch, grid, survey, jobs)} or more"
        )
    return dataclasses.replace(grid, iterations=steps, epoch=epoch)


def _steps_within(seconds: float, grid: Grid, survey: Survey, jobs: int) -> float:
    """Return the steps per cell that all cells, `jobs` at a time, can take within `seconds`."""
    busy = PLANNED_FRACTION * seconds * jobs - CELL_OVERHEAD * sum(grid.seeds)
    return busy / _seconds_per_step(grid, survey)


def _seconds_per_step(grid: Grid, survey: Survey) -> float:
    """Return the seconds of one step of every cell, one after another."""
    return sum(n * survey.seconds[model] for model, n in zip(grid.models, grid.seeds, strict=True))


def _min_budget(steps: int, unit: str, epoch: int, grid: Grid, survey: Survey, jobs: int) -> str:
    """Return the budget in `unit` that gives each run `steps` steps."""
    if unit == "it":
        return f"{steps}it"
    if unit == "ep":
        return f"{-(-steps // epoch)}ep"
    busy = steps * _seconds_per_step(grid, survey) + CELL_OVERHEAD * sum(grid.seeds)
    return f"{int(busy / (60 * PLANNED_FRACTION * jobs)) + 1}min"


def _survey_in_subprocess(
    grid: Grid, device: str, threads: int, *, timed: bool, blocks: Blocks
) -> Survey:
    """Run `survey_grid` in a subprocess, whose end frees data, models and device memory."""
    context = worker_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_survey, args=(sender, grid, device, threads, timed, dict(blocks)), daemon=True
    )
    with without_main_module():
        process.start()
    sender.close()
    try:
        received = receiver.recv()
    except EOFError:
        process.join()
        raise ValueError(f"opening the data ended with exit code {process.exitcode}") from None
    finally:
        process.terminate()
    if isinstance(received, Exception):
        raise received
    return received


def _send_survey(
    sender: Connection, grid: Grid, device: str, threads: int, timed: bool, blocks: Blocks
) -> None:
    init_worker(threads)
    try:
        sender.send(survey_grid(grid, device, timed=timed, blocks=blocks))
    except (ValueError, OSError, RuntimeError) as error:
        sender.send(error)


def survey_grid(
    grid: Grid, device: str, *, timed: bool, blocks: Blocks = MappingProxyType({})
) -> Survey:
    """Open the grid's data and count the images; if `timed`, train each model for a few steps."""
    recipe, target = cell_recipe(grid, grid.models[0], 0), environment.pick_device(device)
    if recipe.task == "text":
        return _survey_text(grid, target, timed=timed)
    splits = open_data(recipe.data)
    if is_multilabel(splits.train.labels):
        raise multilabel_error(recipe.data.source)
    data = dataclasses.replace(recipe.data, value_range=splits.value_range)
    recipe = dataclasses.replace(recipe, data=data)
    announce(splits)
    if not timed:
        return Survey(len(splits.train), {})
    preprocessor = fit_preprocess(splits.train, recipe.data, recipe.model.in_channels)
    stream = TrainStream(
        splits.train,
        recipe.data,
        preprocessor,
        recipe.batch_size,
        recipe.seed,
        target,
        channels_last=recipe.channels_last,
    )
    held_out = sum(len(split) for split in (splits.val, splits.test()) if split is not None)
    # A forward pass is about a third of a step.
    evaluations = (
        held_out / recipe.batch_size / 3 / recipe.steps(recipe.eval.every, len(splits.train))
    )
    seconds = {}
    for name in grid.models:
        recipe = cell_recipe(grid, name, 0)
        spec = dataclasses.replace(recipe.model, num_classes=len(splits.classes))
        model = build(spec, block=blocks.get(custom_block(name) or ""))
        model.recompute = recipe.recompute
        step = time_step(model, classification_loss(recipe.loss), recipe, stream, target)
        seconds[name] = step * (1 + evaluations)
    return Survey(len(splits.train), seconds)


def _survey_text(grid: Grid, device: torch.device, *, timed: bool) -> Survey:
    """Survey a text: count its windows and, if `timed`, train each model for a few steps."""
    seconds, examples = {}, 0
    for name in grid.models if timed else grid.models[:1]:
        task = open_task(cell_recipe(grid, name, 0), None, CustomParts())
        recipe, examples = task.recipe, task.examples
        announce(task)
        if timed:
            stream = task.stream(device, ProcessGroup())
            step = time_step(task.model, task.loss_fn, recipe, stream, device)
            held_out = recipe.data.val_fraction + recipe.data.test_fraction
            every = recipe.steps(recipe.eval.every, examples) * recipe.batch_size
            seconds[name] = step * (1 + held_out * examples / every / 3)
    return Survey(examples, seconds)


def time_step(
    model: nn.Module, loss_fn: LossFn, recipe: Recipe, stream: Stream, device: torch.device
) -> float:
    """Return the seconds of a training step of `model`: a mean after a warm-up.

    It is neither compiled nor a CUDA graph, so a run with those takes less time.
    """
    if device.type == "cpu":
        environment.tune_malloc()
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    precision = pick_precision(recipe.precision, device, keep_bits=recipe.data.keep_bits)
    state = new_state(model, recipe, TIMED_STEPS + 1, precision=precision)
    forward = DataParallelModel(model)
    train_step = TrainStep(state, forward, loss_fn, autocast(device, precision), recipe)
    batches, start = stream.batches(), 0.0
    while state.step <= TIMED_STEPS:
        train_step(next(batches))
        state.interval.means()  # reading a sum synchronizes with the device
        if state.step == 1:
            start = time.perf_counter()
        elif time.perf_counter() - start > TIMED_SECONDS:
            break
    return (time.perf_counter() - start) / (state.step - 1)
