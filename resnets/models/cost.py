"""Parameters and multiply-adds of a net, counted from the running module."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.models.blocks import ZeroPad
from resnets.models.net import Net


@dataclass(frozen=True)
class LayerCost:
    """One layer: `output` is its shape without the batch, (C, H, W) or (K,)."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """What one picture of `input_size` px costs; `layers` in the order in which they run."""

    parameters: int
    multiply_adds: int
    input_size: int
    layers: tuple[LayerCost, ...]


def count(model: Net, size: int | None = None) -> Cost:
    """Run `model` on one picture of `size` px (default `spec.input_size`) and count.

    Multiply-adds are those of convolutions and linear layers, as in the paper (Table 1), whose
    numbers are of "v1" nets with option A up to 34 layers; "v1.5" adds 0.23e9 at 50, 101 and 152
    layers, because the first 1x1 of stages 2 to 4 still works at the larger size. The model runs on
    a batch of no pictures, which gives every shape and takes milliseconds; its weights, modes and
    device stay as they are. (Meta tensors would do too, but torch runs them in Python and imports
    torch._dynamo and sympy for it, which takes a second.)
    """
    size = size or model.spec.input_size
    zero = torch.zeros((), device="cpu")
    weights = {
        name: zero.expand(tensor.shape)
        for named in (model.named_parameters(), model.named_buffers())
        for name, tensor in named
    }
    pictures = torch.empty(0, model.spec.in_channels, size, size, device="cpu")
    with _recorded(model) as layers, _evaluating(model), torch.no_grad():
        torch.func.functional_call(model, weights, (pictures,))
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        input_size=size,
        layers=tuple(layers),
    )


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[LayerCost]]:
    """Forward hooks on all leaf layers, while the context lasts."""
    layers: list[LayerCost] = []

    def record(name: str, layer: nn.Module, output: Tensor) -> None:
        layers.append(
            LayerCost(
                name=name,
                kind=_kind(layer),
                output=tuple(output.shape[1:]),
                parameters=sum(parameter.numel() for parameter in layer.parameters()),
                multiply_adds=_multiply_adds(layer, output),
            )
        )

    handles = [
        module.register_forward_hook(
            lambda layer, _inputs, output, name=name: record(name, layer, output)
        )
        for name, module in model.named_modules()
        if not any(module.children()) and not isinstance(module, nn.Identity | nn.Dropout)
    ]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode while the context lasts; each module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _multiply_adds(layer: nn.Module, output: Tensor) -> int:
    """Products per output value, times the number of output values of one picture."""
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return 0
    return layer.weight[0].numel() * math.prod(output.shape[1:])


def _kind(layer: nn.Module) -> str:
    """A person's name for the layer, such as "conv 3x3, stride 2, 32 groups"."""
    match layer:
        case nn.Conv2d():
            height, width = layer.kernel_size
            stride = f", stride {layer.stride[0]}" if layer.stride[0] > 1 else ""
            groups = f", {layer.groups} groups" if layer.groups > 1 else ""
            return f"conv {height}x{width}{stride}{groups}"
        case nn.BatchNorm2d():
            return "batch norm"
        case nn.Linear():
            return "linear"
        case nn.MaxPool2d():
            return f"max pool {layer.kernel_size}x{layer.kernel_size}, stride {layer.stride}"
        case nn.AdaptiveAvgPool2d():
            return "average pool"
        case ZeroPad():
            return f"option A, stride {layer.stride}"
    return type(layer).__name__.lower()
