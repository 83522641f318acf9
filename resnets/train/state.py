"""Everything that changes during training, and how it is saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnets.config import FinetuneSpec, Recipe, to_dict
from resnets.data.splits.image_record import Fingerprint
from resnets.train.async_writer import Snapshot, Writer
from resnets.train.guards.divergence import HINTS, Diverged, not_finite
from resnets.train.optim.ema import AveragedModel
from resnets.train.optim.freeze import FreezeSchedule
from resnets.train.optim.grad_scaler import GradScaler
from resnets.train.optim.optimizers import (
    Optimizer,
    load_state_tensors,
    make_optimizer,
    state_tensors,
)
from resnets.train.optim.schedule import Schedule
from resnets.train.optim.zero import ShardedOptimizer
from resnets.utils.distributed import ProcessGroup
from resnets.utils.environment import accumulator_dtype
from resnets.weights.checkpoint.format import BEST, LAST, Checkpoint, EncodedCheckpoint
from resnets.weights.checkpoint.image_record import Record
from resnets.weights.checkpoint.manager import CheckpointManager
from resnets.weights.checkpoint.remote_store import display_path
from resnets.weights.lazy_tensors import naming
from resnets.weights.load import load_weights


@dataclass
class Meter:
    """Sums on the device over `count` examples; read only when a row is written."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, sums: Mapping[str, torch.Tensor], count: int) -> None:
        """Add one batch, in place after the first one."""
        for name, value in sums.items():
            total = self.sums.get(name)
            if total is None:
                self.sums[name] = value.to(accumulator_dtype(value.device), copy=True)
            else:
                total.add_(value)
        self.count += count

    def reset(self) -> None:
        """Start again at no examples; the sums stay where they are in memory."""
        for total in self.sums.values():
            total.zero_()
        self.count = 0

    def reduce_to_main(self, group: ProcessGroup) -> Meter:
        """The sums over all processes in the main process; zeros in the others."""
        if group.world_size == 1:
            return self
        sums = group.sum({"count": self.count, **{k: v.item() for k, v in self.sums.items()}})
        count = int(sums.pop("count"))
        total = Meter({k: v.new_tensor(sums[k]) for k, v in self.sums.items()}, count)
        return total if group.is_main else total.zeroed()

    def zeroed(self) -> Meter:
        """A meter with the same names and no examples."""
        return Meter({name: torch.zeros_like(each) for name, each in self.sums.items()}, 0)

    def means(
        self,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    ) -> dict[str, float]:
        """Sums over counts, over all processes; "errors" becomes "top1_error" in percent, and
        "label_errors" "label_error".

        {} without examples.
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

    evals_since_best: evaluations since the lowest validation error. micro_batch: see Recipe;
    smaller if the recipe's did not fit into memory. remote_optimizer_state: the part of the
    optimizer's state that other processes hold, as of the last `gather`.
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
        """Collect in the main process what only other processes hold, before it saves."""
        self.interval = self.interval.reduce_to_main(group)
        self.epoch = self.epoch.reduce_to_main(group)
        if isinstance(self.optimizer, ShardedOptimizer):
            self.remote_optimizer_state = group.gather_tensors(
                state_tensors(self.model, self.optimizer)
            )

    @property
    def eval_model(self) -> nn.Module:
        """The model to evaluate: the averaged one, if there is one."""
        return self.ema.module if self.ema is not None else self.model


def new_state(
    model: nn.Module,
    recipe: Recipe,
    total: int,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    precision: str = "float32",
) -> TrainState:
    """State of a run at step 0; float16 needs a `GradScaler`."""
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


class Saver:
    """Writes and restores a run's checkpoints: `last` to resume from, `best` to use.

    The loop waits only while tensors are copied; a thread writes the files. If that fails, the
    next save or `wait` raises CheckpointError, or Diverged if a tensor is not finite: an update
    that overflows affects the loss only in the next step.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        metadata: Mapping[str, Any],
        mean_image: torch.Tensor | None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        self._manager, self._writer = CheckpointManager(folder, recipe), Writer()
        self._snapshots = {LAST: Snapshot(), BEST: Snapshot()}
        self._record = Record(fingerprint)
        self._meta = {"recipe": to_dict(recipe), **metadata, **self._record.meta}
        self._constant_tensors = {} if mean_image is None else {"preprocess/mean_image": mean_image}
        self._constant_tensors |= self._record.tensors

    @property
    def path(self) -> str:
        """Path or URL of `last`."""
        return self._manager.path

    def save_last(self, state: TrainState, *, final: bool = False) -> None:
        """Write everything needed to resume exactly; waits for the `final` one."""
        loop = {
            "seconds": state.seconds,
            "evals_since_best": state.evals_since_best,
            "micro_batch": state.micro_batch,
            "schedule": state.schedule.state_dict(),
            "interval": _meter_to_json(state.interval),
            "epoch": _meter_to_json(state.epoch),
        }
        tensors = _prefixed("model", state.model.state_dict())
        tensors |= _prefixed("optim", state_tensors(state.model, state.optimizer))
        tensors |= _prefixed("optim", state.remote_optimizer_state)
        if state.ema is not None:
            tensors |= _prefixed("ema", state.ema.module.state_dict())
            tensors["n_averaged"] = torch.tensor(state.ema.n_averaged)
        if state.scaler is not None:
            tensors |= _prefixed("scaler", state.scaler.state_tensors())
        self._save(LAST, tensors, {"step": state.step, "state": loop}, final)
        state.remote_optimizer_state = {}  # copied by now; frees its memory
        if final:
            self.wait()

    def save_best(self, state: TrainState) -> None:
        """Write only the evaluated weights."""
        tensors = _prefixed("model", state.eval_model.state_dict())
        self._save(BEST, tensors, {"step": state.step, "averaged": state.ema is not None}, False)

    def _save(
        self, name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any], final: bool
    ) -> None:
        snapshot = self._snapshots[name]
        self._writer.wait_for(name)
        snapshot.copy(tensors)

        def write() -> None:
            copies = snapshot.tensors()
            if (bad := not_finite(copies)) is not None:
                raise Diverged(
                    f"{bad} is not finite at step {meta['step']:,}; that step was not saved; "
                    f"{self._manager.last_good()}; {HINTS}"
                )
            if self._record.file is not None:  # before a checkpoint refers to it
                self._manager.save_companion(*self._record.file)
                self._record.file = None
            payload = EncodedCheckpoint({**self._constant_tensors, **copies}, self._meta | meta)
            self._manager.save(name, payload, meta["step"], final=final)

        self._writer.start(name, write)

    def wait(self) -> None:
        """Wait until all checkpoints are written; raises CheckpointError if one cannot be."""
        self._writer.wait()
        self._manager.upload_pending(final=True)

    def close(self) -> None:
        """Finish pending writes, however the run ended."""
        self._writer.close()

    def last_good(self, timeout: float = 0.0) -> str:
        """Name the last usable checkpoint, after waiting up to `timeout` s for pending writes."""
        self._writer.wait_quietly(timeout)
        return self._manager.last_good()

    def restore(self, state: TrainState, checkpoint: Checkpoint) -> None:
        """Load a checkpoint of `save_last` into `state`; CheckpointError if it does not match."""
        self._manager.resume_from(checkpoint)
        with naming(display_path(checkpoint.path)):
            self._restore(state, checkpoint)

    def _restore(self, state: TrainState, checkpoint: Checkpoint) -> None:
        load_weights(state.model, checkpoint.group("model"), checkpoint.path)
        load_state_tensors(state.model, state.optimizer, checkpoint.group("optim"))
        if state.ema is not None:
            load_weights(state.ema.module, checkpoint.group("ema"), checkpoint.path)
            state.ema.n_averaged = int(checkpoint.tensors["n_averaged"])
        if state.scaler is not None:
            state.scaler.load_state_tensors(checkpoint.group("scaler"))
        loop = checkpoint.meta["state"]
        state.step, state.seconds = checkpoint.step, loop["seconds"]
        # Missing in older checkpoints.
        state.evals_since_best = loop.get("evals_since_best", 0)
        state.micro_batch = loop.get("micro_batch", state.micro_batch)
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
        name: torch.tensor(value, dtype=accumulator_dtype(device), device=device)
        for name, value in data["sums"].items()
    }
    return Meter(sums, data["count"])
