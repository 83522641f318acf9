"""LAMB (You et al. 2020): Adam's direction, scaled layer by layer to the size of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """LAMB as Wightman et al. 2021 trained with it (timm's; without its clipping of gradients).

    A step is lr x trust x (m / (sqrt(v) + eps) + weight_decay x w), m and v being Adam's moments
    without their bias, and trust = |w| / |the rest of the step| for each tensor. Tensors that do
    not decay (norms and biases, usually) are trusted 1. Clip gradients with `optim.clip_norm`.
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
        count = int(state["step"])
        mean = state["exp_avg"].lerp_(weight.grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        spread = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
        change = mean / (1 - beta1**count) / spread
        if group["weight_decay"]:
            change.add_(weight, alpha=group["weight_decay"])
            size, length = weight.norm(), change.norm()
            trust = torch.where((size > 0) & (length > 0), size / length, 1.0)
            change.mul_(trust)
        weight.add_(change, alpha=-group["lr"])
