"""Everything that changes while a net trains, and its road to disk and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from resnets.config import FinetuneSpec, Recipe, to_dict
from resnets.train.ema import make_ema
from resnets.train.finetune import Tuning
from resnets.train.optim import load_state_tensors, make_optimizer, state_tensors
from resnets.train.schedule import Schedule
from resnets.weights.checkpoint import BEST, LAST, read_checkpoint, save_checkpoint
from resnets.weights.load import load_weights


@dataclass
class Meter:
    """Running sums on the device over `count` examples; read only when a row is written."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, sums: Mapping[str, torch.Tensor], count: int) -> None:
        """Add one batch."""
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.double()
        self.count += count

    def means(self) -> dict[str, float]:
        """Sums over counts; "errors" becomes "top1_error" in percent."""
        means = {name: value.item() / max(1, self.count) for name, value in self.sums.items()}
        if "errors" in means:
            means["top1_error"] = 100 * means.pop("errors")
        return means


@dataclass
class TrainState:
    """Model, optimizer, schedule, averaged weights and position of one run.

    stale: evaluations since the validation error was last the lowest yet.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: AveragedModel | None
    tuning: Tuning
    step: int = 0
    stale: int = 0
    seconds: float = 0.0
    interval: Meter = field(default_factory=Meter)
    epoch: Meter = field(default_factory=Meter)

    @property
    def eval_model(self) -> nn.Module:
        """The weights that evaluation uses: the averaged ones where there are any."""
        return self.ema.module if self.ema is not None else self.model


def new_state(model: nn.Module, recipe: Recipe, total: int) -> TrainState:
    """State of a run at step 0."""
    ema = make_ema(model, recipe.ema_decay) if recipe.ema_decay else None
    # Without pretrained weights there is nothing to be careful with.
    tuning = Tuning(model, recipe.finetune if recipe.weights else FinetuneSpec(), total)
    return TrainState(
        model,
        make_optimizer(model, recipe.optim, tuning.rates()),
        Schedule(recipe.schedule, recipe.optim.lr, total),
        ema,
        tuning,
    )


class Saver:
    """Writes and reads a run's checkpoints: `last` to go on from, `best` to use."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        fixed: Mapping[str, Any],
        mean_image: torch.Tensor | None,
    ) -> None:
        self.folder = folder / "checkpoints"
        self._meta = {"recipe": to_dict(recipe), **fixed}
        self._fixed = {} if mean_image is None else {"preprocess/mean_image": mean_image}

    def save_last(self, state: TrainState) -> Path:
        """Write everything needed to go on exactly."""
        tensors = dict(self._fixed)
        tensors |= _prefixed("model", state.model.state_dict())
        tensors |= _prefixed("optim", state_tensors(state.model, state.optimizer))
        if state.ema is not None:
            tensors |= _prefixed("ema", state.ema.module.state_dict())
            tensors["n_averaged"] = state.ema.n_averaged
        loop = {
            "seconds": state.seconds,
            "stale": state.stale,
            "schedule": state.schedule.state_dict(),
            "interval": _meter_to_json(state.interval),
            "epoch": _meter_to_json(state.epoch),
        }
        path = self.folder / LAST
        save_checkpoint(path, tensors, {**self._meta, "step": state.step, "state": loop})
        return path

    def save_best(self, state: TrainState) -> None:
        """Write the evaluated weights alone."""
        tensors = self._fixed | _prefixed("model", state.eval_model.state_dict())
        meta = {**self._meta, "step": state.step, "averaged": state.ema is not None}
        save_checkpoint(self.folder / BEST, tensors, meta)

    def restore(self, state: TrainState) -> None:
        """Fill `state` from the last checkpoint; CheckpointError where that cannot be read."""
        checkpoint = read_checkpoint(self.folder / LAST)
        load_weights(state.model, checkpoint.group("model"), checkpoint.path)
        load_state_tensors(state.model, state.optimizer, checkpoint.group("optim"))
        if state.ema is not None:
            load_weights(state.ema.module, checkpoint.group("ema"), checkpoint.path)
            state.ema.n_averaged.copy_(checkpoint.tensors["n_averaged"])
        loop = checkpoint.meta["state"]
        state.step, state.seconds = checkpoint.meta["step"], loop["seconds"]
        state.stale = loop.get("stale", 0)  # checkpoints of before do not count it
        state.schedule.load_state_dict(loop["schedule"])
        device = next(state.model.parameters()).device
        state.interval = _meter_from_json(loop["interval"], device)
        state.epoch = _meter_from_json(loop["epoch"], device)


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _meter_to_json(meter: Meter) -> dict[str, Any]:
    return {"sums": {name: s.item() for name, s in meter.sums.items()}, "count": meter.count}


def _meter_from_json(data: Mapping[str, Any], device: torch.device) -> Meter:
    sums = {
        name: torch.tensor(value, dtype=torch.float64, device=device)
        for name, value in data["sums"].items()
    }
    return Meter(sums, data["count"])
