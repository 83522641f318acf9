"""Gradient norms by layer, with and without batch norm, with He and with naive initialisation.

The paper (section 4.1) argues that vanishing gradients are not why deep plain nets train worse:
batch norm keeps the forward signals alive and the backward ones healthy. This measures it.
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
from resnets.models import build, catalog
from resnets.study.batches import PRECISION
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import LossFn, classification_loss
from resnets.train.state import Meter, new_state
from resnets.train.step import train_step
from resnets.utils.distributed import ProcessGroup

MEASUREMENTS = 20  # of each training, about
# At the paper's rate of 0.1, a layer whose gradient norm is VANISHED times its weight's needs
# 100,000 equal steps to change by 1%; one at EXPLODED is overwritten by a single step.
VANISHED, EXPLODED = 1e-6, 10.0

State = Literal["vanishes", "explodes", "healthy", "not a number"]


@dataclass(frozen=True)
class Scheme:
    """What keeps signals alive, or does not: `norm` and `init` of the `ModelSpec`."""

    norm: Literal["batch", "none"]
    init: Literal["he", "naive"]

    def __str__(self) -> str:
        norm = "batch norm" if self.norm == "batch" else "no norm"
        return f"{norm}, {'He' if self.init == 'he' else 'naive'} init"


SCHEMES = (
    Scheme("batch", "he"),
    Scheme("batch", "naive"),
    Scheme("none", "he"),
    Scheme("none", "naive"),
)


@dataclass(frozen=True)
class LayerGradient:
    """L2 norms of the loss's gradient by a layer's weight, and of that weight."""

    layer: str
    gradient: float
    weight: float

    @property
    def relative(self) -> float:
        """Norm of the gradient over that of the weight: the layer's change at rate 1."""
        return self.gradient / self.weight if self.weight else math.inf


@dataclass(frozen=True)
class Measurement:
    """Loss of the batch, and gradients by layer, of which update number `step` (0-based) is made.

    `layers` are the convolutions in order, then the head.
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
    def state(self) -> State:
        """Whether any layer's gradient is too small or too large for its weights to be trained."""
        if not all(map(math.isfinite, (self.loss, *(layer.gradient for layer in self.layers)))):
            return "not a number"
        shares = [layer.relative for layer in self.layers]
        if min(shares) < VANISHED:
            return "vanishes"
        return "explodes" if max(shares) > EXPLODED else "healthy"


@dataclass(frozen=True)
class Trace:
    """One short training of `spec`.

    `training_error` in percent is a mean over its last tenth; None where it ended early, because
    the loss was no number any more or no layer had any gradient left (the last measurement's).
    """

    spec: ModelSpec
    measurements: tuple[Measurement, ...]
    training_error: float | None

    @property
    def scheme(self) -> Scheme:
        """How its signals are kept alive."""
        return Scheme(self.spec.norm, self.spec.init)


def layer_gradients(
    net: nn.Module, loss_fn: LossFn, batch: Batch
) -> tuple[float, tuple[LayerGradient, ...]]:
    """Loss of `batch`, and its gradients by the weights of the convolutions and of the head.

    Projections on shortcuts are left out: they stand beside the layers, not among them. Computed
    in training mode on a copy, so that `net` and its batch norm statistics stay as they are.
    """
    twin = copy.deepcopy(net).train()
    weights = {
        name: layer.weight
        for name, layer in twin.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and ".shortcut." not in name
    }
    loss = loss_fn(twin, batch).total
    found = torch.autograd.grad(loss, list(weights.values()))
    return loss.item(), tuple(
        LayerGradient(name, gradient.norm().item(), weight.detach().norm().item())
        for (name, weight), gradient in zip(weights.items(), found, strict=True)
    )


def trace_gradients(
    recipe: Recipe, splits: Splits, preprocessor: Preprocessor, device: torch.device
) -> Trace:
    """Train by `recipe` from random weights, in float32, and measure the gradients on the way.

    A measured gradient is the one that the step's update is made of: same batch, same weights.
    """
    torch.manual_seed(recipe.seed)
    net = build(recipe.model)
    to_device(net, str(device), PRECISION)
    stream = TrainStream(
        splits.train, recipe.data, preprocessor, recipe.batch_size, recipe.seed, device
    )
    total = recipe.steps(recipe.duration, stream.examples)
    state, loss_fn = new_state(net, recipe, total), classification_loss()
    forward = DataParallelModel(net, ProcessGroup())
    every, tail = max(1, total // MEASUREMENTS), total - max(1, total // 10)
    float32 = torch.autocast(device.type, enabled=False)
    measured: list[Measurement] = []
    for batch in islice(stream.batches(0, total), total):
        if state.step % every == 0 or state.step == total - 1:
            now = Measurement(state.step, *layer_gradients(net, loss_fn, batch))
            measured.append(now)
            if now.state == "not a number" or not any(each.gradient for each in now.layers):
                return Trace(recipe.model, tuple(measured), None)
        if state.step == tail:
            state.interval = Meter()
        train_step(state, forward, loss_fn, batch, float32, recipe)
    return Trace(recipe.model, tuple(measured), state.interval.means()["top1_error"])


def network_specs(nets: Sequence[str]) -> list[ModelSpec]:
    """The nets, which must be of the residual family, of one stem, and named once each."""
    if not nets:
        raise ConfigError("name at least one net, such as cifar-plain56,cifar-resnet56")
    if len(set(nets)) < len(nets):
        raise ConfigError(f"nets: {', '.join(nets)}: name each once")
    specs = [catalog.spec(net) for net in nets]
    for spec in specs:
        if spec.is_vgg:
            raise ConfigError(f"{spec.name}: not of the residual family; name plain or resnet nets")
        if spec.stem != specs[0].stem:
            raise ConfigError(
                f"{spec.name} and {specs[0].name}: of unlike stems ({spec.stem}, {specs[0].stem}), "
                "which see pictures of unlike sizes; study them apart"
            )
    return specs


def short_recipe(spec: ModelSpec, source: str, iterations: int, seed: int) -> Recipe:
    """The paper's optimizer and batch at its first rate (section 4.2), without augmentation."""
    size = spec.input_size if spec.stem == "imagenet" else None
    return Recipe(
        name="gradients",
        model=spec,
        data=DataSpec(source=source, size=size, normalize="per-pixel-mean", val_fraction=0.0),
        schedule=ScheduleSpec(kind="constant"),
        duration=f"{iterations}it",
        precision=PRECISION,
        seed=seed,
    )
