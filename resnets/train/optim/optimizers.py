"""Create optimizers, including LAMB and Muon; convert their state to named tensors and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import OptimSpec
from resnets.models import ImageClassifier
from resnets.train.optim.muon import Muon
from resnets.train.optim.zero import ShardedOptimizer
from resnets.utils.machine.distributed import ProcessGroup

Optimizer = torch.optim.Optimizer | ShardedOptimizer


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020) as used by Wightman et al. 2021: timm's without gradient clipping.

    An update is lr * trust * u with u = m / (sqrt(v) + eps) + weight_decay * w, where m and v are
    Adam's bias-corrected moments, and the trust ratio of each tensor is |w| / |u|. Tensors without
    weight decay (usually norms and biases) have a trust ratio of 1. Clip gradients with
    `optim.clip_norm`.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[weight], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)  # on the CPU: read in each step
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        step = int(state["step"])
        exp_avg = state["exp_avg"].lerp_(weight.grad, 1 - beta1)
        exp_avg_sq = (
            state["exp_avg_sq"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        )
        denominator = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(group["eps"])
        update = exp_avg / (1 - beta1**step) / denominator
        if group["weight_decay"]:
            update.add_(weight, alpha=group["weight_decay"])
            size, length = weight.norm(), update.norm()
            trust = torch.where((size > 0) & (length > 0), size / length, 1.0)
            update.mul_(trust)
        weight.add_(update, alpha=-group["lr"])


def _eager(optimizer: type[torch.optim.Optimizer]) -> Any:
    """Return a subclass without torch's guards against compiling its methods.

    The first call of a guard imports torch._dynamo, which takes half of the start-up time.
    Optimizers are never compiled here.
    """
    methods = {
        name: inspect.unwrap(getattr(optimizer, name)) for name in ("add_param_group", "zero_grad")
    }
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step})


SGD, AdamW = _eager(torch.optim.SGD), _eager(torch.optim.AdamW)
EagerLamb, EagerMuon = _eager(Lamb), _eager(Muon)


def make_optimizer(
    model: nn.Module,
    spec: OptimSpec,
    lr_scales: Mapping[nn.Parameter, float],
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Optimizer:
    """Create the optimizer of `spec`: SGD as in the paper (v = m v + g; w -= lr v), or another.

    SGD and AdamW are fused where torch supports it. Without `decay_norm_and_bias`, weight decay
    applies only to the weights of convolutions and linear layers. Each parameter group has an
    `lr_scale`, the factor on the schedule's learning rate (see `set_lr`): the parameter's factor in
    `lr_scales` times the factors of `spec`.
    """
    if spec.shard and group.world_size > 1:
        return ShardedOptimizer(model, group, lambda own: _create(model, spec, lr_scales, own))
    return _create(model, spec, lr_scales, set(model.parameters()))


def _create(
    model: nn.Module,
    spec: OptimSpec,
    lr_scales: Mapping[nn.Parameter, float],
    own: Container[nn.Parameter],
) -> torch.optim.Optimizer:
    """Create an optimizer for the parameters in `own`, those of this process."""
    groups = _parameter_groups(model, spec, lr_scales, own)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    match spec.kind:
        case "sgd":
            sgd: torch.optim.Optimizer = SGD(
                groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=fused
            )
            if spec.momentum:  # torch's fused step fails if parameters are unfrozen later
                for group in groups:
                    for parameter in group["params"]:
                        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return sgd
        case "lamb":
            return EagerLamb(groups, lr=spec.lr, betas=spec.betas)
        case "muon":
            return EagerMuon(
                groups,
                lr=spec.lr,
                momentum=spec.momentum,
                nesterov=spec.nesterov,
                unit_filters=spec.unit_filters,
            )
        case "adamw":
            return AdamW(groups, lr=spec.lr, betas=spec.betas, fused=fused)


def _parameter_groups(
    model: nn.Module,
    spec: OptimSpec,
    lr_scales: Mapping[nn.Parameter, float],
    own: Container[nn.Parameter],
) -> list[dict[str, Any]]:
    """Return groups of equal options with their parameters in `own`; options ignore `own`."""
    ends = _input_and_head(model)
    members: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        is_matrix = parameter.ndim > 1
        lr_scale = lr_scales[parameter]
        if ends.get(parameter) == "head":
            lr_scale *= spec.head_lr_scale
        elif not is_matrix:
            lr_scale *= spec.norm_bias_lr_scale
        decays = spec.decay_norm_and_bias or is_matrix
        orthogonalizes = spec.kind == "muon" and is_matrix and parameter not in ends
        group_members = members.setdefault((lr_scale, decays, orthogonalizes), [])
        if parameter in own:
            group_members.append(parameter)
    return [
        {
            "params": members[key],
            "lr_scale": key[0],
            "weight_decay": spec.weight_decay * key[1],
            **({"orthogonalize": key[2]} if spec.kind == "muon" else {}),
        }
        for key in sorted(members, reverse=True)
    ]


def _input_and_head(model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the parameters of input layers (for images, signals or tokens) and of heads."""
    ends: dict[nn.Parameter, str] = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            ends |= dict.fromkeys(module.parameters(), "input")
        input_layer = getattr(module, "input_layer", None)  # custom models have none
        if isinstance(module, ImageClassifier) and input_layer is not None:
            ends |= dict.fromkeys(module.get_submodule(input_layer).parameters(), "input")
        head = getattr(module, "head", None)
        if isinstance(head, nn.Linear):
            ends |= dict.fromkeys(head.parameters(), "head")
    return ends


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr`, the schedule's, times the group's scale."""
    for group in optimizer.param_groups:
        group["schedule_lr"] = lr
        group["lr"] = lr * group["lr_scale"]


def schedule_lr(optimizer: Optimizer) -> float:
    """Return the schedule's learning rate in the last step."""
    return float(optimizer.param_groups[0]["schedule_lr"])


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer state as `<parameter>/<key>`: tensor; if sharded, this process's."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the result of `state_tensors`, each tensor in its parameter's memory format.

    Raises ValueError if a tensor is missing or does not have its parameter's shape: a fused step
    would access memory beyond it.
    """
    own = {each for group in optimizer.param_groups for each in group["params"]}
    parameters = dict(model.named_parameters())
    expected = (
        {"step", "exp_avg", "exp_avg_sq"} if "betas" in optimizer.defaults else {"momentum_buffer"}
    )
    loaded: dict[str, set[str]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or tensor.shape != (() if key == "step" else parameter.shape):
            raise ValueError(f"optim/{path} of shape {tuple(tensor.shape)} does not fit the model")
        loaded.setdefault(name, set()).add(key)
        if parameter not in own:
            continue  # in another process
        if key != "step":
            tensor = torch.empty_like(parameter).copy_(tensor)
        elif optimizer.defaults.get("fused"):
            tensor = tensor.to(parameter.device)  # counters of fused steps are on the device
        optimizer.state[parameter][key] = tensor
    for name, keys in loaded.items():
        if keys != expected:
            raise ValueError(f"optim/{name}: has {', '.join(sorted(keys))}")
