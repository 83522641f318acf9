"""Data-parallel processes started by torchrun, each with its own device.

Training divides each global batch among them, evaluation the images. Nothing is padded or counted
twice. A single process is rank 0 of 1, for which no method communicates.
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
from resnets.utils.machine.environment import pick_device
from resnets.utils.machine.processes import environment_int

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # of each collective operation
MAIN_FAILED = "rank 0 ended with an error"  # key in the shared store


class ProcessLost(ResnetsError):  # noqa: N818  (a state, as torch's)
    """Another process of the run died or hangs; the message gives the operation that failed."""


@dataclass(frozen=True)
class ProcessGroup:
    """Rank of this process and number of processes, with the collective operations between them."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only process that writes files and logs."""
        return self.rank == 0

    def shard(self, rows: list[T]) -> list[T]:
        """Return the rows of this process; each row belongs to exactly one process."""
        return rows[self.rank :: self.world_size]

    def batch_indices(self, batch_size: int, unit: int = 1) -> NDArray[np.int64]:
        """Return the indices in a global batch of this process's images: units r, r + R, ...

        A unit is `unit` images that stay together (partners of mixup, the batch of a norm). Raises
        ConfigError if there are fewer units than processes.
        """
        units = -(-batch_size // unit)
        if units < self.world_size:
            raise ConfigError(
                f"batch_size={batch_size}: {self.world_size} processes need at least "
                f"{self.world_size * unit}, so that each gets {unit}; raise it, or start fewer"
            )
        indices = np.arange(batch_size)
        return indices[indices // unit % self.world_size == self.rank]

    def all_gather(self, items: list[T]) -> list[T]:
        """Return the concatenated lists of all processes, in each of them."""
        if self.world_size == 1:
            return items
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return in rank 0 the tensors of all other processes, on the CPU; in the others {}."""
        if not self.is_main:
            distributed.gather_object({name: each.cpu() for name, each in tensors.items()})
            return {}
        parts: list[dict[str, Tensor]] = [{} for _ in range(self.world_size)]
        distributed.gather_object({}, parts)
        return {name: each for part in parts for name, each in part.items()}

    def broadcast_from_main(self, make: Callable[[], T]) -> T:
        """Call `make` in rank 0 and return its result in all processes.

        If it fails, rank 0 raises its error and the others RemoteError.
        """
        if self.world_size == 1:
            return make()
        if not self.is_main:
            received: list[T | None] = [None]
            distributed.broadcast_object_list(received)
            result = received[0]
            if isinstance(result, RemoteError):
                raise result
            return result  # type: ignore[return-value]
        try:
            result = make()
        except Exception as error:
            distributed.broadcast_object_list([RemoteError(f"rank 0: {error}")])
            raise
        distributed.broadcast_object_list([result])
        return result

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags.item())

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum each value over all processes, in float64; all must have the same keys."""
        if self.world_size == 1:
            return dict(values)
        total = torch.tensor([values[key] for key in sorted(values)], dtype=torch.float64)
        distributed.all_reduce(total)
        return dict(zip(sorted(values), total.tolist(), strict=True))

    @contextmanager
    def translate_errors(self, where: Callable[[], str]) -> Iterator[None]:
        """Context that turns errors of the communication backend into a ProcessLost of one line."""
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
        """Replace each float32 tensor by its weighted mean over all processes; weights sum to 1."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors]).mul_(weight)
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def init_distributed(device: str) -> Iterator[ProcessGroup]:
    """Create the default process group if torchrun started this process, and destroy it at the end.

    device: "auto", "cpu" or "cuda"; ConfigError for others. The group sends CPU tensors over gloo
    and, with GPUs, CUDA tensors over nccl.
    """
    count = environment_int("WORLD_SIZE", 1, least=1)
    if count == 1:
        yield ProcessGroup()
        return
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        local, present = environment_int("LOCAL_RANK"), torch.cuda.device_count()
        if local >= present:
            raise ConfigError(
                f"environment variable LOCAL_RANK is {local}, but this machine has {present} GPUs;"
                " start one process per GPU (torchrun --nproc-per-node), or use --device cpu"
            )
        torch.cuda.set_device(local)
    elif device == "cuda":
        pick_device(device)  # raises ConfigError with the reason why it is not available
    elif device not in ("auto", "cpu"):
        raise ConfigError(
            f"--device {device}: each of {count} processes selects its own; use auto, cpu or cuda"
        )
    group = ProcessGroup(environment_int("RANK"), count)
    # torchrun keeps its store when it restarts processes, with the addresses of those that died;
    # without a new prefix the restarted ones may try to connect to them.
    attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {count}"
    _import_before_init()
    with group.translate_errors(lambda: "while connecting"):
        shared, *_ = next(distributed.rendezvous("env://", timeout=TIMEOUT))
        store = distributed.PrefixStore(attempt, shared)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=group.rank,
            world_size=count,
            timeout=TIMEOUT,
        )
    try:
        with _main_reports_error(group, store), group.translate_errors(lambda: "outside training"):
            yield group
    finally:
        distributed.destroy_process_group()


def _import_before_init() -> None:
    """Import the modules of torch whose functions have the default group as a default argument.

    If they are imported while a group exists, as optimizers do (by torch._dynamo), they keep it
    alive. Its threads would outlive `destroy_process_group`, and one that still holds a
    tensor when Python ends aborts the process ("terminate called without an active exception").
    """
    for name in ("fsdp", "nn.functional", "optim"):
        importlib.import_module(f"torch.distributed.{name}")


@contextmanager
def _main_reports_error(group: ProcessGroup, store: distributed.Store) -> Iterator[None]:
    """Raise RemoteError in the other processes if rank 0 fails with an error of its own.

    They should not report a lost process when rank 0 reports the cause.
    """
    try:
        yield
    except ProcessLost:
        if group.is_main or not _is_set(store, MAIN_FAILED):
            raise
        raise RemoteError("rank 0 reports why the run ends") from None
    except (ValueError, OSError):
        if group.is_main:  # before its connections close, which the others notice
            with suppress(RuntimeError):
                store.set(MAIN_FAILED, "1")
        raise


def _is_set(store: distributed.Store, key: str) -> bool:
    try:
        return store.check([key])
    except RuntimeError:  # the store itself is gone
        return False
