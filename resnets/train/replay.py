"""Open a run without writing to it, and repeat a step whose loss or weights are not finite.

Batches and random numbers are functions of (seed, step), so the steps since the last checkpoint
repeat the run's own, on one CPU bit for bit. Such a step is kept with all that it needs: the batch,
the weights and the optimizer's state before it, and the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, Recipe, to_dict
from resnets.data.batch import Batch
from resnets.train.data_parallel import DataParallelModel
from resnets.train.execution_plan import ExecutionPlan, choose_plan
from resnets.train.guards.divergence import not_finite
from resnets.train.loop import Stream
from resnets.train.loss import LossFn
from resnets.train.optim.optimizers import load_state_tensors, set_lr, state_tensors
from resnets.train.run import make_saver, open_task, place_model, read_run
from resnets.train.state import TrainState, new_state
from resnets.train.step import seed_step, train_step
from resnets.train.tasks.custom_parts import CustomParts
from resnets.train.tasks.task import Task
from resnets.utils.distributed import ProcessGroup
from resnets.utils.errors import reading
from resnets.utils.files import atomic_write
from resnets.weights.checkpoint.format import Checkpoint, EncodedCheckpoint, read_checkpoint
from resnets.weights.errors import CheckpointError
from resnets.weights.load import load_weights

FILE = Path("nonfinite") / "step.safetensors"  # in the run's folder; a checkpoint with the batch
PARTS = ("images", "targets", "ids", "other", "share")  # of a batch


@dataclass(frozen=True)
class NonFiniteStep:
    """The step kept in `file`.

    first: the first module, in the order of the forward pass, whose output is not finite though
    its input is; None where all outputs are finite. gradient, weight: the first parameter whose
    gradient, and the first parameter or statistic whose value after the step, is not finite.
    largest: the largest absolute output of each of the last modules before `first`.
    """

    file: Path
    step: int
    lr: float
    loss: float
    first: str | None
    gradient: str | None
    weight: str | None
    largest: dict[str, float]

    def __str__(self) -> str:
        """One line: the step, its loss, and where it went wrong."""
        found = [
            f"{what} {name}"
            for what, name in (
                ("first output that is not finite:", self.first),
                ("first gradient:", self.gradient),
                ("first weight after the step:", self.weight),
            )
            if name is not None
        ]
        return f"step {self.step:,}, lr {self.lr:.3g}: loss {self.loss:.4g}; {'; '.join(found)}"


def find_step(
    state: TrainState,
    stream: Stream,
    model: DataParallelModel,
    loss_fn: LossFn,
    autocast: torch.autocast,
    recipe: Recipe,
    file: Path,
    precision: str,
) -> bool:
    """Train on from `state` until a loss or weight is not finite, and keep that step in `file`.

    False where the run ends before.
    """
    total = recipe.steps(recipe.duration, stream.examples)
    for batch in stream.batches(state.step, total) if state.step < total else ():
        before = _tensors(state)
        step = state.step
        state.interval.reset()
        train_step(state, model, loss_fn, batch, autocast, recipe)
        finite = all(torch.isfinite(each).all() for each in state.interval.sums.values())
        if not finite or not_finite(dict(state.model.state_dict())) is not None:
            meta = {"step": step, "precision": precision, "recipe": to_dict(recipe)}
            file.parent.mkdir(exist_ok=True)
            with atomic_write(file) as temporary, open(temporary, "wb") as stored:
                EncodedCheckpoint(before | _batch_tensors(batch), meta).write(stored)
            return True
        if state.step >= total:
            break
    return False


def repeat_step(
    file: Path,
    state: TrainState,
    model: DataParallelModel,
    loss_fn: LossFn,
    autocast: torch.autocast,
    recipe: Recipe,
) -> NonFiniteStep:
    """Repeat the step that is kept in `file`, and say where it ceases to be finite.

    CheckpointError where the file is damaged or of another run.
    """
    kept = read_checkpoint(file)
    outputs: dict[str, tuple[float, bool]] = {}
    with reading(
        file, CheckpointError, "as a step of this run", "delete it to find the step again"
    ):
        load_weights(state.model, kept.group("model"), file)
        load_state_tensors(state.model, state.optimizer, kept.group("optim"))
        batch = _stored_batch(kept, next(state.model.parameters()).device)
        state.step = step = kept.step
        lr = state.schedule.lr(step)
        set_lr(state.optimizer, lr)
        state.freeze_schedule.apply(step)
        model.prepare()
        seed_step(recipe.seed, step, model.group)
        with _watching(state.model, outputs), autocast:
            losses = loss_fn(model, batch)
    losses.total.backward()
    gradients = {
        name: each.grad for name, each in state.model.named_parameters() if each.grad is not None
    }
    state.optimizer.step()
    first = next((name for name, (_, made) in outputs.items() if made), None)
    names = list(outputs)[: None if first is None else list(outputs).index(first)]
    return NonFiniteStep(
        file,
        step,
        lr,
        float(losses.total.detach()),
        first,
        not_finite(gradients),
        not_finite(dict(state.model.state_dict())),
        {name: outputs[name][0] for name in names[-5:]},
    )


@contextmanager
def _watching(model: nn.Module, outputs: dict[str, tuple[float, bool]]) -> Iterator[None]:
    """Note the largest output of each module, and whether it is not finite of a finite input."""

    def hook(name: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            came = all(
                bool(torch.isfinite(each).all()) for each in inputs if isinstance(each, Tensor)
            )
            left = bool(torch.isfinite(output).all())
            outputs[name] = float(output.detach().abs().max()), came and not left

        return note

    leaves = [(name, each) for name, each in model.named_modules() if not list(each.children())]
    handles = [each.register_forward_hook(hook(name)) for name, each in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Copies of the weights, statistics and optimizer's state."""
    found = {f"model/{name}": each for name, each in state.model.state_dict().items()}
    found |= {
        f"optim/{name}": each for name, each in state_tensors(state.model, state.optimizer).items()
    }
    return {name: each.detach().cpu().clone() for name, each in found.items()}


def _batch_tensors(batch: Batch) -> dict[str, Tensor]:
    parts = {f"batch/{name}": getattr(batch, name) for name in PARTS}
    return {name: each.detach().cpu() for name, each in parts.items() if each is not None}


def _stored_batch(kept: Checkpoint, device: torch.device) -> Batch:
    parts = {name: each.to(device) for name, each in kept.group("batch").items()}
    return Batch(**{**parts, "ids": parts["ids"].cpu()})


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
    and keeps it below `out`; later ones repeat what is kept. On a GPU, whose
    sums may differ from run to run, the step need not come again.

    Raises ConfigError where the run is of another task than classification or of Python objects, or
    where no step to its end is such, and CheckpointError where what is kept is damaged.
    """
    start = read_run(out)
    if start.recipe.task != "classify":
        raise ConfigError(f"{out}: a run of task {start.recipe.task!r}; replay is for classifiers")
    if data is not None:
        moved = replace(start.recipe.data, source=data)
        start = replace(start, recipe=replace(start.recipe, data=moved))
    opened = open_state(start.recipe, start.checkpoint, device, out)
    task, state, plan = opened.task, opened.state, opened.plan
    file = out / FILE
    parts = (opened.model, task.loss_fn, plan.autocast(), task.recipe)
    if not file.exists():
        begun = state.step
        if not find_step(state, opened.stream, *parts, file, plan.precision):
            raise ConfigError(
                f"{out}: all steps from the newest checkpoint on, {begun:,} to {state.step:,}, are"
                " finite"
            )
    return repeat_step(file, state, *parts)
