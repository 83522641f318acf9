"""Exponential moving average of the weights (Polyak and Juditsky 1992), including BN statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn


class AveragedModel:
    """`module`, a copy of `model` whose weights follow it; n_averaged: updates so far.

    The decay grows as (1 + n) / (10 + n) up to `decay`, which reduces the weight of the random
    start in short runs. The first update copies. In place of `torch.optim.swa_utils.AveragedModel`
    because that keeps its counter on the device and reads it twice in each update, for which the
    host waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_averaged = 0
        self.module = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the averaged parameters and buffers towards those of `model`."""
        count, self.n_averaged = self.n_averaged, self.n_averaged + 1
        weight = 1 - min(self.decay, (1 + count) / (10 + count)) if count else 1.0
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for averaged, current in zip(_tensors(self.module), _tensors(model), strict=True):
            if count and averaged.is_floating_point():
                floats[0].append(averaged)
                floats[1].append(current)
            else:
                averaged.copy_(current)
        if count:
            torch._foreach_lerp_(*floats, weight)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return (each.detach() for each in chain(model.parameters(), model.buffers()))
