"""Pictures read by threads while the net computes, in groups that fit, none lost on a bad file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from resnets.data import DataError
from resnets.data.prefetch import in_order

NOT_FINITE = (
    "the network's outputs for this image are not finite (NaN or Inf): its weights are damaged, or"
    " its preprocessing is another"
)
T = TypeVar("T")
R = TypeVar("R")


def compute_in_groups(
    read: Callable[[T], R],
    compute: Callable[[Sequence[R]], Tensor],
    items: Iterable[T],
    *,
    group: int,
    workers: int,
    at_once: int = 1,
    finite: bool = False,
) -> Iterator[list[tuple[T, Tensor | str]]]:
    """For each group of up to `group` items, in order: item and its row of what `compute` gives.

    `workers` threads `read` the coming group meanwhile: one more is held than computed. `compute`
    gets what was read, and returns (B, ...) in inference mode. An item whose reading raises
    DataError or OSError comes with its message; with `finite`, one whose row is not, with
    `NOT_FINITE` in place of it. `at_once` groups are computed at a time, by threads
    of their own if there are several: while one ends, and some cores have no work left, the next
    has begun.
    """

    def attempt(item: T) -> tuple[R] | str:
        try:
            return (read(item),)
        except (DataError, OSError) as error:
            return str(error)

    def answer(chunk: list[tuple[T, tuple[R] | str]]) -> list[tuple[T, Tensor | str]]:
        readable = [picture[0] for _, picture in chunk if not isinstance(picture, str)]
        rows: Iterator[Tensor | str] = iter(())
        if readable:
            with torch.inference_mode():
                found = compute(readable)
                rows = iter(_finite(found) if finite else found)
        return [
            (item, picture if isinstance(picture, str) else next(rows)) for item, picture in chunk
        ]

    with closing(in_order(attempt, items, workers=workers, ahead=group)) as found:
        chunks = iter(lambda: list(islice(found, group)), [])
        if at_once == 1:
            yield from map(answer, chunks)
            return
        with closing(in_order(answer, chunks, workers=at_once, ahead=at_once)) as answers:
            yield from (done for _, done in answers)


def _finite(rows: Tensor) -> list[Tensor | str]:
    """The rows of a batch; `NOT_FINITE` in place of those that are no answer."""
    fine = rows.flatten(1).isfinite().all(1).tolist()
    return [row if good else NOT_FINITE for row, good in zip(rows, fine, strict=True)]
