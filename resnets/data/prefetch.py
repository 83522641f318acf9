"""Read-ahead: threads process items before they are needed, in order.

Training and evaluation batches (`dataset.read_ahead`), sets that are read into memory, packing,
checks, class maps and batched inference use it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    work: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int
) -> Generator[tuple[T, R]]:
    """Yield each item with the result of `work`, in order; up to `ahead` are processed before.

    An exception of `work` is raised when its item is due. A caller that stops early does not wait
    for the threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        for item, (result,) in submit_ahead(lambda each: [pool.submit(work, each)], items, ahead):
            yield item, result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def submit_ahead(
    submit: Callable[[T], list[Future[R]]], items: Iterable[T], ahead: int
) -> Generator[tuple[T, list[R]]]:
    """Yield each item with the results of its tasks, which `submit` starts, as `prefetch`."""
    pending: deque[tuple[T, list[Future[R]]]] = deque()
    rest = iter(items)
    while True:
        for item in islice(rest, ahead - len(pending)):
            pending.append((item, submit(item)))
        if not pending:
            return
        item, tasks = pending.popleft()
        yield item, [task.result() for task in tasks]
