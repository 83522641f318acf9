"""Several processes that work as one: those that torchrun started, each with its own device.

Training divides each global batch among them, evaluation the pictures; sums meet here, and nothing
is padded or counted twice. One process alone is rank 0 of 1, for which all of this costs nothing.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from resnets.utils.errors import ConfigError, RemoteError, ResnetsError
from resnets.utils.processes import environment_int

T = TypeVar("T")

WAIT = timedelta(minutes=30)  # for the others, before an exchange fails
FIRST_ENDED = "rank 0 ended with an error"  # key in the store of all processes


class ProcessLost(ResnetsError):  # noqa: N818  (the field's word)
    """Another process of the run died or hangs; the message says where it was missed."""


@dataclass(frozen=True)
class ProcessGroup:
    """Which process of how many this is."""

    index: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.index == 0

    def shard(self, rows: list[T]) -> list[T]:
        """The rows that fall to this process; over all processes each comes once."""
        return rows[self.index :: self.world_size]

    def places(self, batch_size: int, unit: int = 1) -> NDArray[np.int64]:
        """Places in a global batch that fall to this process: units r, r + R, ... of `unit` each.

        Pictures of a unit need one another (partners of mixup, a norm's batch). Raises ConfigError
        where there is no unit for each process.
        """
        units = -(-batch_size // unit)
        if units < self.world_size:
            raise ConfigError(
                f"batch_size={batch_size}: {self.world_size} processes need at least "
                f"{self.world_size * unit}, so that each gets {unit}; raise it, or start fewer"
            )
        places = np.arange(batch_size)
        return places[places // unit % self.world_size == self.index]

    def gather(self, found: list[T]) -> list[T]:
        """The lists of all processes, joined, in each of them."""
        if self.world_size == 1:
            return found
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        distributed.all_gather_object(parts, found)
        return [item for part in parts for item in part]

    def collect(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of all other processes, on the CPU, in the first; in the others nothing."""
        if not self.is_main:
            distributed.gather_object({name: each.cpu() for name, each in tensors.items()})
            return {}
        parts: list[dict[str, Tensor]] = [{} for _ in range(self.world_size)]
        distributed.gather_object({}, parts)
        return {name: each for part in parts for name, each in part.items()}

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them.

        Where it fails, the first raises its error, and the others ToldError.
        """
        if self.world_size == 1:
            return make()
        if not self.is_main:
            told: list[T | None] = [None]
            distributed.broadcast_object_list(told)
            found = told[0]
            if isinstance(found, RemoteError):
                raise found
            return found  # type: ignore[return-value]
        try:
            found = make()
        except Exception as error:
            distributed.broadcast_object_list([RemoteError(f"rank 0: {error}")])
            raise
        distributed.broadcast_object_list([found])
        return found

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags.item())

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value added up over all processes, in float64; the keys are the same in all."""
        if self.world_size == 1:
            return dict(values)
        total = torch.tensor([values[key] for key in sorted(values)], dtype=torch.float64)
        distributed.all_reduce(total)
        return dict(zip(sorted(values), total.tolist(), strict=True))

    @contextmanager
    def lost(self, where: Callable[[], str]) -> Iterator[None]:
        """Context that says in one line, as RankLost, what exchanges raise from deep inside."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not re.search(
                "gloo|nccl|connection|timed out", str(error), re.I
            ):
                raise
            why = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]
            raise ProcessLost(
                f"lost another of the {self.world_size} processes {where()} ({why}); resume with "
                "--resume"
            ) from None

    def average(self, tensors: list[Tensor], weight: float) -> None:
        """Replace each float32 tensor by the mean over all processes; their weights add up to 1."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors]).mul_(weight)
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def init_distributed(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, if it did; `device` is "auto", "cpu", "cuda".

    The default group carries CPU tensors over gloo and, with GPUs, CUDA tensors over nccl.
    """
    count = environment_int("WORLD_SIZE", 1, least=1)
    if count == 1:
        yield ProcessGroup()
        return
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(environment_int("LOCAL_RANK"))
    elif device not in ("auto", "cpu"):
        raise ConfigError(
            f"--device {device}: each of {count} processes takes its own; say auto, cpu or cuda"
        )
    rank = ProcessGroup(environment_int("RANK"), count)
    # torchrun keeps its store when it starts processes again, with the addresses of those that
    # died; without a prefix of their own the new ones may try to reach them.
    attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {count}"
    _import_defaults()
    with rank.lost(lambda: "while they met"):
        shared, *_ = next(distributed.rendezvous("env://", timeout=WAIT))
        store = distributed.PrefixStore(attempt, shared)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=rank.index,
            world_size=count,
            timeout=WAIT,
        )
    try:
        with _first_says_why(rank, store), rank.lost(lambda: "outside training"):
            yield rank
    finally:
        distributed.destroy_process_group()


def _import_defaults() -> None:
    """Import the modules of torch whose functions have the default group as a default argument.

    Imported while there is a group, as optimizers import them (by torch._dynamo), they would keep
    it for ever. Its threads would outlive `destroy_process_group`, and one that still holds a
    tensor when Python ends aborts the process ("terminate called without an active exception").
    """
    for name in ("fsdp", "nn.functional", "optim"):
        importlib.import_module(f"torch.distributed.{name}")


@contextmanager
def _first_says_why(rank: ProcessGroup, store: distributed.Store) -> Iterator[None]:
    """Let the others end by ToldError, in silence, where the first ends with an error of its own.

    All they would have to say is that they lost it.
    """
    try:
        yield
    except ProcessLost:
        if rank.is_main or not _is_set(store, FIRST_ENDED):
            raise
        raise RemoteError("rank 0 says why the run ends") from None
    except (ValueError, OSError):
        if rank.is_main:  # before its connections are closed, which is what the others notice
            with suppress(RuntimeError):
                store.set(FIRST_ENDED, "1")
        raise


def _is_set(store: distributed.Store, key: str) -> bool:
    try:
        return store.check([key])
    except RuntimeError:  # the store itself is gone
        return False
