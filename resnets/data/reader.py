"""Pictures decoded ahead of their use by a pool of threads (Pillow decodes without the GIL)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.decode import View
from resnets.data.memory import cores
from resnets.data.split import Split

CHUNK = 8  # pictures decoded by one task of the pool


@dataclass(frozen=True, eq=False)
class Plan:
    """A batch to be read: rows (B,) of the split, their epochs (B,), and a view of each."""

    rows: NDArray[np.int64]
    epochs: NDArray[np.int64]
    views: Sequence[View]


@dataclass(frozen=True, eq=False)
class _Reading:
    plan: Plan
    pixels: Tensor
    tasks: list[Future[None]]


def read_ahead(
    split: Split, plans: Iterable[Plan], workers: int = 0, *, pin: bool = False
) -> Iterator[tuple[Plan, Tensor]]:
    """Each plan with its pixels (B, size, size, C) uint8, in order; `workers` 0 = one per core.

    A few batches are read ahead, enough to keep all threads busy. `pin` puts pixels into pinned
    memory. A picture that cannot be decoded raises its DataError when its batch is due.
    """
    workers = workers or cores()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[_Reading] = deque()
    plans = iter(plans)
    try:
        for plan in plans:
            waiting.append(_start(pool, split, plan, pin))
            if len(waiting) <= 1 + 2 * workers * CHUNK // len(plan.rows):
                continue
            yield _finish(waiting.popleft())
        while waiting:
            yield _finish(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _start(pool: ThreadPoolExecutor, split: Split, plan: Plan, pin: bool) -> _Reading:
    count, view = len(plan.rows), plan.views[0]
    shape = (count, view.size, view.size, view.channels)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
    out = pixels.numpy()

    def work(start: int) -> None:
        for place in range(start, min(start + CHUNK, count)):
            out[place] = split.read(int(plan.rows[place]), plan.views[place])

    return _Reading(plan, pixels, [pool.submit(work, start) for start in range(0, count, CHUNK)])


def _finish(reading: _Reading) -> tuple[Plan, Tensor]:
    for task in reading.tasks:
        task.result()
    return reading.plan, reading.pixels
