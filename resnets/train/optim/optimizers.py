"""Create optimizers, and convert their state to named tensors and back."""

from __future__ import annotations

import inspect
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import nn

from resnets.config import OptimSpec
from resnets.train.optim.lamb import Lamb
from resnets.train.optim.zero import ShardedOptimizer
from resnets.utils.distributed import ProcessGroup

Optimizer = torch.optim.Optimizer | ShardedOptimizer


def _eager(optimizer: type[torch.optim.Optimizer]) -> Any:
    """A subclass without torch's guards against compiling its methods, which ours never are.

    The first call of a guard imports torch._dynamo, half of the time until training starts.
    """
    methods = {
        name: inspect.unwrap(getattr(optimizer, name)) for name in ("add_param_group", "zero_grad")
    }
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step})


SGD, AdamW, EagerLamb = _eager(torch.optim.SGD), _eager(torch.optim.AdamW), _eager(Lamb)


def make_optimizer(
    model: nn.Module,
    spec: OptimSpec,
    lr_scales: Mapping[nn.Parameter, float],
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Optimizer:
    """SGD as in the paper (v = m v + g; w -= lr v), AdamW or LAMB, fused where available.

    Without `decay_norm_and_bias`, only weights of convolutions and linear layers decay. Each
    parameter group has an `lr_scale`, the factor on the schedule's learning rate (see `set_lr`);
    the first group's is the largest.
    """
    if spec.shard and group.world_size > 1:
        return ShardedOptimizer(model, group, lambda own: _make(model, spec, lr_scales, own))
    return _make(model, spec, lr_scales, set(model.parameters()))


def _make(
    model: nn.Module,
    spec: OptimSpec,
    lr_scales: Mapping[nn.Parameter, float],
    own: Container[nn.Parameter],
) -> torch.optim.Optimizer:
    """An optimizer of the parameters in `own`; its list of groups is the same for any of them."""
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        decays = spec.decay_norm_and_bias or parameter.ndim > 1
        group_members = members.setdefault((lr_scales[parameter], decays), [])
        if parameter in own:
            group_members.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": members[key], "lr_scale": key[0], "weight_decay": spec.weight_decay * key[1]}
        for key in sorted(members, reverse=True)
    ]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if spec.kind == "sgd":
        sgd: torch.optim.Optimizer = SGD(
            groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=fused
        )
        if spec.momentum:  # torch's fused step fails if some parameters start to train later
            for group in groups:
                for parameter in group["params"]:
                    sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    if spec.kind == "lamb":
        return EagerLamb(groups, lr=spec.lr, betas=spec.betas)
    return AdamW(groups, lr=spec.lr, betas=spec.betas, fused=fused)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set each group's learning rate to `lr` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as `<parameter>/<key>` -> tensor; this process's part if it is sharded."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(
    model: nn.Module, optimizer: Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Restore the result of `state_tensors`, each tensor in its parameter's memory format.

    Raises ValueError where a tensor is missing or not of its parameter's shape: a fused step would
    read and write beyond it.
    """
    own = {each for group in optimizer.param_groups for each in group["params"]}
    parameters = dict(model.named_parameters())
    names = (
        {"step", "exp_avg", "exp_avg_sq"} if "betas" in optimizer.defaults else {"momentum_buffer"}
    )
    found: dict[str, set[str]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or tensor.shape != (() if key == "step" else parameter.shape):
            raise ValueError(f"optim/{path} of shape {tuple(tensor.shape)} does not fit the model")
        found.setdefault(name, set()).add(key)
        if parameter not in own:
            continue  # held by another process
        if key != "step":
            tensor = torch.empty_like(parameter).copy_(tensor)
        elif optimizer.defaults.get("fused"):
            tensor = tensor.to(parameter.device)  # a fused step keeps its counter on the device
        optimizer.state[parameter][key] = tensor
    for name, keys in found.items():
        if keys != names:
            raise ValueError(f"optim/{name}: holds {', '.join(sorted(keys))}")
