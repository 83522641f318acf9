"""Check before training that each batch norm sees at least two values per channel.

With one value the normalized output is zero for any input. This happens for a 1x1 px feature map
(of a 32 px image after five halvings) with one image per pass. torch raises an error only in the
middle of a run, and the CPU kernels of this package raise none.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from resnets.config import ConfigError, Recipe
from resnets.models.cost import shapes_only
from resnets.models.norm import BATCH_NORMS
from resnets.models.resnet import ResNet
from resnets.models.speedrun_layers import check_speedrun_layers
from resnets.train.optim.freeze import FreezeSchedule
from resnets.train.step import micro_batch_slices
from resnets.utils.machine.distributed import ProcessGroup


def check_norm_values(
    model: nn.Module, recipe: Recipe, shape: tuple[int, int, int], processes: int
) -> None:
    """Raise ConfigError if a norm of `model` would see a single value per channel in training.

    shape: (C, H, W) of the smallest training images.
    """
    if isinstance(model, ResNet):  # growing images may start too small for its pools
        check_speedrun_layers(dataclasses.replace(model.spec, input_size=min(shape[1:])))
    images, cause = find_smallest_pass(recipe, processes)
    if images > 1:
        return
    single = [name for name, values in _input_pixels(model, recipe, shape).items() if values == 1]
    if not single:
        return
    remedy = "freeze the norms" if recipe.weights else "use larger ghost batches (norm_batch)"
    raise ConfigError(
        f"{cause}, and the input of batch norm {single[0]} has 1x1 px for an image of "
        f"{shape[2]}x{shape[1]} px: a single value per channel, with variance 0; use at least 2 "
        f"images per pass, or larger images (data.size), or {remedy}"
    )


def find_smallest_pass(recipe: Recipe, processes: int) -> tuple[int, str]:
    """Return the smallest number of images that share a norm's statistics, and the reason."""
    if recipe.sync_norm and processes > 1:
        return recipe.batch_size, f"batch_size={recipe.batch_size}"
    if recipe.norm_batch:
        return recipe.norm_batch, f"norm_batch={recipe.norm_batch}"
    shares = [
        len(ProcessGroup(i, processes).batch_indices(recipe.batch_size)) for i in range(processes)
    ]
    share = min(shares)
    where = f" on {processes} processes" if processes > 1 else ""
    smallest = share
    cause = f"batch_size={recipe.batch_size}{where} leaves {share} image in one pass"
    for share in set(shares):
        for start, stop in micro_batch_slices(share, recipe.micro_batch, recipe):
            if stop - start < smallest:
                smallest = stop - start
                cause = (
                    f"micro_batch={recipe.micro_batch} of {share} images leaves {smallest} image in"
                    " one pass"
                )
    return smallest, cause


def _input_pixels(model: nn.Module, recipe: Recipe, shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the number of pixels (H * W) of each batch norm's input, by module name."""
    sizes: dict[str, int] = {}
    freeze_schedule = FreezeSchedule(model, recipe.finetune, 1)
    frozen = set(map(id, freeze_schedule.frozen_norms)) if recipe.weights else set()

    def record(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[name] = math.prod(inputs[0].shape[2:])

        return hook

    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and id(module) not in frozen
    }
    hooks = [norms[name].register_forward_pre_hook(record(name)) for name in norms]  # type: ignore[arg-type]
    state = {name: value.to("meta") for name, value in model.state_dict().items()}
    try:
        with shapes_only(), torch.no_grad():
            functional_call(model, state, (torch.empty(2, *shape),))
    finally:
        for each in hooks:
            each.remove()
    return sizes
