"""`TrainState`: everything that changes during training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from resnets.config import FinetuneSpec, Recipe
from resnets.train.optim.ema import AveragedModel
from resnets.train.optim.freeze import FreezeSchedule
from resnets.train.optim.grad_scaler import GradScaler
from resnets.train.optim.optimizers import Optimizer, make_optimizer, state_tensors
from resnets.train.optim.schedule import Schedule
from resnets.train.optim.zero import ShardedOptimizer
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.environment import accumulator_dtype


@dataclass
class Meter:
    """Sums over `count` examples, kept on the device; read only when a row is logged."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, sums: Mapping[str, torch.Tensor], count: int) -> None:
        """Add the sums of one batch, in place after the first batch."""
        for name, value in sums.items():
            total = self.sums.get(name)
            if total is None:
                self.sums[name] = value.to(accumulator_dtype(value.device), copy=True)
            else:
                total.add_(value)
        self.count += count

    def reset(self) -> None:
        """Reset the sums to zero in place."""
        for total in self.sums.values():
            total.zero_()
        self.count = 0

    def reduce_to_main(self, group: ProcessGroup) -> Meter:
        """Return the sums over all processes in the main process, and zeros in the others."""
        if group.world_size == 1:
            return self
        sums = group.sum({"count": self.count, **{k: v.item() for k, v in self.sums.items()}})
        count = int(sums.pop("count"))
        total = Meter({k: v.new_tensor(sums[k]) for k, v in self.sums.items()}, count)
        return total if group.is_main else total.zeroed()

    def zeroed(self) -> Meter:
        """Return a meter with the same names and zero examples."""
        return Meter({name: torch.zeros_like(each) for name, each in self.sums.items()}, 0)

    def means(
        self,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    ) -> dict[str, float]:
        """Return the means over the examples of all processes; {} if there are none.

        "errors" becomes "top1_error" in percent, and "label_errors" becomes "label_error".
        """
        sums = group.sum({"count": self.count, **{k: v.item() for k, v in self.sums.items()}})
        count = sums.pop("count")
        if not count:
            return {}
        means = {name: value / count for name, value in sums.items()}
        for name, title in (("errors", "top1_error"), ("label_errors", "label_error")):
            if name in means:
                means[title] = 100 * means.pop(name)
        return means


@dataclass
class TrainState:
    """Model, optimizer, schedule, averaged weights, loss scale and position of one run.

    Attributes:
        evals_since_best: Number of evaluations since the lowest validation error.
        micro_batch: As in `Recipe`, or smaller if that did not fit into memory.
        remote_optimizer_state: Optimizer state of the other processes at the last `gather`.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    ema: AveragedModel | None
    freeze_schedule: FreezeSchedule
    scaler: GradScaler | None = None
    step: int = 0
    evals_since_best: int = 0
    micro_batch: int = 0
    seconds: float = 0.0
    interval: Meter = field(default_factory=Meter)
    epoch: Meter = field(default_factory=Meter)
    remote_optimizer_state: dict[str, torch.Tensor] = field(default_factory=dict)

    def gather(self, group: ProcessGroup) -> None:
        """Collect the other processes' optimizer state in the main process, before it saves."""
        self.interval = self.interval.reduce_to_main(group)
        self.epoch = self.epoch.reduce_to_main(group)
        if isinstance(self.optimizer, ShardedOptimizer):
            self.remote_optimizer_state = group.gather_tensors(
                state_tensors(self.model, self.optimizer)
            )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that a step changes, except the sums, named as in a checkpoint.

        For a sharded optimizer, only the state of this process.
        """
        groups: dict[str, Mapping[str, torch.Tensor]] = {
            "model": self.model.state_dict(),
            "optim": state_tensors(self.model, self.optimizer),
            "ema": {} if self.ema is None else self.ema.module.state_dict(),
            "scaler": {} if self.scaler is None else self.scaler.state_tensors(),
        }
        return {
            f"{group}/{name}": tensor
            for group, tensors in groups.items()
            for name, tensor in tensors.items()
        }

    @property
    def eval_model(self) -> nn.Module:
        """The model to evaluate: the averaged one, if it exists."""
        return self.ema.module if self.ema is not None else self.model


def new_state(
    model: nn.Module,
    recipe: Recipe,
    total: int,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    precision: str = "float32",
) -> TrainState:
    """Return the state of a run of `total` steps at step 0; for float16 with a `GradScaler`."""
    device = next(model.parameters()).device
    ema = AveragedModel(model, recipe.ema_decay) if recipe.ema_decay else None
    # Without pretrained weights, nothing is frozen and all layers share one learning rate.
    finetune = recipe.finetune if recipe.weights else FinetuneSpec()
    freeze_schedule = FreezeSchedule(model, finetune, total)
    return TrainState(
        model,
        make_optimizer(model, recipe.optim, freeze_schedule.lr_scales(), group),
        Schedule(recipe.schedule, recipe.optim.lr, total),
        ema,
        freeze_schedule,
        GradScaler(device) if precision == "float16" else None,
        micro_batch=recipe.micro_batch,
    )
