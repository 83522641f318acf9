"""Detect divergence: a loss or weight that is NaN, infinite or far too large."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from resnets.train.state import TrainState
from resnets.utils.errors import ResnetsError
from resnets.utils.machine.distributed import ProcessGroup

# A mean loss above this multiple of the first one counts as divergence, even if it is finite.
MAX_LOSS_RATIO = 20.0
HINTS = (
    "try a lower learning rate (--set optim.lr=...), a longer warmup (--set schedule.warmup=0.05), "
    "clipping (--set optim.clip_norm=1) or --set precision=float32"
)


class Diverged(ResnetsError):  # noqa: N818  (standard term)
    """The loss became NaN, infinite or far too large, or a weight became NaN or infinite."""


class DivergenceCheck:
    """Stops a run whose loss has become NaN, infinite or far too large.

    last_good: function that waits up to the given seconds and returns the name of the last usable
    checkpoint.
    """

    def __init__(self, last_good: Callable[[float], str], group: ProcessGroup) -> None:
        self._last_good, self._group = last_good, group
        self._first_loss: float | None = None

    def check(self, state: TrainState) -> dict[str, float]:
        """Return the mean metrics since the last row; raises Diverged if the loss is not usable."""
        metrics = state.interval.means(self._group)
        if "loss" not in metrics:
            return metrics
        loss = metrics["loss"]
        self._first_loss = loss if self._first_loss is None else self._first_loss
        if math.isfinite(loss) and loss <= MAX_LOSS_RATIO * max(1.0, self._first_loss):
            return metrics
        raise Diverged(
            f"the loss is {loss:.3g} at step {state.step:,}; {self._last_good(60)}; {HINTS}"
        )


def find_nonfinite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor that contains NaN or infinity, or None.

    It checks the minimum and maximum, to which NaN propagates; `isfinite` takes six times as long.
    """
    for name, tensor in tensors.items():
        checked = tensor.is_floating_point() and tensor.numel() > 0
        if checked and not all(map(torch.isfinite, tensor.aminmax())):
            return name
    return None
