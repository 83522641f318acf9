"""Pictures read by threads while the net computes, in groups that fit, none lost on a bad file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from resnets.data import DataError

T = TypeVar("T")
R = TypeVar("R")


def compute_in_groups(
    read: Callable[[T], R],
    compute: Callable[[Sequence[R]], Tensor],
    items: Iterable[T],
    *,
    group: int,
    workers: int,
) -> Iterator[list[tuple[T, Tensor | str]]]:
    """For each group of up to `group` items, in order: item and its row of what `compute` gives.

    `workers` threads `read` the coming group meanwhile; at most two are held. `compute` gets what
    was read, and returns (B, ...) in inference mode. An item whose reading raises DataError or
    OSError comes with its message.
    """

    def attempt(item: T) -> tuple[R] | str:
        try:
            return (read(item),)
        except (DataError, OSError) as error:
            return str(error)

    found = _read_in_order(attempt, items, workers=workers, ahead=group)
    while chunk := list(islice(found, group)):
        readable = [picture[0] for _, picture in chunk if not isinstance(picture, str)]
        rows: Iterator[Tensor] = iter(())
        if readable:
            with torch.inference_mode():
                rows = iter(compute(readable))
        yield [
            (item, picture if isinstance(picture, str) else next(rows)) for item, picture in chunk
        ]


def _read_in_order(
    read: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int
) -> Iterator[tuple[T, R]]:
    """Each item with what `read` makes of it; at most `ahead` are read before their turn."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    rest = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        while True:
            for item in islice(rest, ahead - len(waiting)):
                waiting.append((item, pool.submit(read, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            yield item, future.result()
    finally:  # whoever stops early need not wait for what is still queued
        pool.shutdown(wait=False, cancel_futures=True)
