"""Decode images ahead of their use with a thread pool (Pillow decodes without the GIL)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import order
from resnets.data.dataset.labeled_images import Split
from resnets.data.decode.decode import Crop
from resnets.data.errors import DataError
from resnets.data.prefetch import submit_ahead
from resnets.data.timings import Decoding
from resnets.utils.machine.cpu_count import cores
from resnets.utils.machine.environment import single_threaded_pool

CHUNK = 8  # images per task of the thread pool


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """A batch to read: rows (B,) of the split, their epochs (B,), and a crop for each."""

    rows: NDArray[np.int64]
    epochs: NDArray[np.int64]
    views: Sequence[Crop]


@dataclass(frozen=True, eq=False)
class _PendingBatch:
    """A plan with its pixels (B, size, size, C), uint8 or float32; `out` shares their memory.

    read: (B,) row that was read for each image; -1 if none could be read.
    """

    plan: BatchPlan
    pixels: Tensor
    out: NDArray[Any]
    read: NDArray[np.int64]

    @classmethod
    def of(cls, plan: BatchPlan, pin: bool) -> _PendingBatch:
        """Allocate the pixels of a plan, in pinned memory if `pin`."""
        count, view = len(plan.rows), plan.views[0]
        shape = (count, view.size, view.size, view.channels)
        kind = torch.float32 if view.keep_bits else torch.uint8
        pixels = torch.empty(shape, dtype=kind, pin_memory=pin)
        return cls(plan, pixels, pixels.numpy(), np.full(count, -1, np.int64))

    def result(self) -> tuple[BatchPlan, Tensor] | None:
        """Return the plan as it was read, with its pixels; None if no image could be read."""
        if np.array_equal(self.plan.rows, self.read):
            return self.plan, self.pixels
        indices = np.flatnonzero(self.read >= 0).tolist()
        if not indices:
            return None
        views = [self.plan.views[index] for index in indices]
        return BatchPlan(self.read[indices], self.plan.epochs[indices], views), self.pixels[indices]


def read_ahead(
    split: Split,
    plans: Iterable[BatchPlan],
    workers: int = 0,
    *,
    pin: bool = False,
    seed: int | None = None,
    decoding: Decoding | None = None,
) -> Iterator[tuple[BatchPlan, Tensor]]:
    """Yield each plan with its pixels (B, size, size, C) uint8, in order.

    Args:
        split: Images to read.
        plans: Batches to read.
        workers: Number of threads; 0 = one per core.
        pin: Use pinned memory.
        seed: Replace each unreadable image by another one, a function of (seed, epoch, row), whose
            row is in the yielded plan. Without a seed unreadable images are removed from the plan,
            and a plan without images is skipped.
        decoding: Measures the time of the threads.

    A few batches are read ahead, enough to keep all threads busy. Unreadable images are added to
    `split.unreadable`, which raises DataError, when their batch is due, if there are too many.
    """
    workers, decoding = workers or cores(), decoding or Decoding()
    decoding.threads = workers
    plans = iter(plans)
    first = next(plans, None)
    if first is None:
        return

    pool = single_threaded_pool(workers, "decode")

    @decoding.working()
    def read(batch: _PendingBatch, start: int) -> None:
        for index in range(start, min(start + CHUNK, len(batch.read))):
            _read_image(split, batch, index, seed)

    def submit(batch: _PendingBatch) -> list[Future[None]]:
        return [pool.submit(read, batch, start) for start in range(0, len(batch.read), CHUNK)]

    batches = (_PendingBatch.of(plan, pin) for plan in chain([first], plans))
    ahead = 2 + 2 * workers * CHUNK // len(first.rows)  # batches, and two chunks for each thread
    try:
        for batch, _ in submit_ahead(submit, batches, ahead):
            if (result := batch.result()) is not None:
                yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _read_image(split: Split, batch: _PendingBatch, index: int, seed: int | None) -> None:
    """Read one image of a batch, or with `seed` a substitute for an unreadable one."""
    plan = batch.plan
    planned, epoch = int(plan.rows[index]), int(plan.epochs[index])
    rows = (planned,) if seed is None else order.rows_to_try(len(split), seed, epoch, planned)
    for row in rows:
        pixels = _try_read(split, row, plan.views[index])
        if pixels is not None:
            batch.out[index], batch.read[index] = pixels, row
            return
    if seed is not None:
        raise split.unreadable.exhausted_error()


def _try_read(split: Split, row: int, view: Crop) -> NDArray[Any] | None:
    """Return the crop; None if the image cannot be read. Raises DataError if there are too many."""
    try:
        return split.read(row, view)
    except DataError as error:
        split.unreadable.add(row, error)
        return None
