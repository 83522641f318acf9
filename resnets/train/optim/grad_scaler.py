"""Loss scaling for training in float16 (Micikevicius et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from resnets.train.optim.optimizers import Optimizer
from resnets.train.optim.zero import ShardedOptimizer, skip_if

INIT_SCALE = 2.0**16
GROWTH_FACTOR, BACKOFF_FACTOR = 2.0, 0.5
GROWTH_INTERVAL = 2000  # steps without an overflow after which the scale grows


class GradScaler:
    """Scales the loss so that small gradients do not underflow, and skips steps that overflow.

    The rules and defaults are those of `torch.amp.GradScaler`: a step with a non-finite gradient is
    skipped and halves the scale; 2,000 steps without one double it. That class is not used because
    it synchronizes with the device in every step, does not count skipped steps, and checks only the
    parameters of one process if the optimizer is sharded.

    Attributes, scalar tensors on `device`: `scale`, `finite_steps` (since the scale changed) and
    `skipped_steps`.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), INIT_SCALE, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int32, device=device)
        self.skipped_steps = torch.zeros((), dtype=torch.int32, device=device)
        self._found_inf = torch.zeros((), device=device)  # 1 if the step must be skipped

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss times the scale."""
        return loss * self.scale

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide all gradients by the scale, and record whether they are finite."""
        self._found_inf.zero_()
        inverse = self.scale.reciprocal()
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found_inf, inverse)

    def step(self, optimizer: Optimizer) -> None:
        """Step the optimizer unless a gradient was not finite, then update the scale.

        A fused optimizer reads the flag on the device; with others the host waits for it.
        """
        if optimizer.defaults.get("fused"):
            if isinstance(optimizer, ShardedOptimizer):
                optimizer.skip_if(self._found_inf)
            else:
                skip_if(optimizer, self._found_inf)
            optimizer.step()
        elif not self._found_inf.item():
            optimizer.step()
        self.skipped_steps += self._found_inf.to(torch.int32)
        torch._amp_update_scale_(
            self.scale,
            self.finite_steps,
            self._found_inf,
            GROWTH_FACTOR,
            BACKOFF_FACTOR,
            GROWTH_INTERVAL,
        )

    def row(self) -> dict[str, float]:
        """Return the fields of the log: the scale, and the number of skipped steps of the run."""
        return {"loss_scale": self.scale.item(), "skipped_steps": int(self.skipped_steps.item())}

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors, to resume from."""
        return {
            "scale": self.scale,
            "finite_steps": self.finite_steps,
            "skipped_steps": self.skipped_steps,
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state_tensors`; {} if the run started in another precision."""
        for name, tensor in tensors.items():
            getattr(self, name).copy_(tensor)
