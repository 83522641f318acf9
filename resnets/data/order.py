"""The order of samples, and random numbers, as pure functions of (seed, epoch, sample).

Nothing here has state, so a resumed run reads the same samples as an uninterrupted one, and the
number of workers or devices never changes a result: rank r of R takes its slice of each batch's
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
# (n, seed, epoch) -> round and sample, (n,) each, of the draws of an epoch.
Draw = Callable[[int, int, int], tuple[Ints, Ints]]

# splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
MASK = (1 << 64) - 1

# Streams make draws for one (seed, epoch, sample) independent: one number per purpose.
STREAM_ORDER, STREAM_SPLIT, STREAM_FLIP = 0, 1, 2
STREAM_CROP_Y, STREAM_CROP_X, STREAM_BLOCKS, STREAM_BUFFER = 3, 4, 5, 6
STREAM_STEP = 7  # random numbers of a training step: dropout, sampled regions
STREAM_JITTER, STREAM_COLOR, STREAM_RESIZED_CROP = 8, 16, 32  # the first of several streams each
STREAM_VERTICAL, STREAM_TURN, STREAM_GRAYSCALE = 11, 12, 13
STREAM_BLUR, STREAM_COLOR_JITTER = 14, 24  # the first of two and of eight streams
STREAM_MIX, STREAM_NOISE, STREAM_ERASE, STREAM_POLICY = 72, 80, 96, 128  # first streams, too

STREAM_CLASS = 66  # order of a class in a round

STREAM_SUBSTITUTE = 1 << 20  # first stream of the substitutes of unreadable images
RANDOM_TRIES = 100  # random substitutes before all rows are tried in turn


def evenly_spaced(count: int, limit: int, *, repeat: bool = False) -> Ints:
    """Return at most `limit` of `count` rows, evenly spaced, from the first to the last.

    repeat: return exactly `limit`; rows are repeated if there are fewer.
    """
    return np.linspace(0, count - 1, limit if repeat else min(count, limit)).astype(np.int64)


def random_bits(
    seed: int, epoch: ArrayLike, ids: ArrayLike, stream: ArrayLike
) -> NDArray[np.uint64]:
    """Return 64 random bits per sample; `epoch`, `ids` and `stream` are integers that broadcast."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # the mixing is arithmetic modulo 2^64
        for word in (np.uint64(seed & MASK), stream, epoch, ids):
            state = _mix((state + GOLDEN) ^ np.asarray(word).astype(np.uint64))
    return state


def uniform(seed: int, epoch: ArrayLike, ids: ArrayLike, stream: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1) with 53 random bits: (B,) for `ids` (B,) and `epoch` () or (B,)."""
    return (random_bits(seed, epoch, ids, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(radius: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return normal random numbers from two uniform ones in [0, 1) (Box and Muller 1958)."""
    return np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)


def positions(
    n: int,
    seed: int,
    start: int,
    count: int,
    repeats: int = 1,
    draw: Draw | None = None,
) -> tuple[Ints, Ints]:
    """Return epochs and indices, (count,) each, of positions start to start + count - 1.

    The stream of positions is endless. Position p is sample permutation(n, seed, p // n)[p % n] of
    epoch p // n. A batch may span two epochs, so all batches are full and each epoch has every
    sample exactly once.

    With `repeats`, the first n / repeats samples of each epoch's order are repeated that many times
    in a row, and the rest are skipped (Hoffer et al. 2020).
    repeats + c, so that no two copies share their random numbers.

    draw: the order of the epochs instead of `permutation`; a sample may occur several times or
    never.
    """
    assert n > 0
    draw = draw or draw_each_once(permutation)
    epoch, place = np.divmod(np.arange(start, start + count, dtype=np.int64), n)
    place, copy = np.divmod(place, repeats)
    rounds, index = np.empty(count, np.int64), np.empty(count, np.int64)
    for each in np.unique(epoch):
        chosen = epoch == each
        numbers, rows = draw(n, seed, int(each))
        rounds[chosen], index[chosen] = numbers[place[chosen]], rows[place[chosen]]
    return rounds * repeats + copy, index


def draw_each_once(permute: Callable[[int, int, int], Ints]) -> Draw:
    """Return draws in which each epoch has every sample once, in the order of `permute`.

    permute: function of (n, seed, epoch).
    """

    def draw(n: int, seed: int, epoch: int) -> tuple[Ints, Ints]:
        return np.broadcast_to(np.int64(epoch), n), permute(n, seed, epoch)

    return draw


class BalancedDraw:
    """Epochs in which the share of a class of n_c images is proportional to n_c^power.

    labels: (N,) class of each sample. power: 0 gives equal shares, 0.5 square-root sampling
    (Mahajan et al. 2018; Kang et al. 2020, section 3). An epoch still has N draws. The samples of a
    class are drawn in rounds, each once per round, so that no sample is repeated before all others
    of its class were drawn; a round is shorter than an epoch for rare classes and longer for
    frequent ones. Draws are labeled with the number of their round, so that no two draws of a
    sample share their random numbers.
    """

    def __init__(self, labels: Ints, power: float) -> None:
        counts = np.bincount(labels)
        self._samples = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
        weights = np.where(counts > 0, np.maximum(counts, 1) ** power, 0.0)
        self._quotas = _round_shares(len(labels) * weights / weights.sum())
        self._draw = lru_cache(maxsize=4)(self._epoch)

    def __call__(self, n: int, seed: int, epoch: int) -> tuple[Ints, Ints]:
        """Return round and sample, (n,) each, of the draws of an epoch, read-only."""
        assert n == self._quotas.sum()
        return self._draw(seed, epoch)

    def _epoch(self, seed: int, epoch: int) -> tuple[Ints, Ints]:
        rounds, rows = [], []
        for samples, quota in zip(self._samples, self._quotas.tolist(), strict=True):
            if not quota:
                continue
            number, place = np.divmod(epoch * quota + np.arange(quota), len(samples))
            for each in np.unique(number).tolist():
                bits = random_bits(seed, each, samples, STREAM_CLASS)
                rows.append(samples[np.argsort(bits, kind="stable")][place[number == each]])
            rounds.append(number)
        found = np.concatenate(rounds), np.concatenate(rows)
        mixed = permutation(len(found[0]), seed, epoch)
        for each in (result := (found[0][mixed], found[1][mixed])):
            each.setflags(write=False)
        return result


def _round_shares(shares: NDArray[np.float64]) -> Ints:
    """Round shares to integers with the same sum, each by less than 1 (largest remainders)."""
    whole = np.floor(shares).astype(np.int64)
    missing = round(shares.sum()) - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    return whole


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order (n,) of an epoch, read-only: samples sorted by their random bits."""
    bits = random_bits(seed, epoch, np.arange(n), STREAM_ORDER)
    order = np.argsort(bits, kind="stable")
    order.setflags(write=False)
    return order


def substitute(n: int, seed: int, epoch: int, row: int, attempt: int) -> int:
    """Return the row that replaces unreadable `row` of n rows; attempts count from 0."""
    bits = random_bits(seed, epoch, row, STREAM_SUBSTITUTE + attempt)
    return int(bits % np.uint64(n))


def rows_to_try(n: int, seed: int, epoch: int, row: int) -> Iterator[int]:
    """Yield `row`, then the rows that may replace it if it cannot be read; the iterator is finite.

    First come `RANDOM_TRIES` random rows, then each of the n rows once, beginning with `row`: if
    any row is readable, it is among these.
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
