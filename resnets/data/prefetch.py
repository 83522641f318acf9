"""The one read-ahead of the package: threads work on items before they are needed, in order.

Training and evaluation batches (`dataset.reader`), sets that are read into memory, packing, checks,
class maps and batched inference all read through it.
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
    """Each item with what `work` makes of it, in order; up to `ahead` are worked on before.

    An exception of `work` is raised when its item is due. Whoever stops early need not wait for the
    threads.
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
    """Each item with the results of the tasks that `submit` starts for it, as `prefetch` does."""
    waiting: deque[tuple[T, list[Future[R]]]] = deque()
    rest = iter(items)
    while True:
        for item in islice(rest, ahead - len(waiting)):
            waiting.append((item, submit(item)))
        if not waiting:
            return
        item, tasks = waiting.popleft()
        yield item, [task.result() for task in tasks]
