"""An optimizer whose state is divided among the processes (ZeRO stage 1, Rajbhandari et al. 2020).

Momentum and moments take as much memory as the weights, once or twice. Each process keeps those of
its own part of the parameters alone, updates that part, and sends it to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from resnets.utils.distributed import ProcessGroup

BUCKET = 1 << 23  # numbers that are sent at once: 32 MB of float32


class Sharded:
    """The optimizer that `make` gives for the parameters that fall to this process.

    model: the same in all processes, as are the gradients. It steps as one optimizer of all
    parameters would, to the bit; `state` and `param_groups` are those of this process's.
    """

    def __init__(
        self,
        model: nn.Module,
        rank: ProcessGroup,
        make: Callable[[Container[nn.Parameter]], torch.optim.Optimizer],
    ) -> None:
        self._parameters = list(model.parameters())
        owned = divide(self._parameters, rank.world_size)
        self._buckets = [list(_buckets(parameters)) for parameters in owned]
        self._rank = rank
        self._own = make(set(owned[rank.index]))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of this process's parameters; some may be empty."""
        return self._own.param_groups

    @property
    def state(self) -> dict[Tensor, Any]:
        """State of this process's parameters."""
        return self._own.state

    @property
    def defaults(self) -> dict[str, Any]:
        """Options of the groups that do not name their own."""
        return self._own.defaults

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters, each in the process that has its state."""
        self._own.step()
        for owner, buckets in enumerate(self._buckets):
            for bucket in buckets:
                flat = torch.cat([parameter.reshape(-1) for parameter in bucket])
                distributed.broadcast(flat, owner)
                if owner != self._rank.index:
                    parts = flat.split([parameter.numel() for parameter in bucket])
                    for parameter, part in zip(bucket, parts, strict=True):
                        parameter.copy_(part.view_as(parameter))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, those of other processes' among them."""
        assert set_to_none, "no other way is needed"
        for parameter in self._parameters:
            parameter.grad = None


def divide(parameters: list[nn.Parameter], count: int) -> list[list[nn.Parameter]]:
    """Parts of about the same number of numbers, the same in every process."""
    parts: list[list[nn.Parameter]] = [[] for _ in range(count)]
    sizes = [0] * count
    for parameter in sorted(parameters, key=lambda each: -each.numel()):  # stable: ties keep order
        least = sizes.index(min(sizes))
        parts[least].append(parameter)
        sizes[least] += parameter.numel()
    return parts


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of one kind of number, of BUCKET numbers or one parameter at most."""
    bucket: list[nn.Parameter] = []
    for parameter in sorted(parameters, key=lambda each: str(each.dtype)):
        full = sum(each.numel() for each in bucket) + parameter.numel() > BUCKET
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
