"""LAMB (You et al. 2020): Adam's update, scaled per layer by the norm of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """LAMB as used by Wightman et al. 2021 (timm's, without its gradient clipping).

    An update is lr * trust * (m / (sqrt(v) + eps) + weight_decay * w), where m and v are Adam's
    bias-corrected moments and trust = |w| / |update / (lr * trust)| for each tensor. Tensors
    without weight decay (usually norms and biases) have a trust ratio of 1. Clip gradients with
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
        """Update all parameters that have a gradient."""
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
            state["step"] = torch.zeros((), dtype=torch.int64)  # on the CPU: read at each step
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
