"""Exponential moving average of the weights (Polyak and Juditsky 1992), including BN statistics."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Averaged copy of `model`; its decay grows as (1 + n) / (10 + n) up to `decay`.

    The ramp reduces the weight of the random start in short runs. Call
    `update_parameters(model)` after each step.
    """

    def average(averaged: Tensors, current: Tensors, updates: torch.Tensor | int) -> None:
        count = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averaged, current, updates)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
