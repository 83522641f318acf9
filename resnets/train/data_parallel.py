"""A net's forward pass in one of several processes, and what they exchange for each step."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnets.models.norm import GhostNorm, running_statistics
from resnets.utils.distributed import ProcessGroup


class DataParallelModel:
    """Calls `forward`, a net or its compiled form; gradients become the mean over all processes.

    fits_memory: micro-batches may be halved until they fit (`train.fit_memory`).

    DistributedDataParallel learns once which parameters have gradients, so it is made anew when
    others learn (`finetune.head_first`); before the first `begin` each process is alone. It
    exchanges no buffers: `update_running_stats` does.
    """

    def __init__(
        self,
        forward: nn.Module,
        rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
        fits_memory: bool = False,
    ) -> None:
        self.rank, self.fits_memory = rank, fits_memory
        self.tried = False  # whether a size was found, and no other will be looked for
        self._forward = forward
        self._parameters = list(forward.parameters())  # of a deep net thousands, asked each step
        self._learning: tuple[bool, ...] | None = None
        self._ghosts: list[GhostNorm] = []
        self._statistics: list[Tensor] = []
        self.called: nn.Module = forward  # what a call goes through

    def begin(self) -> None:
        """Look at which parameters learn; before each step."""
        learning = tuple(each.requires_grad for each in self._parameters)
        if learning == self._learning:
            return
        self._learning = learning
        self._ghosts = [each for each in self._forward.modules() if isinstance(each, GhostNorm)]
        if self.rank.world_size == 1:
            return
        self._statistics = running_statistics(self._forward)
        with warnings.catch_warnings():  # the name that replaces broadcast_buffers is new in 2.15
            warnings.simplefilter("ignore", FutureWarning)
            self.called = DistributedDataParallel(
                self._forward, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, *args: Any) -> Any:
        """The forward pass."""
        return self.called(*args)

    def no_sync(self, more: bool) -> AbstractContextManager[None]:
        """Context of a forward and backward pass; `more` of them follow in this step."""
        if more and isinstance(self.called, DistributedDataParallel):
            return self.called.no_sync()
        return nullcontext()

    def update_running_stats(self, weight: float) -> None:
        """Running statistics of norms become those of all processes; their weights add up to 1."""
        for norm in self._ghosts:
            norm.settle()
        self.rank.average(self._statistics, weight)
