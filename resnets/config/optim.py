"""How weights are updated, and how the result is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnets.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """The optimizer. The paper's is SGD, momentum 0.9, weight decay 1e-4 on every parameter.

    kind "lamb" is You et al. 2020, for large batches. `betas` are those of AdamW and LAMB.
    shard: where several processes train, each keeps the optimizer's state of its own part of the
    parameters alone (ZeRO stage 1). The result is the same.
    """

    kind: Literal["sgd", "adamw", "lamb"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    clip_norm: float | None = None
    shard: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas: {self.betas} must both be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """Learning rate over the run; all durations are shares of the whole, so they scale with it.

    steps: times `gamma` at each of `milestones`. cosine / linear: to `final` x lr.
    one-cycle: linear up over `warmup`, linear down to `final` x lr. plateau: times `gamma` when
    the error has not improved for `patience` evaluations in a row. warmup: linear from 0 for all
    kinds.
    hold_until_error: train at lr x `hold_factor` until the running training error in percent
    falls below it (the paper's ResNet-110: lr 0.01 until 80%, section 4.2).
    """

    kind: Literal["constant", "steps", "cosine", "linear", "one-cycle", "plateau"] = "steps"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 0.0
    final: float = 0.0
    patience: int = 5
    hold_until_error: float | None = None
    hold_factor: float = 0.1


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """How errors are measured: on validation during training, on test once at the end.

    watch_test: also measure the test set at every evaluation, to draw the paper's Fig. 4 and 6;
    it is logged and decides nothing.
    patience: stop early once the validation error has not improved for this many evaluations
    (the best weights are kept in any case); None = train to the end.
    """

    every: str = "1ep"
    batch_size: int = 500
    watch_test: bool = False
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"eval.patience: {self.patience} evaluations; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec:
    """How pretrained weights are treated; matters only where a recipe names `weights`.

    head_first: share of the run in which only the head learns.
    layer_decay: each stage learns at this many times the rate of the one after it (discriminative
    rates, Howard and Ruder 2018); 1 = all alike.
    freeze_norm: batch norms keep their pretrained statistics, scales and shifts.
    """

    head_first: float = 0.0
    layer_decay: float = 1.0
    freeze_norm: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.head_first <= 1:
            raise ConfigError(f"finetune.head_first: {self.head_first} is no share in 0..1")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"finetune.layer_decay: {self.layer_decay} is not in (0, 1]")
