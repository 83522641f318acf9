"""Evaluation by several processes: `torchrun --nproc-per-node 8 -m resnets evaluate ...`.

Each process takes every n-th picture and its own device, sums meet in the metrics, and nothing is
padded or counted twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Rank:
    """Which process of how many this is."""

    index: int = 0
    count: int = 1

    def share(self, rows: list[int]) -> list[int]:
        """The rows that fall to this process; over all processes each comes once."""
        return rows[self.index :: self.count]

    def gather(self, found: list[T]) -> list[T]:
        """The lists of all processes, joined, in each of them."""
        if self.count == 1:
            return found
        parts: list[list[T]] = [[] for _ in range(self.count)]
        distributed.all_gather_object(parts, found)
        return [item for part in parts for item in part]


@contextmanager
def joined(device: str) -> Iterator[Rank]:
    """Join the processes that torchrun started, if it did; `device` is "auto", "cpu", "cuda"."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Rank()
        return
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("gloo")  # only sums and names are exchanged, once
    try:
        yield Rank(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
