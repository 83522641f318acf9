"""Parameters and multiply-adds of a model, counted by running the module.

`shapes_only` builds models without weights, if only shapes are needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from resnets.models.block_config import eval_mode
from resnets.models.classifier import ImageClassifier
from resnets.models.layers import DropPath, StdConv
from resnets.models.shortcut import NoShortcut, ZeroPad

COSTS = "costs.json"  # written by docs/catalog_costs.py
UNCOUNTED = (nn.Identity, nn.Dropout, nn.ZeroPad2d, DropPath, NoShortcut)


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer; `output` is its shape without the batch dimension, (C, H, W) or (K,)."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """Cost of one image of `input_size` px, with `layers` in execution order."""

    parameters: int
    multiply_adds: int
    input_size: int
    layers: tuple[LayerCost, ...]


def load_catalog_costs() -> dict[str, tuple[int, int]]:
    """Return the parameters and multiply-adds of each catalog model by name."""
    text = (resources.files("resnets.models") / COSTS).read_text("utf-8")
    return {name: (parameters, adds) for name, (parameters, adds) in json.loads(text).items()}


def count_cost(model: ImageClassifier, size: int | None = None) -> Cost:
    """Count parameters and multiply-adds of `model` for images of `size` px (`spec.input_size`).

    Multiply-adds are those of convolutions and linear layers, as in the paper (Table 1). The
    paper's numbers are those of "v1" models, with option A up to 34 layers; "v1.5" adds 0.23e9 at
    50, 101 and 152 layers, because the first 1x1 convolutions of stages 2 to 4 run at the larger
    resolution. The model runs on an empty batch, which gives all shapes within milliseconds; its
    weights, modes and device do not change. (Meta tensors would also work, but for them torch
    imports torch._dynamo and sympy, which takes a second.)
    """
    size = size or model.spec.input_size
    zero = torch.zeros((), device="cpu")
    weights = {
        name: zero.expand(tensor.shape)
        for named in (model.named_parameters(), model.named_buffers())
        for name, tensor in named
    }
    images = torch.empty(0, model.spec.in_channels, *(size,) * model.spec.dims, device="cpu")
    with _record_layers(model) as layers, eval_mode(model), torch.no_grad():
        torch.func.functional_call(model, weights, (images,))
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        input_size=size,
        layers=tuple(layers),
    )


@contextmanager
def _record_layers(model: nn.Module) -> Iterator[list[LayerCost]]:
    """Context that yields a list to which each run of a leaf layer is appended."""
    layers: list[LayerCost] = []

    def record(name: str, layer: nn.Module, output: Tensor) -> None:
        layers.append(
            LayerCost(
                name=name,
                kind=_describe_layer(layer),
                output=tuple(output.shape[1:]),
                parameters=sum(parameter.numel() for parameter in layer.parameters()),
                multiply_adds=_multiply_adds(layer, output),
            )
        )

    standardized = [module for module in model.modules() if isinstance(module, StdConv)]
    for conv in standardized:  # shapes do not depend on the weights' values
        conv.__dict__["forward"] = partial(nn.Conv2d.forward, conv)
    handles = [
        module.register_forward_hook(
            lambda layer, _inputs, output, name=name: record(name, layer, output)
        )
        for name, module in model.named_modules()
        if not any(module.children()) and not isinstance(module, UNCOUNTED)
    ]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()
        for conv in standardized:
            del conv.__dict__["forward"]


def _multiply_adds(layer: nn.Module, output: Tensor) -> int:
    """Return the products per output value times the number of output values of one image."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
        return 0
    return layer.weight[0].numel() * math.prod(output.shape[1:])


def _describe_layer(layer: nn.Module) -> str:
    """Return a description such as "conv 3x3, stride 2, 32 groups"."""
    match layer:
        case nn.Conv1d() | nn.Conv2d():
            size = "x".join(map(str, layer.kernel_size))
            stride = f", stride {layer.stride[0]}" if layer.stride[0] > 1 else ""
            groups = f", {layer.groups} groups" if layer.groups > 1 else ""
            return f"conv {size}{stride}{groups}"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return "batch norm"
        case nn.Linear():
            return "linear"
        case nn.MaxPool2d():
            return f"max pool {layer.kernel_size}x{layer.kernel_size}, stride {layer.stride}"
        case nn.AdaptiveAvgPool1d() | nn.AdaptiveAvgPool2d() | nn.AvgPool2d():
            return "average pool"
        case nn.AdaptiveMaxPool2d():
            return "max pool of all positions"
        case ZeroPad():
            return f"option A, stride {layer.stride}"
    return type(layer).__name__.lower()


@contextmanager
def shapes_only() -> Iterator[None]:
    """Context in which models are built and run on the meta device: shapes without values.

    Initialization and batch norm, which change no shapes, are skipped: torch implements both in
    Python for meta tensors, which would take nine tenths of the time.
    """
    with torch.device("meta"), _SkipValues():
        yield


class _SkipValues(TorchFunctionMode):
    """Mode in which initializers and batch norms return their input."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        if func is functional.batch_norm:
            return args[0]
        return func(*args, **kwargs)
