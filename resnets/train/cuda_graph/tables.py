"""Draws and rates of many steps on the device, and the counter that says whose turn it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resnets.data.loading.loader import TrainStream
from resnets.train.state import TrainState
from resnets.utils.environment import copy_to_device


class StepTables:
    """What `steps` steps from `start` on take from the host, as (steps, ...) tensors on the device.

    They are pure functions of the step (`data.order`, `Schedule`, `AveragedModel.weight`), so they
    are made for all these steps at once. A step reads row `index`, a counter on the device, and
    increments it; `fill` sets it to 0. The tensors keep their places in memory.
    """

    def __init__(self, stream: TrainStream, steps: int) -> None:
        self._stream, self.steps = stream, steps
        self.start: int | None = None
        self.lrs: list[float] = []
        device = stream.device
        self._tables = {
            name: torch.from_numpy(each).to(device) for name, each in stream.draws(0, steps).items()
        }
        self._lr = torch.zeros(steps, device=device)
        self._ema_weight = torch.zeros(steps, device=device)
        self.index = torch.zeros(1, dtype=torch.int64, device=device)

    def holds(self, state: TrainState) -> bool:
        """Whether the row of `index` is that of the step that `state` is at."""
        if self.start is None or not 0 <= state.step - self.start < self.steps:
            return False
        return self.lrs[state.step - self.start] == state.schedule.lr(state.step)

    def fill(self, state: TrainState) -> None:
        """Rows of the next `steps` steps; does not wait for steps that are still queued."""
        start, device = state.step, self.index.device
        self.start = start
        self.lrs = [state.schedule.lr(start + step) for step in range(self.steps)]
        for name, values in self._stream.draws(start, self.steps).items():
            self._tables[name].copy_(copy_to_device(np.ascontiguousarray(values), device))
        self._lr.copy_(copy_to_device(torch.tensor(self.lrs), device))
        if state.ema is not None:
            count = state.ema.n_averaged
            weights = [state.ema.weight(count + step) for step in range(self.steps)]
            self._ema_weight.copy_(copy_to_device(torch.tensor(weights), device))
        self.index.zero_()

    def draws(self) -> dict[str, Tensor]:
        """`rows` (B,) and the other draws of the current step."""
        return {name: each.index_select(0, self.index)[0] for name, each in self._tables.items()}

    def lr(self) -> Tensor:
        """The schedule's learning rate of the current step, ()."""
        return self._lr.index_select(0, self.index)[0]

    def ema_weight(self) -> Tensor:
        """Weight of the current weights in the averaged ones, ()."""
        return self._ema_weight.index_select(0, self.index)[0]
