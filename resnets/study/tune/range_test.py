"""Learning-rate range test (Smith 2017): the loss while the rate rises from step to step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resnets.config import ConfigError, Recipe
from resnets.train.optim.schedule import Schedule
from resnets.train.replay import open_training

LOW, HIGH, STEPS = 1e-5, 10.0, 100
SMOOTHING = 0.9  # of the running mean of the loss
DIVERGED = 4.0  # times the lowest loss, at which the test ends


@dataclass(frozen=True)
class RangeTest:
    """rates, losses: of each step, the loss a running mean. suggested: a tenth of the rate at which
    the loss was lowest (Howard and Gugger 2020). ConfigError without a step of finite loss."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rates or len(self.rates) != len(self.losses):
            raise ConfigError("the range test has no step of finite loss")
        if (
            not all(0 < rate < math.inf for rate in self.rates)
            or not np.isfinite(self.losses).all()
        ):
            raise ConfigError("the range test holds rates or losses that are impossible")

    @property
    def suggested(self) -> float:
        """A learning rate to search around."""
        return self.rates[int(np.argmin(self.losses))] / 10


class RisingRate(Schedule):
    """The rate rises from `LOW` to `HIGH` by the same factor in each step."""

    def lr(self, step: int) -> float:
        """The rate of a step."""
        return float(LOW * (HIGH / LOW) ** (step / (STEPS - 1)))


def range_test(recipe: Recipe, device: str) -> RangeTest:
    """Train the recipe's model for up to 100 steps of rising rate, from its initial weights."""
    opened = open_training(recipe, None, device)
    state, recipe = opened.step.state, opened.step.recipe
    state.schedule = RisingRate(recipe.schedule, recipe.optim.lr, STEPS)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step, batch in enumerate(opened.stream.batches(0, None)):
        state.interval.reset()
        opened.step(batch)
        loss = state.interval.means()["loss"]
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (losses and smooth > DIVERGED * min(losses)):
            break
        rates.append(state.schedule.lr(step))
        losses.append(smooth)
        if step + 1 == STEPS:
            break
    return RangeTest(tuple(rates), tuple(losses))
