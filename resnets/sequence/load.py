"""Open data of sequences, and build or load their models."""

from __future__ import annotations

import dataclasses
from os import PathLike, fspath
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec, Recipe
from resnets.models import build as build_network
from resnets.models.transformer.network import Transformer
from resnets.sequence.dataset import SequenceData
from resnets.sequence.signals import Signals, open_signals
from resnets.sequence.text import open_text
from resnets.weights.checkpoint.find import open_checkpoint
from resnets.weights.load import load_weights

TASKS = ("text", "signals")


class SignalNetwork(nn.Module):
    """A 1-D network that standardizes each channel of its input first.

    mean, std: statistics (C, 1) of the training signals; they are stored with the weights, so that
    inputs are the values in files.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec, self.network = spec, build_network(spec)
        self.register_buffer("mean", torch.zeros(spec.in_channels, 1))
        self.register_buffer("std", torch.ones(spec.in_channels, 1))
        self.classes: tuple[str, ...] = ()
        self.origin = "random initialization"
        self.recipe: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of signals (B, C, L)."""
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


SequenceModel = Transformer | SignalNetwork


def open_sequences(recipe: Recipe) -> SequenceData:
    """Open the data of a recipe of task "text" or "signals"; DataError if they cannot be used."""
    if recipe.task == "text":
        return open_text(recipe.data, recipe.transformer.context)
    return open_signals(recipe.data, recipe.signal)


def complete_recipe(recipe: Recipe, data: SequenceData) -> Recipe:
    """Return the recipe with the fields of the model that depend on the data."""
    if recipe.task == "text":
        transformer = dataclasses.replace(recipe.transformer, vocabulary=len(data.classes))
        return dataclasses.replace(recipe, transformer=transformer)
    train = data.splits["train"]
    assert isinstance(train, Signals)
    _, channels, length = train.values.shape
    model = dataclasses.replace(
        recipe.model, num_classes=len(data.classes), in_channels=channels, input_size=length
    )
    return dataclasses.replace(recipe, model=model)


def build(recipe: Recipe, data: SequenceData | None = None) -> SequenceModel:
    """Build a new model; one for signals takes mean and standard deviation from `data`."""
    if recipe.task == "text":
        return Transformer(recipe.transformer)
    model = SignalNetwork(recipe.model)
    if data is not None:
        train = data.splits["train"]
        assert isinstance(train, Signals)
        std, mean = torch.std_mean(train.values, (0, 2), correction=0)
        model.mean.copy_(mean[:, None])
        model.std.copy_(torch.where(std > 0, std, 1.0)[:, None])  # 0 of a constant channel
    return model


def load_sequence_model(weights: str | PathLike[str]) -> SequenceModel:
    """Load the model of a run folder or checkpoint, in eval mode, float32, on the CPU.

    See `resnets.load`; `classes` of text are its characters. Raises CheckpointError, and
    ConfigError for a model of another task.
    """
    checkpoint = open_checkpoint(fspath(weights))
    recipe, path = checkpoint.recipe, checkpoint.path
    if recipe.task not in TASKS:
        raise ConfigError(f"{weights}: is for task {recipe.task}, not a model of text or signals")
    model = build(recipe)
    averaged = checkpoint.group("ema")
    load_weights(model, averaged or checkpoint.group("model"), path)
    model.classes, model.recipe = checkpoint.classes, recipe
    kind = ", averaged weights" if averaged or checkpoint.meta.get("averaged") else ""
    model.origin = f"{path.name} (step {checkpoint.step:,}{kind})"
    return model.eval()
