"""Gradient norms by layer, with and without batch norm, with He and naive initialization.

The paper (section 4.1) argues that vanishing gradients are not why deep plain networks train worse:
with batch norm, forward signals do not vanish and backward ones have healthy norms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import nn

from resnets.config import ConfigError, DataSpec, ModelSpec, Recipe, ScheduleSpec
from resnets.data import Batch, Preprocessor, Splits, TrainStream
from resnets.evaluate.prepare import to_device
from resnets.models import build
from resnets.study.grid.model_names import model_fields, model_spec
from resnets.study.trained_models import PRECISION
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import LossFn, classification_loss
from resnets.train.state import new_state
from resnets.train.step import TrainStep

MEASUREMENTS = 20  # per run, approximately
MANY_BLOCKS = 300  # from which on activations are recomputed
# At the paper's learning rate of 0.1, a layer whose gradient norm is VANISHED times its weight's
# needs 100,000 equal steps to change by 1%; one at EXPLODED is overwritten by a single step.
VANISHED, EXPLODED = 1e-6, 10.0

State = Literal["vanishing", "exploding", "healthy", "not finite"]


@dataclass(frozen=True)
class Scheme:
    """Norm and initialization of a network, as in `ModelSpec`."""

    norm: Literal["batch", "group+ws", "none"]
    init: Literal["he", "naive"]

    def __str__(self) -> str:
        norm = {"batch": "batch norm", "group+ws": "group norm", "none": "no norm"}[self.norm]
        return f"{norm}, {'He' if self.init == 'he' else 'naive'} init"


SCHEMES = (
    Scheme("batch", "he"),
    Scheme("batch", "naive"),
    Scheme("none", "he"),
    Scheme("none", "naive"),
)


@dataclass(frozen=True)
class LayerGradient:
    """L2 norms of the loss gradient with respect to a layer's weight, and of that weight."""

    layer: str
    gradient: float
    weight: float

    @property
    def relative(self) -> float:
        """Gradient norm over weight norm: the layer's relative change at learning rate 1."""
        return self.gradient / self.weight if self.weight else math.inf


@dataclass(frozen=True)
class Measurement:
    """Loss of the batch and gradients by layer, used by update number `step` (from 0).

    layers: the convolutions in order, then the classifier.
    """

    step: int
    loss: float
    layers: tuple[LayerGradient, ...]

    @property
    def ratio(self) -> float:
        """Gradient norm of the first convolution over that of the last; NaN where both are 0."""
        first, last = self.layers[0].gradient, self.layers[-2].gradient
        return first / last if last else math.nan

    @property
    def smallest(self) -> float:
        """The smallest relative gradient norm of any layer."""
        return min(layer.relative for layer in self.layers)

    @property
    def state(self) -> State:
        """Whether any layer's gradient is too small or too large to train its weights."""
        if not all(map(math.isfinite, (self.loss, *(layer.gradient for layer in self.layers)))):
            return "not finite"
        if self.smallest < VANISHED:
            return "vanishing"
        largest = max(layer.relative for layer in self.layers)
        return "exploding" if largest > EXPLODED else "healthy"


@dataclass(frozen=True)
class Trace:
    """One short run of `spec`.

    training_error: mean over its last tenth, in percent; None if it ended early, because the loss
    was not finite or no layer had a gradient (the last measurement).
    """

    spec: ModelSpec
    measurements: tuple[Measurement, ...]
    training_error: float | None

    @property
    def scheme(self) -> Scheme:
        """The norm and initialization of the run."""
        return Scheme(self.spec.norm, self.spec.init)

    @property
    def depth(self) -> int:
        """Number of blocks, by which models of a family are ordered."""
        return sum(self.spec.depths)

    @property
    def after_zero_init(self) -> tuple[Measurement, ...]:
        """The measurements that show whether gradients vanish.

        Branches that start at zero (ReZero, SkipInit, Fixup) pass no gradient to their layers in
        the first step, by design.
        """
        zero = self.spec.branch_scale in ("rezero", "skipinit", "fixup")
        return self.measurements[1:] if zero and len(self.measurements) > 1 else self.measurements


def layer_gradients(
    model: nn.Module, loss_fn: LossFn, batch: Batch
) -> tuple[float, tuple[LayerGradient, ...]]:
    """Return the loss of `batch` and its gradients for the convolutions and the classifier.

    Projections on shortcuts are excluded, since they are parallel to the layers. Computed in
    training mode on a copy, so that `model` and its batch norm statistics do not change.
    """
    copied = copy.deepcopy(model).train()
    weights = {
        name: layer.weight
        for name, layer in copied.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and ".shortcut." not in name
    }
    loss = loss_fn(copied, batch).total
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return loss.item(), tuple(
        LayerGradient(name, gradient.norm().item(), weight.detach().norm().item())
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    )


def trace_gradients(
    recipe: Recipe, splits: Splits, preprocessor: Preprocessor, device: torch.device
) -> Trace:
    """Train by `recipe` from random weights, in float32, and measure gradients during training.

    A measured gradient is the one that the step's update uses: same batch, same weights.
    """
    torch.manual_seed(recipe.seed)
    model = build(recipe.model)
    model.recompute = recipe.recompute
    to_device(model, str(device), PRECISION)
    stream = TrainStream(
        splits.train, recipe.data, preprocessor, recipe.batch_size, recipe.seed, device
    )
    total = recipe.steps(recipe.duration, stream.examples)
    state, loss_fn = new_state(model, recipe, total), classification_loss()
    every, tail = max(1, total // MEASUREMENTS), total - max(1, total // 10)
    float32 = torch.autocast(device.type, enabled=False)
    train_step = TrainStep(state, DataParallelModel(model), loss_fn, float32, recipe)
    measurements: list[Measurement] = []
    for batch in islice(stream.batches(0, total), total):
        if state.step % every == 0 or state.step == total - 1:
            now = Measurement(state.step, *layer_gradients(model, loss_fn, batch))
            measurements.append(now)
            if now.state == "not finite" or not any(each.gradient for each in now.layers):
                return Trace(recipe.model, tuple(measurements), None)
        if state.step == tail:
            state.interval.reset()
        train_step(batch)
    return Trace(recipe.model, tuple(measurements), state.interval.means()["top1_error"])


def model_specs(names: Sequence[str]) -> list[ModelSpec]:
    """Return the specs of `names`: NAME, NAME:OPTION or NAME:FIELD=VALUE with fields of the model.

    Raises ConfigError for repeated names, VGGs, and models of different stems.
    """
    if not names:
        raise ConfigError("name at least one model, such as cifar-plain56,cifar-resnet56")
    if len(set(names)) < len(names):
        raise ConfigError(f"models: {', '.join(names)}: name each once")
    for path in (path for name in names for path in model_fields(name)):
        if not path.startswith("model."):
            raise ConfigError(f"{path}: this study has a recipe of its own; name model fields only")
    specs = [model_spec(name) for name in names]
    for spec in specs:
        if spec.is_vgg:
            raise ConfigError(
                f"{spec.name}: not a plain or residual network; give plain or residual ones"
            )
        if spec.stem != specs[0].stem:
            raise ConfigError(
                f"{spec.name} and {specs[0].name}: the stems {spec.stem} and {specs[0].stem} need "
                "images of different sizes; study them separately"
            )
    return specs


def choose_schemes(spec: ModelSpec) -> tuple[Scheme, ...]:
    """Return `SCHEMES`, or only the network's own if its name or its branches set it."""
    fields = model_fields(spec.name)
    if "model.norm" in fields or "model.init" in fields or spec.norm != "batch":
        return (Scheme(spec.norm, spec.init),)
    return SCHEMES


def short_recipe(spec: ModelSpec, source: str, iterations: int, seed: int) -> Recipe:
    """Return a recipe of the paper's optimizer and batch size at a constant rate (section 4.2)."""
    size = None if spec.stem == "cifar" else spec.input_size
    return Recipe(
        name="gradients",
        model=spec,
        data=DataSpec(source=source, size=size, normalize="per-pixel-mean", val_fraction=0.0),
        schedule=ScheduleSpec(kind="constant"),
        duration=f"{iterations}it",
        precision=PRECISION,
        recompute=sum(spec.depths) >= MANY_BLOCKS,
        seed=seed,
    )


def list_schemes(traces: Sequence[Trace]) -> list[Scheme]:
    """Return the schemes of the traces, in the order of `SCHEMES`; others follow."""
    used = [trace.scheme for trace in traces]
    return [scheme for scheme in dict.fromkeys((*SCHEMES, *used)) if scheme in used]
