"""Open a run without writing to it; `replay` repeats a training step that was not finite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from resnets.config import (
    ConfigError,
    Recipe,
)
from resnets.train import nonfinite
from resnets.train.custom_parts import CustomParts
from resnets.train.data_parallel import DataParallelModel
from resnets.train.execution_plan import ExecutionPlan, choose_plan
from resnets.train.loop import Stream
from resnets.train.nonfinite import NonFiniteStep
from resnets.train.state import TrainState, new_state
from resnets.train.task import Task
from resnets.training import make_saver, open_task, place_model, read_run
from resnets.utils.distributed import ProcessGroup
from resnets.utils.errors import read_object
from resnets.weights.checkpoint.format import (
    Checkpoint,
)


@dataclass(frozen=True)
class OpenedState:
    """A run's task, plan, model, stream of batches and state, in one process, nothing written."""

    task: Task
    plan: ExecutionPlan
    model: DataParallelModel
    stream: Stream
    state: TrainState


def open_state(
    recipe: Recipe, checkpoint: Checkpoint | None, device: str, out: Path = Path()
) -> OpenedState:
    """What a run of `recipe` trains, as `checkpoint` has it, or at step 0. `out`: the run's folder.

    Raises ConfigError, DataError and CheckpointError.
    """
    CustomParts().check(recipe)
    task, group = open_task(recipe, checkpoint, CustomParts()), ProcessGroup()
    plan = choose_plan(task.recipe, task.model, task.examples, device, checkpoint)
    model = place_model(task, plan, group, False, is_new=checkpoint is None)
    stream = task.stream(torch.device(plan.device), group)
    total = task.recipe.steps(task.recipe.duration, stream.examples)
    state = new_state(task.model, task.recipe, total, group, plan.precision)
    if checkpoint is not None:
        make_saver(task, out, plan, []).restore(state, checkpoint)
    return OpenedState(task, plan, model, stream, state)


def replay(out: Path, *, data: str | None = None, device: str = "auto") -> NonFiniteStep:
    """Repeat the step of the run in `out` whose loss or weights were not finite.

    The first call trains on from the newest checkpoint (from step 0 without one) until such a step,
    and keeps it below `out` (`train.nonfinite`); later ones repeat what is kept. On a GPU, whose
    sums may differ from run to run, the step need not come again.

    Raises ConfigError where the run is of another task than classification or of Python objects, or
    where no step to its end is such.
    """
    start = read_run(out)
    if start.recipe.task != "classify":
        raise ConfigError(f"{out}: a run of task {start.recipe.task!r}; replay is for classifiers")
    if data is not None:
        moved = replace(start.recipe.data, source=data)
        start = replace(start, recipe=replace(start.recipe, data=moved))
    opened = open_state(start.recipe, start.checkpoint, device, out)
    task, state, plan = opened.task, opened.state, opened.plan
    folder = out / nonfinite.FOLDER
    parts = (opened.model, task.loss_fn, plan.autocast(), task.recipe)
    if not (folder / nonfinite.SETTINGS).is_file():
        begun = state.step
        found = nonfinite.find_step(state, opened.stream, *parts, folder, plan.precision)
        if found is None:
            raise ConfigError(
                f"{out}: all steps from the newest checkpoint on, {begun:,} to {state.step:,}, are"
                " finite"
            )
    step = int(read_object(folder / nonfinite.SETTINGS)["step"])
    return nonfinite.repeat_step(folder, state, *parts, step)
