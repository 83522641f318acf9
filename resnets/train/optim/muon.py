"""Muon: momentum whose update of each weight matrix is orthogonalized (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from resnets.utils.machine.precision import has_native_bfloat16

STEPS = 5
# Coefficients of the quintic iteration. They have a steep slope at zero, so that small singular
# values approach 1 in few steps, and end between about 0.7 and 1.2 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon for groups with `orthogonalize`, SGD with momentum for other groups.

    With v = momentum * v + g and u = g + momentum * v (`nesterov`) or v, an update is w -= lr *
    (scale * O(u) + weight_decay * w). O(u) is approximately the semi-orthogonal matrix nearest to
    u, flattened to (out_channels, rest): its singular values are about 1. scale is sqrt(max(1, rows
    / columns)), as in the authors' code and in torch.optim.Muon, which accepts matrices only. For
    other groups O(u) is u and scale is 1.

    With `unit_filters` orthogonalized weights have no weight decay: each is scaled to norm
    sqrt(rows) before its update, so that its filters have a mean norm of 1.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        unit_filters: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "unit_filters": unit_filters,
                "orthogonalize": False,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [each for each in group["params"] if each.grad is not None]
            if not weights:
                continue
            updates = self._momentum(weights, group)
            if group["orthogonalize"]:
                updates = orthogonalize(updates)
            if group["orthogonalize"] and group["unit_filters"]:
                norms = zip(weights, torch._foreach_norm(weights), strict=True)
                scales = [len(each) ** 0.5 / (norm + 1e-12) for each, norm in norms]
                torch._foreach_mul_(weights, scales)
            elif group["weight_decay"]:
                torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(updates, group["lr"])  # lr may be a tensor on the device
            torch._foreach_sub_(weights, updates)
        return loss

    def _momentum(self, weights: list[nn.Parameter], group: dict[str, Any]) -> list[Tensor]:
        """Update the momentum buffers of `weights`; return their updates as new tensors."""
        gradients = [each.grad for each in weights if each.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[each]["momentum_buffer"] for each in weights]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        if group["nesterov"]:
            return list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
        return [each.clone() for each in buffers]


def orthogonalize(updates: list[Tensor]) -> list[Tensor]:
    """Return `scale * O(u)` of each update (see `Muon`); equal shapes are batched.

    Computed in bfloat16 on GPUs, as in the authors' code, and in float32 elsewhere.
    """
    results = list(updates)
    by_shape: dict[torch.Size, list[int]] = {}
    for number, update in enumerate(updates):
        by_shape.setdefault(update.flatten(1).shape, []).append(number)
    for (rows, columns), numbers in by_shape.items():
        stack = torch.stack([updates[each].flatten(1) for each in numbers])
        scale = max(1, rows / columns) ** 0.5
        for number, matrix in zip(numbers, _newton_schulz(stack), strict=True):
            update = updates[number]
            results[number] = torch.empty_like(update).copy_(scale * matrix.view(update.shape))
    return results


def _newton_schulz(x: Tensor) -> Tensor:
    """Return matrices (N, rows, columns) with the singular vectors of x, singular values near 1.

    Computed in bfloat16 on GPUs that have it (not V100 and T4), else in float32.
    """
    dtype = torch.bfloat16 if has_native_bfloat16(x.device) else torch.float32
    tall = x.shape[1] > x.shape[2]
    x = (x.mT if tall else x).to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # singular values are at most 1
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
