"""Which runs a CUDA graph can hold, and the graph of one that it can."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from resnets.config import AugmentSpec, Recipe
from resnets.data.loading.loader import TrainStream
from resnets.train.cuda_graph import capture
from resnets.train.cuda_graph.step import GraphTraining
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loop import Stream
from resnets.train.loss import LossFn
from resnets.train.state import TrainState
from resnets.utils.errors import OutOfMemory

# Augmentation whose draws `TrainStream.draws` makes; a crop at random scales is not in memory.
IN_TABLES = {"crop", "pad", "flip", "repeats", "scale"}


def start_graph(
    state: TrainState,
    recipe: Recipe,
    stream: Stream,
    loss_fn: LossFn,
    *,
    model: DataParallelModel,
    autocast: torch.autocast,
    total: int,
    compile_blocks: bool,
) -> GraphTraining | str:
    """The graph of a step of a run, for `fit`; else one line that says why `train_step` is used.

    Where `compile_blocks` is set, `model` may call the compiled network: the graph holds
    `state.model` with compiled blocks.
    """
    device = next(state.model.parameters()).device
    reason = why_not(recipe, stream, model, device)
    if state.scaler is not None:
        reason = reason or "float16 scales its losses by what the last step gave"
    if reason is not None:
        return reason
    assert isinstance(stream, TrainStream)
    uncompiled = DataParallelModel(state.model, model.group)
    try:
        return GraphTraining(
            state,
            uncompiled,
            loss_fn,
            stream,
            autocast,
            recipe,
            total,
            compile_blocks=compile_blocks,
            capture=capture.capture,
        )
    except (RuntimeError, OutOfMemory) as error:  # of CUDA, cuDNN, cuBLAS or the compiler
        return f"a step could not be captured ({' '.join(str(error).split())[:200]})"


def why_not(
    recipe: Recipe, stream: Stream, model: DataParallelModel, device: torch.device
) -> str | None:
    """The first reason why a run's steps cannot be one CUDA graph; None if they can."""
    return next(_reasons(recipe, stream, model, device), None)


def _reasons(
    recipe: Recipe, stream: Stream, model: DataParallelModel, device: torch.device
) -> Iterator[str]:
    """What a graph cannot hold: host decisions in a step, and draws that are not tables."""
    augment, finetune = recipe.data.augment, recipe.finetune
    if device.type != "cuda":
        yield f"the device is {device.type}, not cuda"
    if model.group.world_size > 1:
        yield f"{model.group.world_size} processes exchange gradients"
    if model.fit_memory:
        yield "--fit-memory may change the micro-batch"
    if not isinstance(stream, TrainStream):
        yield f"task={recipe.task} has images of many sizes"
    elif not stream.in_memory:
        yield "the data set is not in memory"
    default = AugmentSpec()
    for each in dataclasses.fields(AugmentSpec):
        if each.name not in IN_TABLES and getattr(augment, each.name) != getattr(
            default, each.name
        ):
            yield f"data.augment.{each.name} draws on the host"
    if recipe.custom:
        yield "a network or loss from outside the package may draw random numbers"
    elif recipe.model.drop_path or any(
        isinstance(each, nn.Dropout) and each.p > 0 for each in model.module.modules()
    ):
        yield "the network draws random numbers (dropout, stochastic depth)"
    if recipe.optim.kind == "lamb":
        yield "optim.kind=lamb counts its steps on the host"
    if recipe.weights is not None and finetune.head_first:
        yield "finetune.head_first changes which layers train"
