"""Quantization-aware training: layers round weights and inputs to 8 bits as int8 artifacts do.

The float weights stay those that are trained (Jacob et al. 2018): rounding is part of the forward
pass only, and gradients pass through it except where a value is out of range. There is no state:
ranges are those of the batch, so checkpoints are ordinary ones, and `resnets export --int8`
calibrates them as it does others.

Weights are s8, symmetric, with one scale per output channel, so it makes no difference that exports
fold batch norms into them. Inputs are u8, asymmetric, with one range per layer that includes zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from resnets.data.batch import Batch
from resnets.train.loss import Losses, LossFn

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


def quantize_inputs(x: Tensor) -> Tensor:
    """Round to 256 levels between the least and largest value, of which one is zero."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(x.dtype).tiny)
    zero = (-low / scale).round().to(torch.int32)
    out: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
    return out


def quantize_weight(weight: Tensor) -> Tensor:
    """Round each output channel (the first dimension) to 255 levels around zero."""
    largest = weight.detach().flatten(1).abs().amax(1)
    scale = (largest / 127).clamp(min=torch.finfo(weight.dtype).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    out: Tensor = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)
    return out


def quantized_loss(loss: LossFn) -> LossFn:
    """Return `loss` of a model whose layers are quantized."""

    def loss_fn(model: Callable[..., Tensor], batch: Batch) -> Losses:
        def quantized(*inputs: Any, **options: Any) -> Tensor:
            with FakeQuantize():
                return model(*inputs, **options)

        return loss(quantized, batch)

    return loss_fn
