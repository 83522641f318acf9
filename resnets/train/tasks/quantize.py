"""Quantization-aware training: layers round weights and inputs to 8 bits, as int8 artifacts do.

The float weights are trained (Jacob et al. 2018): rounding is part of the forward pass only, and
gradients pass through it except where a value is out of range. There is no state, because ranges
are those of the batch. Checkpoints are therefore ordinary ones, and `resnets export --int8`
calibrates them as usual.

Before the first step `equalize_channels` (Nagel et al. 2019) gives similar ranges to the channels
between two convolutions, without changing the function. Otherwise a channel with a much wider range
would leave few of the 256 levels to the others, which training alone hardly changes.

Weights are signed 8-bit, symmetric, with one scale per output channel, so folding batch norms into
them at export makes no difference. Inputs are unsigned 8-bit, asymmetric, with one range per layer
that includes zero.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from resnets.data.batch import Batch
from resnets.models.norm import BatchNormAct2d
from resnets.models.residual_unit import ResidualUnit
from resnets.models.resnet import BasicBlock, Bottleneck
from resnets.train.loss import Losses, LossFn

DEVIATIONS = 3.0  # standard deviations of a normalized channel within its range
LAYERS = (F.conv2d, torch.conv2d, F.linear)


class FakeQuantize(TorchFunctionMode):
    """Context in which convolutions and linear layers of this thread are quantized."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in LAYERS:
            inputs, weight, *others = args
            args = (quantize_inputs(inputs), quantize_weight(weight), *others)
        return func(*args, **(kwargs or {}))


def equalize_channels(model: nn.Module) -> None:
    """Scale the channels between two convolutions of a residual unit, each by its own factor.

    The batch norm before the relu is divided by the factor and the following weights are multiplied
    by it, so the function does not change. Factors make the ranges of a channel's activations and
    weights proportional to each other; their geometric mean is 1.
    """
    for unit in model.modules():
        names: list[str] = []
        if isinstance(unit, ResidualUnit):
            names = unit.branch_layers[1:]  # the shortcut may also read the first one
        elif isinstance(unit, BasicBlock | Bottleneck):
            names = ["norm1", "conv2", *(["norm2", "conv3"] if hasattr(unit, "conv3") else [])]
        for norm, conv in pairwise(map(unit.get_submodule, names)):
            if not (isinstance(norm, BatchNormAct2d) and isinstance(conv, nn.Conv2d)):
                continue
            if norm.relu and norm.activation == "relu":  # relu(s x) = s relu(x)
                _equalize(norm, conv)


@torch.no_grad()
def _equalize(norm: BatchNormAct2d, conv: nn.Conv2d) -> None:
    if conv.groups != 1 or norm.weight is None:
        return
    activations = norm.bias.abs() + DEVIATIONS * norm.weight.abs()
    weights = conv.weight.abs().amax((0, 2, 3))
    used = (activations > 0) & (weights > 0)
    if not used.any():
        return
    factors = torch.where(used, activations / weights, 1.0).sqrt()
    factors = torch.where(used, factors / factors[used].log().mean().exp(), 1.0)
    norm.weight.div_(factors)
    norm.bias.div_(factors)
    conv.weight.mul_(factors[:, None, None])


def quantize_inputs(x: Tensor) -> Tensor:
    """Round to 256 levels between the minimum and maximum; one level is zero."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x.dtype).tiny)
    zero = (-low / scale).round().to(torch.int32)
    out: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
    return out


def quantize_weight(weight: Tensor) -> Tensor:
    """Round each output channel (dimension 0) to 255 levels that are symmetric around zero."""
    largest = weight.detach().flatten(1).abs().amax(1)
    scale = (largest / 127).clamp(min=torch.finfo(weight.dtype).tiny)
    zero = torch.zeros_like(scale)  # of integers torch reads the range, which waits for a GPU
    out: Tensor = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)
    return out


def quantized_loss(loss: LossFn) -> LossFn:
    """Return the `loss` of a model with quantized layers."""

    def loss_fn(model: Callable[..., Tensor], batch: Batch) -> Losses:
        def quantized(*inputs: Any, **options: Any) -> Tensor:
            with FakeQuantize():
                return model(*inputs, **options)

        return loss(quantized, batch)

    return loss_fn
