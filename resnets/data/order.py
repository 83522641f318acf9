"""Which sample when, and random numbers: pure functions of (seed, epoch, sample).

Nothing here has state, so a resumed run sees what an uninterrupted one sees, and the number of
workers or devices never changes a result: rank r of R takes its slice of each batch's positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

# splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
MASK = (1 << 64) - 1

# Streams keep draws of one (seed, epoch, sample) independent: one number for each purpose.
STREAM_ORDER, STREAM_SPLIT, STREAM_FLIP = 0, 1, 2
STREAM_CROP_Y, STREAM_CROP_X, STREAM_BLOCKS, STREAM_BUFFER = 3, 4, 5, 6
STREAM_STEP = 7  # what a training step draws: dropout, sampled regions
STREAM_JITTER, STREAM_COLOR, STREAM_RESIZED_CROP = 8, 16, 32  # the first of several each
STREAM_VERTICAL, STREAM_TURN, STREAM_GRAYSCALE = 11, 12, 13
STREAM_BLUR, STREAM_COLOR_JITTER = 14, 24  # the first of two, and of eight
STREAM_MIX, STREAM_NOISE, STREAM_ERASE, STREAM_POLICY = 72, 80, 96, 128  # likewise

STREAM_SUBSTITUTE = 1 << 20  # the first of as many as it takes to find a readable image
RANDOM_TRIES = 100  # substitutes drawn at random before all rows are tried in turn


def random_bits(
    seed: int, epoch: ArrayLike, ids: ArrayLike, stream: ArrayLike
) -> NDArray[np.uint64]:
    """64 random bits for each sample; `epoch`, `ids` and `stream` are integers that broadcast."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what the mixing is made of
        for word in (np.uint64(seed & MASK), stream, epoch, ids):
            state = _mix((state + GOLDEN) ^ np.asarray(word).astype(np.uint64))
    return state


def uniform(seed: int, epoch: ArrayLike, ids: ArrayLike, stream: ArrayLike) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits: (B,) for `ids` (B,) and `epoch` () or (B,)."""
    return (random_bits(seed, epoch, ids, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(radius: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal numbers from two independent uniform ones in [0, 1) each (Box and Muller 1958)."""
    return np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)


def positions(
    n: int,
    seed: int,
    start: int,
    count: int,
    repeats: int = 1,
    permute: Callable[[int, int, int], NDArray[np.int64]] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Epoch and index, each (count,), of positions start .. start + count - 1 of an endless stream.

    Position p is sample permutation(n, seed, p // n)[p % n] of epoch p // n. A batch may straddle
    two epochs, so all batches are full and each epoch holds every sample exactly once.

    With `repeats` the first n / repeats samples of each epoch's order come that many times in a
    row, and the rest not (Hoffer et al. 2020). Copy c of epoch e is said to be of epoch
    e * repeats + c, so that no two copies share their random numbers.

    `permute` is a set's own order, where it is not `permutation`'s.
    """
    assert n > 0
    epoch, place = np.divmod(np.arange(start, start + count, dtype=np.int64), n)
    place, copy = np.divmod(place, repeats)
    index = np.empty(count, np.int64)
    for each in np.unique(epoch):
        chosen = epoch == each
        index[chosen] = (permute or permutation)(n, seed, int(each))[place[chosen]]
    return epoch * repeats + copy, index


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order (n,) of an epoch, read-only: samples sorted by their random bits."""
    bits = random_bits(seed, epoch, np.arange(n), STREAM_ORDER)
    order = np.argsort(bits, kind="stable")
    order.setflags(write=False)
    return order


def substitute(n: int, seed: int, epoch: int, row: int, attempt: int) -> int:
    """The row, of n, that is tried in the place of unreadable `row`; attempts count from 0."""
    bits = random_bits(seed, epoch, row, STREAM_SUBSTITUTE + attempt)
    return int(bits % np.uint64(n))


def rows_to_try(n: int, seed: int, epoch: int, row: int) -> Iterator[int]:
    """`row`, then the rows, of n, that may take its place where it cannot be read; it ends.

    First `RANDOM_TRIES` at random, then each of the n once, from `row` on: where any row can be
    read it is among these, however many cannot.
    """
    yield row
    for attempt in range(RANDOM_TRIES):
        yield substitute(n, seed, epoch, row, attempt)
    for step in range(1, n):
        yield (row + step) % n


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * MIX_2
    return bits ^ (bits >> np.uint64(31))
