"""Which pictures of a set are the same or look alike, without comparing each with all others.

Files of equal bytes share a digest. Pictures that look alike share most of the 64 bits of their
shape: two that differ in at most three agree in one of its four quarters, so that only those need
comparing. What is proposed so is read again and compared by its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError

DISTANCE = 3  # bits in which the shapes of pictures that look alike may differ
ALIKE = 6.0  # mean difference of thumbnails in 0..255 up to which pictures look alike
FELLOWS = 4  # pictures of one shape that are compared with each of another
REMEMBERED = 20_000  # thumbnails kept for the next comparison
BLOCK = 2048  # shapes compared at once

Pair = tuple[int, int]
Seen = tuple[str, NDArray[np.uint8]]  # size and digest of all pixels, thumbnail (32, 32, 3)


def same_bytes(content: NDArray[np.uint64]) -> Iterator[Pair]:
    """(first row, later row) of files with equal digests (N,); all later ones with the first."""
    _, first, group = np.unique(content, return_index=True, return_inverse=True)
    firsts = first[group]
    for row in np.flatnonzero(firsts != np.arange(len(content))).tolist():
        yield int(firsts[row]), row


def proposals(shapes: NDArray[np.uint64], rows: NDArray[np.int64]) -> list[Pair]:
    """Pairs of `rows`, the lesser first, whose shapes (one each) differ in at most three bits."""
    found: set[Pair] = set()
    order = np.lexsort((rows, shapes))
    shapes, rows = shapes[order], rows[order]
    unique, starts = np.unique(shapes, return_index=True)
    ends = np.append(starts[1:], len(rows))
    fellows = [rows[start:end].tolist() for start, end in zip(starts, ends, strict=True)]
    for same in fellows:
        found.update(
            (one, other) for k, other in enumerate(same) for one in same[: min(k, FELLOWS)]
        )
    for one, other in _near(unique):
        for a in fellows[one][:FELLOWS]:
            found.update((min(a, b), max(a, b)) for b in fellows[other][:FELLOWS])
    return sorted(found)


def _near(shapes: NDArray[np.uint64]) -> Iterator[Pair]:
    """Pairs of distinct shapes that differ in at most three bits."""
    for quarter in range(4):
        key = (shapes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order])) + 1
        for bucket in np.split(order, edges):
            if len(bucket) > 1:
                yield from _near_in(shapes, bucket)


def _near_in(shapes: NDArray[np.uint64], bucket: NDArray[np.int64]) -> Iterator[Pair]:
    for start in range(0, len(bucket), BLOCK):
        some = bucket[start : start + BLOCK]
        others = bucket[start:]
        differ = _ones(shapes[some][:, None] ^ shapes[others][None])
        for i, j in np.argwhere(differ <= DISTANCE).tolist():
            if j > i:
                yield int(some[i]), int(others[j])


def _ones(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits are set in each, by adding them up in twos, fours and bytes."""
    words = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    low = np.uint64(0x3333333333333333)
    words = (words & low) + ((words >> np.uint64(2)) & low)
    words = (words + (words >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    with np.errstate(over="ignore"):  # the product's top byte is the sum of all bytes
        return ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def compare(
    pairs: Iterable[Pair], see: Callable[[int], Seen], workers: int
) -> Iterator[tuple[Pair, float]]:
    """Each pair with the mean difference of its thumbnails, 0..255; -1 where all pixels agree.

    `see` reads a picture again. A pair of which one has gone since is left out.
    """
    remembered = lru_cache(REMEMBERED)(see)

    def difference(pair: Pair) -> float | None:
        try:
            (one, first), (other, second) = map(remembered, pair)
        except DataError:
            return None
        if one == other:
            return -1.0
        return float(np.abs(first.astype(np.int16) - second).mean())

    pool = ThreadPoolExecutor(workers, thread_name_prefix="compare")
    try:
        pairs = list(pairs)
        for start in range(0, len(pairs), BLOCK):
            some = pairs[start : start + BLOCK]
            for pair, found in zip(some, pool.map(difference, some), strict=True):
                if found is not None:
                    yield pair, found
    finally:
        pool.shutdown(cancel_futures=True)
