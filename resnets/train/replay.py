"""Repeat a training step whose loss or weights are not finite, and find the layer that causes it.

Batches and random numbers are functions of (seed, step), so repeating the steps since the last
checkpoint reproduces the run, bit for bit on one CPU. The non-finite step is stored with all that
it needs: the batch, the weights, the optimizer's state, the loss scale before the step, and the
recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, Recipe, to_dict
from resnets.data.batch import Batch
from resnets.train.execution_plan import ExecutionPlan, choose_plan
from resnets.train.guards.divergence import find_nonfinite
from resnets.train.loop import Stream
from resnets.train.optim.optimizers import load_state_tensors
from resnets.train.resume import read_run
from resnets.train.run import build_step, open_task
from resnets.train.saver import restore_state
from resnets.train.state import TrainState
from resnets.train.step import TrainStep
from resnets.train.tasks.custom_parts import CustomParts
from resnets.utils.api_function import api_function
from resnets.utils.errors import reading
from resnets.utils.files.write import atomic_write
from resnets.utils.machine.distributed import ProcessGroup
from resnets.weights.checkpoint.format import Checkpoint, EncodedCheckpoint, read_checkpoint
from resnets.weights.errors import CheckpointError
from resnets.weights.load import load_weights

FILE = Path("nonfinite") / "step.safetensors"  # in the run's folder; a checkpoint with the batch


@dataclass(frozen=True)
class NonFiniteStep:
    """The non-finite step stored in `file`.

    Attributes:
        module: First module in the order of the forward pass whose output is not finite although
            its input is; None if all outputs are finite.
        gradient: First parameter whose gradient is not finite.
        weight: First parameter or buffer that is not finite after the step.
        max_outputs: Largest absolute output of each of the last modules before `module`.
    """

    file: Path
    step: int
    lr: float
    loss: float
    module: str | None
    gradient: str | None
    weight: str | None
    max_outputs: dict[str, float]

    def __str__(self) -> str:
        """Return one line: the step, its loss, and the first non-finite values."""
        causes = [
            f"{what} {name}"
            for what, name in (
                ("first output that is not finite:", self.module),
                ("first gradient:", self.gradient),
                ("first weight after the step:", self.weight),
            )
            if name is not None
        ]
        return f"step {self.step:,}, lr {self.lr:.3g}: loss {self.loss:.4g}; {'; '.join(causes)}"


@api_function
def replay(
    run: str | PathLike[str],
    *,
    data: str | PathLike[str] | None = None,
    device: str = "auto",
) -> NonFiniteStep:
    """Repeat the step of a run in which the loss or weights became NaN or infinite; find the layer.

        found = resnets.replay("runs/mine")
        found.step, found.module, found.max_outputs

    The first call trains from the newest checkpoint (from step 0 without one) until such a step,
    and stores it in the run's folder; later calls repeat the stored step. data: new location of the
    data set. On a GPU, sums may differ between runs, so the step may not occur again.

    Raises ConfigError for tasks other than classification, for runs with Python objects, and if no
    such step is found. Raises CheckpointError if the stored step is damaged.
    """
    out = Path(run)
    start = read_run(out, None if data is None else fspath(data))
    if start.recipe.task != "classify":
        raise ConfigError(f"{out}: a run of task {start.recipe.task!r}; replay is for classifiers")
    step, stream, plan = open_training(start.recipe, start.checkpoint, device)
    state, file = step.state, out / FILE
    if not file.exists():
        first = state.step
        if not find_step(step, stream, file, plan.precision):
            raise ConfigError(
                f"{out}: all steps from the newest checkpoint on, {first:,} to {state.step:,}, are"
                " finite"
            )
    return repeat_step(step, file)


def open_training(
    recipe: Recipe, checkpoint: Checkpoint | None, device: str
) -> tuple[TrainStep, Stream, ExecutionPlan]:
    """Open a run of `recipe` at `checkpoint`, or at step 0, in one process, without writing files.

    Raises ConfigError, DataError and CheckpointError.
    """
    CustomParts().check(recipe)
    task = open_task(recipe, checkpoint, CustomParts())
    plan = choose_plan(task.recipe, task.model, task.examples, device, checkpoint)
    step, stream = build_step(task, plan, ProcessGroup(), is_new=checkpoint is None)
    if checkpoint is not None:
        restore_state(step.state, checkpoint)
    return step, stream, plan


def find_step(step: TrainStep, stream: Stream, file: Path, precision: str) -> bool:
    """Train until a loss or weight is not finite, and store that step in `file`.

    Returns False if the run ends without such a step.
    """
    state, recipe = step.state, step.recipe
    total = recipe.steps(recipe.duration, stream.examples)
    for batch in stream.batches(state.step, total) if state.step < total else ():
        before, number = _copy_tensors(state), state.step
        state.interval.reset()
        step(batch)
        is_finite = all(torch.isfinite(each).all() for each in state.interval.sums.values())
        if not is_finite or find_nonfinite(dict(state.model.state_dict())) is not None:
            meta = {"step": number, "precision": precision, "recipe": to_dict(recipe)}
            file.parent.mkdir(exist_ok=True)
            with atomic_write(file) as temporary, open(temporary, "wb") as stored:
                EncodedCheckpoint(before | _batch_tensors(batch), meta).write(stored)
            return True
        if state.step >= total:
            break
    return False


def repeat_step(step: TrainStep, file: Path) -> NonFiniteStep:
    """Repeat the step stored in `file`, and find the first values that are not finite.

    Raises CheckpointError if the file is damaged or belongs to another run.
    """
    stored, state = read_checkpoint(file), step.state
    outputs: dict[str, _Output] = {}
    gradient: str | None = None

    def find_gradient() -> None:
        nonlocal gradient
        gradients = {name: each.grad for name, each in state.model.named_parameters()}
        gradient = find_nonfinite({k: each for k, each in gradients.items() if each is not None})

    with reading(
        file, CheckpointError, "as a step of this run", "delete it to find the step again"
    ):
        load_weights(state.model, stored.group("model"), file)
        load_state_tensors(state.model, state.optimizer, stored.group("optim"))
        if state.scaler is not None:
            state.scaler.load_state_tensors(stored.group("scaler"))
        batch = _stored_batch(stored, next(state.model.parameters()).device)
        state.step = stored.step
        lr = state.schedule.lr(state.step)
        state.interval.reset()
        with _record_outputs(state.model, outputs):
            replace(step, on_gradients=find_gradient)(batch)
    names = list(outputs)
    module = next((name for name in names if outputs[name].becomes_nonfinite), None)
    before = names if module is None else names[: names.index(module)]
    return NonFiniteStep(
        file,
        stored.step,
        lr,
        state.interval.means()["loss"],
        module,
        gradient,
        find_nonfinite(dict(state.model.state_dict())),
        {name: outputs[name].maximum for name in before[-5:]},
    )


@dataclass(frozen=True)
class _Output:
    """Largest absolute output of a module, and whether it is not finite while the input is."""

    maximum: float
    becomes_nonfinite: bool


@contextmanager
def _record_outputs(model: nn.Module, outputs: dict[str, _Output]) -> Iterator[None]:
    """Context in which each forward pass records the outputs of all leaf modules by name."""

    def make_hook(name: str) -> Any:
        def record(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            input_is_finite = all(
                bool(torch.isfinite(each).all()) for each in inputs if isinstance(each, Tensor)
            )
            output_is_finite = bool(torch.isfinite(output).all())
            maximum = float(output.detach().abs().max())
            becomes_nonfinite = input_is_finite and not output_is_finite
            if (before := outputs.get(name)) is not None:  # of an earlier micro-batch
                maximum = max(before.maximum, maximum)
                becomes_nonfinite |= before.becomes_nonfinite
            outputs[name] = _Output(maximum, becomes_nonfinite)

        return record

    leaves = [(name, each) for name, each in model.named_modules() if not list(each.children())]
    handles = [each.register_forward_hook(make_hook(name)) for name, each in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _copy_tensors(state: TrainState) -> dict[str, Tensor]:
    """Copy the weights, buffers, and the state of the optimizer and the loss scale."""
    return {
        name: each.detach().cpu().clone()
        for name, each in state.tensors().items()
        if name.startswith(("model/", "optim/", "scaler/"))
    }


def _batch_tensors(batch: Batch) -> dict[str, Tensor]:
    fields = {name: each for name, each in vars(batch).items() if each is not None}
    return {f"batch/{name}": each.detach().cpu() for name, each in fields.items()}


def _stored_batch(stored: Checkpoint, device: torch.device) -> Batch:
    fields = {name: each.to(device) for name, each in stored.group("batch").items()}
    return Batch(**{**fields, "ids": fields["ids"].cpu()})
