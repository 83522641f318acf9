"""Learning rate as a function of the step, including two rules that depend on the error."""

from __future__ import annotations

import math
from typing import Any

from resnets.config import ScheduleSpec

# The held warmup ends based on the mean error of about this many recent steps.
HOLD_WINDOW = 50


class Schedule:
    """Learning rate of each of `total` steps, for a peak rate `lr`.

    Time-based kinds are pure functions of the step. The plateau rule and the warmup until an error
    is reached (paper, section 4.2, ResNet-110) have state, which `state_dict` returns.
    """

    def __init__(self, spec: ScheduleSpec, lr: float, total: int) -> None:
        self.spec, self.peak, self.total = spec, lr, total
        self.holding = spec.hold_until_error is not None
        self.running_error = 100.0
        self.plateau_factor, self.best_error, self.waited = 1.0, math.inf, 0
        self.patience = spec.patience

    def lr(self, step: int) -> float:
        """Return the learning rate of step `step` (0-based)."""
        if self.holding:
            return self.peak * self.spec.hold_factor
        warmup = self.spec.warmup * self.total
        if step < warmup:
            return self.peak * (step + 1) / (warmup + 1)
        return self.peak * self._factor(step, warmup)

    def _factor(self, step: int, warmup: float) -> float:
        """Return the factor on the peak rate after a warmup of `warmup` steps."""
        spec = self.spec
        progress = (step - warmup) / max(1.0, self.total - warmup)
        if spec.kind == "steps":
            passed = sum(step >= milestone * self.total for milestone in spec.milestones)
            return spec.gamma**passed
        if spec.kind == "cosine":
            return spec.final + (1 - spec.final) * (1 + math.cos(math.pi * progress)) / 2
        if spec.kind in ("linear", "one-cycle"):
            return spec.final + (1 - spec.final) * (1 - progress)
        return self.plateau_factor if spec.kind == "plateau" else 1.0

    def observe_step(self, error: float) -> None:
        """Record the training error (percent) of one step while the warmup is held."""
        self.running_error += (error - self.running_error) / HOLD_WINDOW
        assert self.spec.hold_until_error is not None
        self.holding = self.running_error >= self.spec.hold_until_error

    def observe_evaluation(self, error: float) -> None:
        """Record the error (percent) of an evaluation.

        As in torch's ReduceLROnPlateau, `patience` evaluations in a row without improvement are
        tolerated, and the next one lowers the rate.
        """
        if error < self.best_error:
            self.best_error, self.waited = error, 0
            return
        self.waited += 1
        if self.spec.kind == "plateau" and self.waited > self.patience:
            self.plateau_factor *= self.spec.gamma
            self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state that determines future learning rates, apart from the step."""
        return {
            "holding": self.holding,
            "running_error": self.running_error,
            "plateau_factor": self.plateau_factor,
            "best_error": None if math.isinf(self.best_error) else self.best_error,
            "waited": self.waited,
            "patience": self.patience,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Runs of version 0.1 lower the rate one evaluation earlier (the `patience`-th), and continue
        to do so.
        """
        self.holding = state["holding"]
        self.running_error = state["running_error"]
        self.plateau_factor = state["plateau_factor"]
        self.best_error = math.inf if state["best_error"] is None else state["best_error"]
        self.waited = state["waited"]
        self.patience = state.get("patience", self.spec.patience - 1)
