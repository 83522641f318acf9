"""The model's forward pass in one of several processes, and what they exchange at each step."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.models.norm import GhostBatchNormAct2d, running_statistics
from resnets.utils.distributed import ProcessGroup


class DataParallelModel:
    """Calls `forward`, a model or its compiled form; gradients are averaged over all processes.

    fit_memory: micro-batches may be halved until they fit (`train.fit_memory`).

    DistributedDataParallel records once which parameters require gradients, so it is rebuilt when
    that changes (`finetune.head_first`); before the first `prepare` each process works alone. It
    does not exchange buffers: `update_running_stats` does.
    """

    def __init__(
        self,
        forward: nn.Module,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
        fit_memory: bool = False,
    ) -> None:
        self.group, self.fit_memory = group, fit_memory
        self.probed = False  # whether the micro-batch size was found; it is not changed again
        self._forward = forward
        self._parameters = list(forward.parameters())  # thousands in a deep model, used each step
        self._trainable: tuple[bool, ...] | None = None
        self._ghost_norms: list[GhostBatchNormAct2d] = []
        self._running_stats: list[Tensor] = []
        self.module: nn.Module = forward  # what a call goes through

    def prepare(self) -> None:
        """Follow changes of which parameters require gradients; call before each step."""
        trainable = tuple(each.requires_grad for each in self._parameters)
        if trainable == self._trainable:
            return
        self._trainable = trainable
        modules = self._forward.modules()
        self._ghost_norms = [each for each in modules if isinstance(each, GhostBatchNormAct2d)]
        if self.group.world_size == 1:
            return
        self._running_stats = running_statistics(self._forward)
        with warnings.catch_warnings():  # the name that replaces broadcast_buffers is new in 2.15
            warnings.simplefilter("ignore", FutureWarning)
            self.module = DistributedDataParallel(
                self._forward, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, *args: Any) -> Any:
        """The forward pass."""
        return self.module(*args)

    def no_sync(self, more: bool) -> AbstractContextManager[None]:
        """Context of a forward and backward pass; no gradients are exchanged if `more` follow."""
        if more and isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()

    def update_running_stats(self, weight: float) -> None:
        """Average the norms' running statistics over all processes; weights add up to 1."""
        for norm in self._ghost_norms:
            norm.update_running_stats()
        self.group.average(self._running_stats, weight)
