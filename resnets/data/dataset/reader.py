"""Images decoded ahead of their use by a pool of threads (Pillow decodes without the GIL)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import order
from resnets.data.dataset.split import Split
from resnets.data.decode.decode import Crop
from resnets.data.errors import DataError
from resnets.data.timings import Decoding
from resnets.utils.cpu_count import cores
from resnets.utils.environment import single_threaded_pool

CHUNK = 8  # images decoded by one task of the pool


@dataclass(frozen=True, eq=False)
class Plan:
    """A batch to be read: rows (B,) of the split, their epochs (B,), and a view of each."""

    rows: NDArray[np.int64]
    epochs: NDArray[np.int64]
    views: Sequence[Crop]


@dataclass(frozen=True, eq=False)
class _Reading:
    plan: Plan
    pixels: Tensor
    read: NDArray[np.int64]  # (B,): the row that each place got, -1 where none could be read
    tasks: list[Future[None]]


def read_ahead(
    split: Split,
    plans: Iterable[Plan],
    workers: int = 0,
    *,
    pin: bool = False,
    seed: int | None = None,
    decoding: Decoding | None = None,
) -> Iterator[tuple[Plan, Tensor]]:
    """Each plan with its pixels (B, size, size, C) uint8, in order; `workers` 0 = one per core.

    A few batches are read ahead, enough to keep all threads busy. `pin` puts pixels into pinned
    memory. Unreadable images are noted in `split.unreadable`, which raises DataError, when their
    batch is due, if they are too many. With `seed` the same view of another image, chosen by
    (seed, epoch, row), takes the place of each, and the plan handed on names its row. Without, they
    are left out of the plan, and a plan that has no other is skipped. `decoding` counts what the
    threads spend.
    """
    workers, decoding = workers or cores(), decoding or Decoding()
    decoding.threads = workers
    pool = single_threaded_pool(workers, "decode")
    waiting: deque[_Reading] = deque()
    try:
        for plan in plans:
            waiting.append(_start(pool, split, plan, pin, seed, decoding))
            if len(waiting) > 1 + 2 * workers * CHUNK // len(plan.rows):
                yield from _finish(waiting.popleft())
        while waiting:
            yield from _finish(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _start(
    pool: ThreadPoolExecutor,
    split: Split,
    plan: Plan,
    pin: bool,
    seed: int | None,
    decoding: Decoding,
) -> _Reading:
    count, many, view = len(plan.rows), len(split), plan.views[0]
    shape = (count, view.size, view.size, view.channels)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
    out, read = pixels.numpy(), np.empty(count, np.int64)

    @decoding.working()
    def work(start: int) -> None:
        for place in range(start, min(start + CHUNK, count)):
            read[place] = -1
            planned, epoch = int(plan.rows[place]), int(plan.epochs[place])
            rows = (planned,) if seed is None else order.rows_to_try(many, seed, epoch, planned)
            for row in rows:
                found = _try(split, row, plan.views[place])
                if found is not None:
                    out[place], read[place] = found, row
                    break
            else:
                if seed is not None:
                    raise split.unreadable.exhausted()

    tasks = [pool.submit(work, start) for start in range(0, count, CHUNK)]
    return _Reading(plan, pixels, read, tasks)


def _try(split: Split, row: int, view: Crop) -> NDArray[np.uint8] | None:
    """The view, or None where the image cannot be read; DataError where too many cannot."""
    try:
        return split.read(row, view)
    except DataError as error:
        split.unreadable.add(row, error)
        return None


def _finish(reading: _Reading) -> Iterator[tuple[Plan, Tensor]]:
    """The plan as it was read; nothing where none of it could be."""
    for task in reading.tasks:
        task.result()
    plan, read = reading.plan, reading.read
    if np.array_equal(plan.rows, read):
        yield plan, reading.pixels
        return
    places = np.flatnonzero(read >= 0).tolist()
    if places:
        views = [plan.views[place] for place in places]
        yield Plan(read[places], plan.epochs[places], views), reading.pixels[places]
