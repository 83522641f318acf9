"""Optimizers over named parameters, and their state as named tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from resnets.config import OptimSpec


def make_optimizer(model: nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    """SGD as the paper's (v = m v + g; w -= lr v) or AdamW, fused where the device has it.

    With `decay_norm_and_bias` off, only weights of convolutions and linear layers decay.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        decays = spec.decay_norm_and_bias or parameter.ndim > 1
        (decayed if decays else free).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": spec.weight_decay}]
    if free:
        groups.append({"params": free, "weight_decay": 0.0})
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if spec.kind == "sgd":
        return torch.optim.SGD(
            groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=fused
        )
    return torch.optim.AdamW(groups, lr=spec.lr, fused=fused)


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as `<parameter>/<key>` -> tensor."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Put back what `state_tensors` gave, each tensor laid out like its parameter."""
    parameters = dict(model.named_parameters())
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][key] = tensor
