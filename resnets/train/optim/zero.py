"""An optimizer with its state sharded over the processes (ZeRO stage 1, Rajbhandari et al. 2020).

Momentum and moments take once or twice the memory of the weights. Each process stores them for its
own parameters only, updates these parameters, and broadcasts them to the other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from resnets.utils.machine.distributed import ProcessGroup

BUCKET = 1 << 23  # elements per broadcast: 32 MB of float32


class ShardedOptimizer:
    """Wraps the optimizer that `make` creates for this process's share of the parameters.

    The model and the gradients are the same in all processes. A step is bit-identical to that of
    one optimizer of all parameters. `state` and `param_groups` contain this process's parameters
    only.
    """

    def __init__(
        self,
        model: nn.Module,
        group: ProcessGroup,
        make: Callable[[Container[nn.Parameter]], torch.optim.Optimizer],
    ) -> None:
        self._parameters = list(model.parameters())
        shards = partition(self._parameters, group.world_size)
        self._buckets = [list(_buckets(parameters)) for parameters in shards]
        self._group = group
        self._optimizer = make(set(shards[group.rank]))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of this process; some may be empty."""
        return self._optimizer.param_groups

    @property
    def state(self) -> dict[Tensor, Any]:
        """Optimizer state of this process's parameters."""
        return self._optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:
        """Default options of the parameter groups."""
        return self._optimizer.defaults

    def skip_if(self, found_inf: Tensor) -> None:
        """Make fused steps do nothing while the scalar tensor is 1 (`GradScaler`)."""
        skip_if(self._optimizer, found_inf)

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters, each in the process that has its state."""
        self._optimizer.step()
        for owner, buckets in enumerate(self._buckets):
            for bucket in buckets:
                flat = torch.cat([parameter.reshape(-1) for parameter in bucket])
                distributed.broadcast(flat, owner)
                if owner != self._group.rank:
                    parts = flat.split([parameter.numel() for parameter in bucket])
                    for parameter, part in zip(bucket, parts, strict=True):
                        parameter.copy_(part.view_as(parameter))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Delete the gradients of all parameters, including those of other processes."""
        assert set_to_none, "only set_to_none is supported"
        for parameter in self._parameters:
            parameter.grad = None


def skip_if(optimizer: Any, found_inf: Tensor) -> None:
    """Make fused steps of a torch optimizer do nothing while the scalar on the device is 1.

    torch.amp.GradScaler sets the same attribute, which torch's types do not declare.
    """
    optimizer.found_inf = found_inf


def partition(parameters: list[nn.Parameter], count: int) -> list[list[nn.Parameter]]:
    """Split the parameters into `count` parts of similar size, equal in every process."""
    parts: list[list[nn.Parameter]] = [[] for _ in range(count)]
    sizes = [0] * count
    for parameter in sorted(parameters, key=lambda each: -each.numel()):  # a stable sort
        smallest = sizes.index(min(sizes))
        parts[smallest].append(parameter)
        sizes[smallest] += parameter.numel()
    return parts


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters of one dtype in buckets of at most `BUCKET` elements (or one parameter)."""
    bucket: list[nn.Parameter] = []
    for parameter in sorted(parameters, key=lambda each: str(each.dtype)):
        full = sum(each.numel() for each in bucket) + parameter.numel() > BUCKET
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
