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
from resnets.data.splits.fingerprint import Fingerprint
from resnets.train.async_writer import Snapshot, Writer
from resnets.train.guards.divergence import CURES, Diverged, not_finite
from resnets.train.optim.ema import make_ema
from resnets.train.optim.freeze import FreezeSchedule
from resnets.train.optim.optimizers import (
    Optimizer,
    load_state_tensors,
    make_optimizer,
    state_tensors,
)
from resnets.train.optim.schedule import Schedule
from resnets.train.optim.zero import Sharded
from resnets.utils.distributed import ProcessGroup
from resnets.weights.checkpoint.fingerprint import Record
from resnets.weights.checkpoint.format import BEST, LAST, Checkpoint, Encoded
from resnets.weights.checkpoint.manager import CheckpointManager
from resnets.weights.checkpoint.store_url import named
from resnets.weights.lazy_tensors import naming
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

    def total(self, rank: ProcessGroup) -> Meter:
        """The sums of all processes, in the first of them; in the others nothing."""
        if rank.world_size == 1:
            return self
        sums = rank.sum({"count": self.count, **{k: v.item() for k, v in self.sums.items()}})
        count = int(sums.pop("count"))
        total = Meter({k: v.new_tensor(sums[k]) for k, v in self.sums.items()}, count)
        return total if rank.is_main else total.emptied()

    def emptied(self) -> Meter:
        """The same sums, of nothing."""
        return Meter({name: torch.zeros_like(each) for name, each in self.sums.items()}, 0)

    def means(self, rank: ProcessGroup = ProcessGroup()) -> dict[str, float]:  # noqa: B008 (frozen)
        """Sums over counts, over all processes; "errors" becomes "top1_error" in percent."""
        sums = rank.sum({"count": self.count, **{k: v.item() for k, v in self.sums.items()}})
        count = sums.pop("count")
        means = {name: value / max(1, count) for name, value in sums.items()}
        if "errors" in means:
            means["top1_error"] = 100 * means.pop("errors")
        return means


@dataclass
class TrainState:
    """Model, optimizer, schedule, averaged weights and position of one run.

    stale: evaluations since the validation error was last the lowest yet. micro_batch: see Recipe;
    less where more did not fit into memory. elsewhere: the optimizer's state in other processes,
    as of the last `meet`.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    ema: AveragedModel | None
    tuning: FreezeSchedule
    step: int = 0
    stale: int = 0
    micro_batch: int = 0
    seconds: float = 0.0
    interval: Meter = field(default_factory=Meter)
    epoch: Meter = field(default_factory=Meter)
    elsewhere: dict[str, torch.Tensor] = field(default_factory=dict)

    def meet(self, rank: ProcessGroup) -> None:
        """Let the first process have what only others know, before it saves all."""
        self.interval, self.epoch = self.interval.total(rank), self.epoch.total(rank)
        if isinstance(self.optimizer, Sharded):
            self.elsewhere = rank.collect(state_tensors(self.model, self.optimizer))

    @property
    def eval_model(self) -> nn.Module:
        """The weights that evaluation uses: the averaged ones where there are any."""
        return self.ema.module if self.ema is not None else self.model


def new_state(
    model: nn.Module,
    recipe: Recipe,
    total: int,
    rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> TrainState:
    """State of a run at step 0, in one of several processes."""
    ema = make_ema(model, recipe.ema_decay) if recipe.ema_decay else None
    # Without pretrained weights there is nothing to be careful with.
    tuning = FreezeSchedule(model, recipe.finetune if recipe.weights else FinetuneSpec(), total)
    return TrainState(
        model,
        make_optimizer(model, recipe.optim, tuning.rates(), rank),
        Schedule(recipe.schedule, recipe.optim.lr, total),
        ema,
        tuning,
        micro_batch=recipe.micro_batch,
    )


class Saver:
    """Writes and reads a run's checkpoints: `last` to go on from, `best` to use.

    The loop waits only while tensors are copied; files are written beside it. Where that fails,
    the next save or `wait` raises CheckpointError, or Diverged where a number is not finite: an
    update that overflows shows in no loss before the next step.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        fixed: Mapping[str, Any],
        mean_image: torch.Tensor | None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        self._kept, self._writer = CheckpointManager(folder, recipe), Writer()
        self._snapshots = {LAST: Snapshot(), BEST: Snapshot()}
        self._record = Record(fingerprint)
        self._meta = {"recipe": to_dict(recipe), **fixed, **self._record.meta}
        self._fixed = {} if mean_image is None else {"preprocess/mean_image": mean_image}
        self._fixed |= self._record.tensors

    @property
    def path(self) -> str:
        """Path or URL of `last`."""
        return self._kept.path

    def save_last(self, state: TrainState, *, final: bool = False) -> None:
        """Write everything needed to go on exactly. The `final` one is waited for."""
        loop = {
            "seconds": state.seconds,
            "stale": state.stale,
            "micro_batch": state.micro_batch,
            "schedule": state.schedule.state_dict(),
            "interval": _meter_to_json(state.interval),
            "epoch": _meter_to_json(state.epoch),
        }
        tensors = _prefixed("model", state.model.state_dict())
        tensors |= _prefixed("optim", state_tensors(state.model, state.optimizer))
        tensors |= _prefixed("optim", state.elsewhere)
        if state.ema is not None:
            tensors |= _prefixed("ema", state.ema.module.state_dict())
            tensors["n_averaged"] = state.ema.n_averaged
        self._save(LAST, tensors, {"step": state.step, "state": loop}, final)
        state.elsewhere = {}  # copied; as large as the state that is divided to save memory
        if final:
            self.wait()

    def save_best(self, state: TrainState) -> None:
        """Write the evaluated weights alone."""
        tensors = _prefixed("model", state.eval_model.state_dict())
        self._save(BEST, tensors, {"step": state.step, "averaged": state.ema is not None}, False)

    def _save(
        self, name: str, tensors: dict[str, torch.Tensor], meta: dict[str, Any], final: bool
    ) -> None:
        snapshot = self._snapshots[name]
        self._writer.ready(name)
        snapshot.take(tensors)

        def write() -> None:
            copies = snapshot.finish()
            if (bad := not_finite(copies)) is not None:
                raise Diverged(
                    f"{bad} is no longer finite at step {meta['step']:,}, which is not saved; "
                    f"{self._kept.last_good()}; {CURES}"
                )
            if self._record.file is not None:  # before a checkpoint names it
                self._kept.put_beside(*self._record.file)
                self._record.file = None
            payload = Encoded({**self._fixed, **copies}, self._meta | meta)
            self._kept.save(name, payload, meta["step"], final=final)

        self._writer.start(name, write)

    def wait(self) -> None:
        """Wait until all is where it belongs; raises CheckpointError where it cannot be."""
        self._writer.wait()
        self._kept.send(final=True)

    def close(self) -> None:
        """Let a write that goes on end, whatever ends the run."""
        self._writer.close()

    def last_good(self, patience: float = 0.0) -> str:
        """Which checkpoint a failure leaves, once `patience` seconds went to writing it."""
        self._writer.settle(patience)
        return self._kept.last_good()

    def restore(self, state: TrainState, checkpoint: Checkpoint) -> None:
        """Fill `state` from a checkpoint of `save_last`; CheckpointError where it does not fit."""
        self._kept.going_on(checkpoint)
        with naming(named(checkpoint.path)):
            self._restore(state, checkpoint)

    def _restore(self, state: TrainState, checkpoint: Checkpoint) -> None:
        load_weights(state.model, checkpoint.group("model"), checkpoint.path)
        load_state_tensors(state.model, state.optimizer, checkpoint.group("optim"))
        if state.ema is not None:
            load_weights(state.ema.module, checkpoint.group("ema"), checkpoint.path)
            state.ema.n_averaged.copy_(checkpoint.tensors["n_averaged"])
        loop = checkpoint.meta["state"]
        state.step, state.seconds = checkpoint.step, loop["seconds"]
        state.stale = loop.get("stale", 0)  # checkpoints of before do not count it
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
        name: torch.tensor(value, dtype=torch.float64, device=device)
        for name, value in data["sums"].items()
    }
    return Meter(sums, data["count"])
