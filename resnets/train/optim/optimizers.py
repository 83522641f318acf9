"""Optimizers over named parameters, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import nn

from resnets.config import OptimSpec
from resnets.train.optim.lamb import Lamb
from resnets.train.optim.zero import Sharded
from resnets.utils.distributed import ProcessGroup

Optimizer = torch.optim.Optimizer | Sharded


def make_optimizer(
    model: nn.Module,
    spec: OptimSpec,
    rates: Mapping[nn.Parameter, float],
    rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Optimizer:
    """SGD as the paper's (v = m v + g; w -= lr v), AdamW or LAMB, fused where that exists.

    With `decay_norm_and_bias` off, only weights of convolutions and linear layers decay. Each
    group keeps its `rate`, the share of the schedule's rate that its parameters learn at (see
    `set_rate`); the first group's is the largest.
    """
    if spec.shard and rank.world_size > 1:
        return Sharded(model, rank, lambda own: _make(model, spec, rates, own))
    return _make(model, spec, rates, set(model.parameters()))


def _make(
    model: nn.Module,
    spec: OptimSpec,
    rates: Mapping[nn.Parameter, float],
    own: Container[nn.Parameter],
) -> torch.optim.Optimizer:
    """See `make_optimizer`; of the parameters in `own`. Groups are the same for any of them."""
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        decays = spec.decay_norm_and_bias or parameter.ndim > 1
        members = found.setdefault((rates[parameter], decays), [])
        if parameter in own:
            members.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": found[key], "rate": key[0], "weight_decay": spec.weight_decay if key[1] else 0.0}
        for key in sorted(found, reverse=True)
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if spec.kind == "sgd":
        sgd = torch.optim.SGD(
            groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=fused
        )
        if spec.momentum:  # torch's fused step fails where some learn from a later step on
            for group in groups:
                for parameter in group["params"]:
                    sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    if spec.kind == "lamb":
        return Lamb(groups, lr=spec.lr, betas=spec.betas)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=fused)


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Let every group learn at its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as `<parameter>/<key>` -> tensor; of a sharded one, this process's part."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(
    model: nn.Module, optimizer: Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Put back what `state_tensors` gave, each tensor laid out like its parameter."""
    own = {each for group in optimizer.param_groups for each in group["params"]}
    parameters = dict(model.named_parameters())
    for path, tensor in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        if parameter not in own:
            continue  # another process keeps it
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter).copy_(tensor)
        elif optimizer.defaults.get("fused"):
            tensor = tensor.to(parameter.device)  # a fused step counts on the device
        optimizer.state[parameter][key] = tensor
