"""Find identical and near-duplicate images, in time linear in their number.

Files of equal bytes share a digest. Images that look alike share most of the 64 bits of their
perceptual hash: two that differ in at most three bits agree in one of its four quarters, so sorting
by each quarter puts them next to each other. Each is compared with the `WINDOW` that follow it. If
more agree (scans, digits, frames of a video), they are sorted by finer keys, which pairs with at
most three different bits also share, and the nearest are compared. Proposed pairs are read again
and compared by their pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.data.prefetch import prefetch

MAX_DISTANCE = 3  # bits in which the hashes of similar images may differ
MAX_DIFFERENCE = 6.0  # mean difference of thumbnails, 0..255, of similar images
MAX_COLOR_DIFFERENCE = 3 * MAX_DIFFERENCE + 3  # of their mean colors, summed over channels, rounded
WINDOW, FINE_WINDOW = 64, 32  # neighbors in sorted order that each hash is compared with
MAX_CANDIDATES = 8  # pairs per image with earlier ones that are read again
MAX_NEIGHBORS = 16  # nearest hashes that each is compared with
MAX_PER_HASH = 4  # images of one hash that are compared with all of another
CACHE_SIZE = 20_000  # thumbnails
MAX_AHEAD = 8  # pairs per thread

Pair = tuple[int, int]
PixelDigest = tuple[str, NDArray[np.uint8]]  # size and digest of all pixels, thumbnail (32, 32, 3)
Words = NDArray[np.uint64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageHashes:
    """Properties of N readable images, each an array (N,).

    phash: 64 bits (`check.image.perceptual_hash`). color: mean red, green and blue, a byte each.
    part: a number for the part of the set that the image is in; held-out parts come first. row: the
    number of the image in the set, ascending.
    """

    phash: Words
    color: Words
    part: Rows
    row: Rows


@dataclass(frozen=True, eq=False)
class Proposals:
    """pairs: (earlier row, later row) to compare by pixels.

    crowded: number of images with more neighbors of similar hash than each was compared with.
    """

    pairs: list[Pair]
    crowded: int


def find_identical(content: Words) -> Iterator[Pair]:
    """Yield (first row, later row) of files with equal digests (N,), each paired with the first."""
    _, first, group = np.unique(content, return_index=True, return_inverse=True)
    firsts = first[group]
    for row in np.flatnonzero(firsts != np.arange(len(content))).tolist():
        yield int(firsts[row]), row


def propose_pairs(images: ImageHashes) -> Proposals:
    """Propose pairs whose hashes differ in at most three bits and whose mean colors agree.

    At most `MAX_CANDIDATES` per image with earlier ones: those in other parts of the set first,
    then those of nearest hash.
    """
    unique, group = np.unique(images.phash, return_inverse=True)
    members = np.lexsort((np.arange(len(group)), group))
    starts = np.searchsorted(group[members], np.arange(len(unique) + 1))
    same, crowded = _pair_equal_hashes(images, group)
    edges, dense = _pair_near_hashes(unique)
    crowded[np.isin(group, dense)] = True
    pairs = np.concatenate([same, _expand_to_images(edges, members, starts)])
    pairs = _keep_nearest(
        images, _filter_by_color(images, _unique_pairs(np.sort(pairs, 1), len(group)))
    )
    return Proposals([(a, b) for a, b in images.row[pairs].tolist()], int(crowded.sum()))


def _pair_equal_hashes(images: ImageHashes, group: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """Pair images of equal hash and similar color; also return which images had more of these."""
    total = _channels(images.color).sum(1)
    pairs, crowded = _pair_in_window(np.lexsort((total, group)), group, WINDOW)
    kept = np.abs(total[pairs[:, 0]] - total[pairs[:, 1]]) <= MAX_COLOR_DIFFERENCE
    many = np.zeros(len(group), bool)
    many[crowded] = True
    return _keep_nearest(images, _filter_by_color(images, pairs[kept])), many


def _pair_near_hashes(hashes: Words) -> tuple[Rows, Rows]:
    """Pair (P, 2) distinct hashes differing in at most three bits; also return crowded ones."""
    found, crowded = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for quarter in range(4):
        key = hashes >> np.uint64(16 * quarter) & np.uint64(0xFFFF)
        pairs, many = _pair_in_window(np.lexsort((hashes, key)), key, WINDOW)
        found.append(_filter_near(hashes, pairs))
        if not len(many):
            continue
        for fine in _fine_keys(hashes[many], quarter):
            pairs, rest = _pair_in_window(np.lexsort((hashes[many], fine)), fine, FINE_WINDOW)
            found.append(_filter_near(hashes, many[pairs]))
            crowded.append(many[rest])
    edges = _unique_pairs(np.concatenate(found), len(hashes))
    differ = np.bitwise_count(hashes[edges[:, 0]] ^ hashes[edges[:, 1]])
    edges = edges[np.lexsort((edges[:, 0], differ, edges[:, 1]))]
    return edges[_rank(edges[:, 1]) < MAX_NEIGHBORS], np.unique(np.concatenate(crowded))


def _fine_keys(hashes: Words, quarter: int) -> Iterator[Words]:
    """Yield keys of 40 bits: a quarter, and three of the six bytes outside of it.

    Three different bits are in at most three bytes, so two such hashes share one of the keys.
    """
    quarter_key = hashes >> np.uint64(16 * quarter) & np.uint64(0xFFFF)
    other_bytes = [byte for byte in range(8) if byte // 2 != quarter]
    for chosen in combinations(other_bytes, 3):
        key = quarter_key
        for byte in chosen:
            key = key << np.uint64(8) | hashes >> np.uint64(8 * byte) & np.uint64(0xFF)
        yield key


def _pair_in_window(order: Rows, keys: NDArray[Any], window: int) -> tuple[Rows, Rows]:
    """Pair (P, 2) rows with equal keys within `window` positions of each other in `order`.

    `order` sorts by `keys`. Also returns the rows, ascending, whose key more than `window` others
    have.
    """
    found = [np.empty((0, 2), np.int64)]
    ordered = keys[order]
    positions = np.arange(len(order))  # whose neighbor `step` positions on has the same key
    for step in range(1, window + 1):
        positions = positions[: np.searchsorted(positions, len(order) - step)]
        positions = positions[ordered[positions] == ordered[positions + step]]
        if not len(positions):
            return np.concatenate(found), positions
        found.append(np.stack([order[positions], order[positions + step]], 1))
    start, end = (np.searchsorted(ordered, ordered, side) for side in ("left", "right"))
    return np.concatenate(found), np.sort(order[end - start > window + 1])


def _filter_near(hashes: Words, pairs: Rows) -> Rows:
    """Return the pairs that differ in few bits, the smaller row first."""
    differ = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    return np.sort(pairs[differ <= MAX_DISTANCE], 1)


def _expand_to_images(edges: Rows, members: Rows, starts: Rows) -> Rows:
    """Expand edges between hashes to pairs of images: all of one with the first of the other."""
    found = [np.empty((0, 2), np.int64)]
    sizes = np.diff(starts)
    for one, other in (edges[:, 0], edges[:, 1]), (edges[:, 1], edges[:, 0]):
        for position in range(MAX_PER_HASH):
            has = sizes[one] > position
            first, count = members[starts[one[has]] + position], sizes[other[has]]
            step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            found.append(
                np.stack(
                    [np.repeat(first, count), members[np.repeat(starts[other[has]], count) + step]],
                    1,
                )
            )
    return np.concatenate(found)


def _channels(color: Words) -> Rows:
    """Return (N, 3) mean red, green and blue."""
    shifts = np.array([16, 8, 0], np.uint64)
    return (color[:, None] >> shifts & np.uint64(0xFF)).astype(np.int64)


def _filter_by_color(images: ImageHashes, pairs: Rows) -> Rows:
    return pairs[_color_differences(images, pairs) <= MAX_COLOR_DIFFERENCE]


def _color_differences(images: ImageHashes, pairs: Rows) -> Rows:
    """Return the sum of the differences of mean red, green and blue."""
    one, other = (_channels(images.color[pairs[:, side]]) for side in (0, 1))
    return np.abs(one - other).sum(1)


def _keep_nearest(images: ImageHashes, pairs: Rows) -> Rows:
    """Keep the `MAX_CANDIDATES` best pairs of each later image.

    Pairs across parts come first, then those with the nearest hashes.
    """
    pairs = np.sort(pairs, 1)
    one, other = pairs[:, 0], pairs[:, 1]
    distance = np.bitwise_count(images.phash[one] ^ images.phash[other])
    is_same_part = images.part[one] == images.part[other]
    order = np.lexsort((one, _color_differences(images, pairs), distance, is_same_part, other))
    ordered = pairs[order]
    kept = ordered[_rank(ordered[:, 1]) < MAX_CANDIDATES]
    return kept[np.lexsort((kept[:, 1], kept[:, 0]))]


def _unique_pairs(pairs: Rows, count: int) -> Rows:
    """Return the distinct pairs of numbers below `count`, sorted."""
    keys = np.unique(pairs[:, 0] * count + pairs[:, 1])
    return np.stack([keys // count, keys % count], 1)


def _rank(keys: Rows) -> Rows:
    """Return the position of each among equal `keys`, which are sorted."""
    return np.arange(len(keys)) - np.searchsorted(keys, keys, "left")


def _max_difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the mean difference up to which two thumbnails look alike: less with low contrast."""
    contrast = min(float(np.abs(each - each.mean()).mean()) for each in (first, second))
    return min(MAX_DIFFERENCE, max(1.0, contrast / 4))


def compare_pairs(
    pairs: Iterable[Pair], load: Callable[[int], PixelDigest], workers: int
) -> Iterator[tuple[Pair, float]]:
    """Yield each pair with the mean difference of its thumbnails, 0..255; -1 for equal pixels.

    Infinite for images of low contrast that differ by much of it. load: reads an image again; a
    pair that can no longer be read is skipped.
    """
    load_cached = lru_cache(CACHE_SIZE)(load)

    def difference(pair: Pair) -> float | None:
        try:
            (one, first), (other, second) = map(load_cached, pair)
        except DataError:
            return None
        if one == other:
            return -1.0
        difference = float(np.abs(first.astype(np.int16) - second).mean())
        return difference if difference <= _max_difference(first, second) else math.inf

    for pair, found in prefetch(difference, pairs, workers=workers, ahead=MAX_AHEAD * workers):
        if found is not None:
            yield pair, found
