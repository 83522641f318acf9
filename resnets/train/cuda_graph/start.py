"""Capture the steps of a run as CUDA graphs, if its recipe allows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from resnets.config import AugmentSpec, Recipe
from resnets.data.loading.batches import TrainStream
from resnets.train.cuda_graph import capture
from resnets.train.cuda_graph.step import GraphTraining
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loop import Stream
from resnets.train.step import TrainStep
from resnets.utils.errors import OutOfMemory

# Augmentations whose random draws `TrainStream.draws` returns; not of random-scale crops.
IN_TABLES = {"crop", "pad", "flip", "flip_rule", "repeats", "scale"}
DRAWS = "the network draws random numbers (dropout, stochastic depth)"


def start_graph(
    step: TrainStep, stream: Stream, total: int, *, compile_blocks: bool
) -> GraphTraining | str:
    """Return the stream and the step of a run of `total` steps as CUDA graphs, for `fit`.

    If that is not possible, return the reason as one line. With `compile_blocks` the graph contains
    compiled blocks; `step.model` may call the compiled network.
    """
    device = next(step.state.model.parameters()).device
    reason = find_obstacle(step.recipe, stream, step.model, device)
    if reason is None and step.state.scaler is not None:
        reason = "float16 loss scaling depends on the result of the previous step"
    if reason is not None:
        return reason
    assert isinstance(stream, TrainStream)
    uncompiled = DataParallelModel(step.state.model, step.model.group)
    try:
        return GraphTraining(
            dataclasses.replace(step, model=uncompiled),
            stream,
            total,
            compile_blocks=compile_blocks,
            capture=capture.capture,
        )
    except (RuntimeError, OutOfMemory) as error:  # from CUDA, cuDNN, cuBLAS or the compiler
        return f"a step could not be captured ({' '.join(str(error).split())[:200]})"


def find_obstacle(
    recipe: Recipe, stream: Stream, model: DataParallelModel, device: torch.device
) -> str | None:
    """Return the first reason why the steps of a run cannot be CUDA graphs; None if they can."""
    return next(_iter_obstacles(recipe, stream, model, device), None)


def _iter_obstacles(
    recipe: Recipe, stream: Stream, model: DataParallelModel, device: torch.device
) -> Iterator[str]:
    """Yield what a graph cannot contain: decisions on the host, and draws not in `StepTables`."""
    if device.type != "cuda":
        yield f"the device is {device.type}, not cuda"
    if model.group.world_size > 1:
        yield f"{model.group.world_size} processes exchange gradients"
    if not isinstance(stream, TrainStream):
        yield f"task={recipe.task} is not classification of images"
    elif not stream.in_memory:
        yield "the data set is not in memory"
    yield from recipe_obstacles(recipe)
    if any(isinstance(each, nn.Dropout) and each.p > 0 for each in model.module.modules()):
        yield DRAWS


def recipe_obstacles(recipe: Recipe) -> Iterator[str]:
    """Yield the reasons why no run of a recipe can use CUDA graphs."""
    augment, finetune = recipe.data.augment, recipe.finetune
    default = AugmentSpec()
    for field in dataclasses.fields(AugmentSpec):
        is_set = getattr(augment, field.name) != getattr(default, field.name)
        if field.name not in IN_TABLES and is_set:
            yield f"data.augment.{field.name} draws random numbers on the host"
    if recipe.distill.teacher is not None:
        yield "a teacher (distill.teacher) runs in each step"
    if recipe.custom:
        yield "a custom network or loss may draw random numbers"
    elif recipe.model.drop_path:
        yield DRAWS
    if recipe.optim.kind == "lamb":
        yield "optim.kind=lamb counts its steps on the host"
    if recipe.weights is not None and finetune.head_first:
        yield "finetune.head_first changes which layers are trained"
