"""Data-parallel training: the forward pass of one process, and the exchanges of each step."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.models.norm import (
    BatchNormAct,
    BatchNormAct1d,
    BatchNormAct2d,
    GhostBatchNormAct2d,
)
from resnets.utils.machine.distributed import ProcessGroup

# Norms whose statistics each process updates from its own images only.
LOCAL_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    BatchNormAct1d,
    BatchNormAct2d,
    GhostBatchNormAct2d,
)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running means and variances that each process updates from its own images."""
    return [
        buffer
        for norm in model.modules()
        if type(norm) in LOCAL_NORMS and norm.training
        for buffer in (norm.running_mean, norm.running_var)
        if isinstance(buffer, Tensor)
    ]


class DataParallelModel:
    """Calls `model`, or its compiled form, and averages the gradients over all processes.

    DistributedDataParallel registers the parameters that require gradients when it is built, so it
    is rebuilt when they change (`finetune.head_first`). Before the first `prepare`, gradients are
    not averaged. Buffers are not exchanged here; see `update_running_stats`.
    """

    def __init__(
        self,
        model: nn.Module,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
        compiled: bool = False,
    ) -> None:
        self.group = group
        self._model, self._compiled = model, compiled
        self._parameters = list(model.parameters())  # thousands in a deep model, used each step
        self._trainable: tuple[bool, ...] | None = None
        self._ghost_norms: list[GhostBatchNormAct2d] = []
        self._norms: list[BatchNormAct] = []
        self._running_stats: list[Tensor] = []
        self._passes = 0  # forward passes since the last `update_running_stats`
        self._distributed: DistributedDataParallel | None = None
        self.module = self._compile(model)  # called by `__call__`

    def _compile(self, module: nn.Module) -> nn.Module:
        """Compile `module` if `compiled` is set: one static graph for each image size."""
        return torch.compile(module, dynamic=False) if self._compiled else module  # type: ignore[return-value]

    def prepare(self) -> None:
        """Update what depends on which parameters require gradients; call this before each step."""
        self._passes = 0
        trainable = tuple(each.requires_grad for each in self._parameters)
        if trainable == self._trainable:
            return
        self._trainable = trainable
        modules = list(self._model.modules())
        self._ghost_norms = [each for each in modules if isinstance(each, GhostBatchNormAct2d)]
        self._norms = [each for each in modules if isinstance(each, BatchNormAct)]
        for norm in self._norms:
            norm.counts_batches = False  # `update_running_stats` counts them for all norms at once
        if self.group.world_size == 1:
            return
        self._running_stats = running_statistics(self._model)
        with warnings.catch_warnings():  # broadcast_buffers is renamed in 2.15
            warnings.simplefilter("ignore", FutureWarning)
            self._distributed = DistributedDataParallel(
                self._model, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        # Compile the DDP module, not the model inside it, so that graphs break at gradient buckets.
        self.module = self._compile(self._distributed)

    def __call__(self, *args: Any) -> Any:
        """Run the forward pass."""
        self._passes += 1
        return self.module(*args)

    def no_sync(self, more: bool) -> AbstractContextManager[None]:
        """Context of a forward and backward pass; exchanges no gradients if `more` follow."""
        if more and self._distributed is not None:
            return self._distributed.no_sync()
        return nullcontext()

    def update_running_stats(self, weight: float) -> None:
        """Average the running statistics of all norms over the processes.

        weight: this process's weight; the weights of all processes add up to 1. The norms' batch
        counters are increased by the number of passes since the last call, those of ghost norms by
        one.
        """
        counters: dict[int, list[Tensor]] = {}
        for norm in self._norms:
            if norm.training and norm.num_batches_tracked is not None:
                passes = 1 if isinstance(norm, GhostBatchNormAct2d) else self._passes
                counters.setdefault(passes, []).append(norm.num_batches_tracked)
        for passes, each in counters.items():
            torch._foreach_add_(each, passes)
        self._passes = 0
        for norm in self._ghost_norms:
            norm.update_running_stats()
        self.group.average(self._running_stats, weight)
