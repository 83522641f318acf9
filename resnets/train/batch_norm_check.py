"""A batch norm in training needs two values of each channel, or its output is zero for any input.

A map of 1x1 px (a 32 px image after five halvings) has one value for each image, so one image in a
pass is refused: by torch in the middle of a run, by our kernels not at all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from resnets.config import ConfigError, Recipe
from resnets.models.meta_build import shapes_only
from resnets.models.norm import BATCH_NORMS
from resnets.train.fit_memory import micro_batch_slices
from resnets.train.optim.freeze import FreezeSchedule
from resnets.utils.distributed import ProcessGroup


def check_norm_values(
    model: nn.Module, recipe: Recipe, shape: tuple[int, int, int], processes: int, unit: int = 1
) -> None:
    """ConfigError where a norm of `model` would train on a single value of each channel.

    shape: (C, H, W) of the smallest training images. unit: images of a batch that stay together.
    """
    images, why = fewest_images(recipe, processes, unit)
    if images > 1:
        return
    single = [name for name, values in _values(model, recipe, shape).items() if values == 1]
    if not single:
        return
    remedy = "freeze the norms" if recipe.weights else "use ghost batches of more (norm_batch)"
    raise ConfigError(
        f"{why}, and batch norm {single[0]} sees 1x1 px of an image of {shape[2]}x{shape[1]} px: a"
        " single value of each channel, whose variance is 0; have 2 images or more in each pass, or"
        f" larger images (data.size), or {remedy}"
    )


def fewest_images(recipe: Recipe, processes: int, unit: int = 1) -> tuple[int, str]:
    """The fewest images that share a norm's statistics in a step, and the field that says so."""
    if recipe.sync_norm and processes > 1:
        return recipe.batch_size, f"batch_size={recipe.batch_size}"
    if recipe.norm_batch:
        return recipe.norm_batch, f"norm_batch={recipe.norm_batch}"
    shares = [
        len(ProcessGroup(i, processes).places(recipe.batch_size, unit)) for i in range(processes)
    ]
    share = min(shares)
    of = f" on {processes} processes" if processes > 1 else ""
    why = f"batch_size={recipe.batch_size}{of} leaves {share} image in a pass"
    fewest, where = share, why
    for share in set(shares):
        for start, stop in micro_batch_slices(share, recipe.micro_batch, recipe):
            if stop - start < fewest:
                fewest = stop - start
                where = (
                    f"micro_batch={recipe.micro_batch} of {share} images leaves {fewest} image in a"
                    " pass"
                )
    return fewest, where


def _values(model: nn.Module, recipe: Recipe, shape: tuple[int, int, int]) -> dict[str, int]:
    """Pixels of an image's map at each batch norm that trains, by its name."""
    found: dict[str, int] = {}
    tuning = FreezeSchedule(model, recipe.finetune, 1)
    frozen = set(map(id, tuning.frozen_norms)) if recipe.weights else set()

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name] = math.prod(inputs[0].shape[2:])

        return hook

    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and id(module) not in frozen
    }
    hooks = [norms[name].register_forward_pre_hook(note(name)) for name in norms]  # type: ignore[arg-type]
    state = {name: value.to("meta") for name, value in model.state_dict().items()}
    try:
        with shapes_only(), torch.no_grad():
            functional_call(model, state, (torch.empty(2, *shape),))
    finally:
        for each in hooks:
            each.remove()
    return found
