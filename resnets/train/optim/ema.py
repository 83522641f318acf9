"""Exponential moving average of the weights (Polyak and Juditsky 1992) and norm statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn


class AveragedModel:
    """`module` is a copy of `model` with averaged weights; `n_averaged` counts the updates.

    The decay grows as (1 + n) / (10 + n) up to `decay`, which reduces the influence of the random
    initialization in short runs. The first update copies the weights.
    `torch.optim.swa_utils.AveragedModel` is not used because it reads a counter on the device twice
    per update, which synchronizes the host with the device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_averaged = 0
        self.module = copy.deepcopy(model).requires_grad_(False)

    def update_parameters(self, model: nn.Module) -> None:
        """Move the averaged parameters and buffers towards those of `model`."""
        weight, self.n_averaged = self.weight(self.n_averaged), self.n_averaged + 1
        self.average_with(model, weight)

    def weight(self, count: int) -> float:
        """Return the weight of the current values in the update after `count` earlier ones."""
        return 1 - min(self.decay, (1 + count) / (10 + count)) if count else 1.0

    @torch.no_grad()
    def average_with(self, model: nn.Module, weight: float | Tensor) -> None:
        """Average with the values of `model`, whose `weight` is a number or a scalar tensor.

        Integer tensors are copied, and all tensors if the weight is 1.0.
        """
        is_copy = not isinstance(weight, Tensor) and weight == 1.0
        averaged_floats: list[Tensor] = []
        floats: list[Tensor] = []
        copied: tuple[list[Tensor], list[Tensor]] = ([], [])
        for averaged, current in zip(_tensors(self.module), _tensors(model), strict=True):
            if averaged.is_floating_point() and not is_copy:
                averaged_floats.append(averaged)
                floats.append(current)
            else:
                copied[0].append(averaged)
                copied[1].append(current)
        if copied[0]:
            torch._foreach_copy_(*copied)
        if isinstance(weight, Tensor):
            # A step of SGD with learning rate `weight`, weight decay 1 and gradient `-current` has
            # the same result, in one kernel for all tensors. `_foreach_lerp_` accepts numbers, or
            # tensors, for which it launches one kernel per pair.
            torch._fused_sgd_(
                averaged_floats,
                floats,
                [],
                weight_decay=1.0,
                momentum=0.0,
                lr=weight,
                dampening=0.0,
                nesterov=False,
                maximize=True,
                is_first_step=False,
            )
        elif floats:
            torch._foreach_lerp_(averaged_floats, floats, weight)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return (each.detach() for each in chain(model.parameters(), model.buffers()))
