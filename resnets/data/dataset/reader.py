"""Images decoded ahead of their use by a pool of threads (Pillow decodes without the GIL)."""

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
    """A plan with its pixels (B, size, size, C), uint8 or float32, `out` the same memory, and the
    row (B,) that each place got, -1 where none could be read."""

    plan: Plan
    pixels: Tensor
    out: NDArray[Any]
    read: NDArray[np.int64]

    @classmethod
    def of(cls, plan: Plan, pin: bool) -> _Reading:
        """Memory for the pixels of a plan, pinned or not."""
        count, view = len(plan.rows), plan.views[0]
        shape = (count, view.size, view.size, view.channels)
        kind = torch.float32 if view.keep_bits else torch.uint8
        pixels = torch.empty(shape, dtype=kind, pin_memory=pin)
        return cls(plan, pixels, pixels.numpy(), np.full(count, -1, np.int64))

    def finished(self) -> tuple[Plan, Tensor] | None:
        """The plan as it was read; None where none of it could be."""
        if np.array_equal(self.plan.rows, self.read):
            return self.plan, self.pixels
        places = np.flatnonzero(self.read >= 0).tolist()
        if not places:
            return None
        views = [self.plan.views[place] for place in places]
        return Plan(self.read[places], self.plan.epochs[places], views), self.pixels[places]


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
    (seed, epoch, row), takes the place of each, and the plan that is yielded has its row. Without,
    they are left out of the plan, and a plan without any image is skipped. `decoding` counts what
    the threads spend.
    """
    workers, decoding = workers or cores(), decoding or Decoding()
    decoding.threads = workers
    plans = iter(plans)
    first = next(plans, None)
    if first is None:
        return

    pool = single_threaded_pool(workers, "decode")

    @decoding.working()
    def read(reading: _Reading, start: int) -> None:
        for place in range(start, min(start + CHUNK, len(reading.read))):
            _read(split, reading, place, seed)

    def submit(reading: _Reading) -> list[Future[None]]:
        return [pool.submit(read, reading, at) for at in range(0, len(reading.read), CHUNK)]

    readings = (_Reading.of(plan, pin) for plan in chain([first], plans))
    ahead = 2 + 2 * workers * CHUNK // len(first.rows)  # batches, and two chunks for each thread
    try:
        for reading, _ in submit_ahead(submit, readings, ahead):
            if (found := reading.finished()) is not None:
                yield found
    finally:
        pool.shutdown(cancel_futures=True)


def _read(split: Split, reading: _Reading, place: int, seed: int | None) -> None:
    """Read the image of one place of a batch, or another in its place where `seed` is given."""
    plan = reading.plan
    planned, epoch = int(plan.rows[place]), int(plan.epochs[place])
    rows = (planned,) if seed is None else order.rows_to_try(len(split), seed, epoch, planned)
    for row in rows:
        found = _try(split, row, plan.views[place])
        if found is not None:
            reading.out[place], reading.read[place] = found, row
            return
    if seed is not None:
        raise split.unreadable.exhausted()


def _try(split: Split, row: int, view: Crop) -> NDArray[Any] | None:
    """The view, or None where the image cannot be read; DataError where too many cannot."""
    try:
        return split.read(row, view)
    except DataError as error:
        split.unreadable.add(row, error)
        return None
