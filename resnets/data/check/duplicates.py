"""Which images of a set are the same or look alike, in time that grows with their number alone.

Files of equal bytes share a digest. Images that look alike share most of the 64 bits of their
shape: two that differ in at most three agree in one of its four quarters, so sorting by each
quarter brings them together. Each is compared with the `WINDOW` that follow it there. Where more
agree (scans, digits, frames of a film), they are sorted by finer keys, which pairs of at most three
different bits share too, and the nearest are compared. What is proposed is read again and compared
by its pixels.
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

DISTANCE = 3  # bits in which the shapes of images that look alike may differ
ALIKE = 6.0  # mean difference of thumbnails in 0..255 up to which images look alike
TONES = 3 * ALIKE + 3  # their mean colours then differ by no more, three channels added, rounded
WINDOW, FINE_WINDOW = 64, 32  # neighbours in sorted order that each shape is compared with
CANDIDATES = 8  # pairs of one image with earlier ones that are read again
EDGES = 16  # shapes that each is compared with, the nearest
FELLOWS = 4  # images of one shape that are compared with all of another
REMEMBERED = 20_000  # thumbnails kept for the next comparison
AHEAD = 8  # pairs a thread may be ahead

Pair = tuple[int, int]
PixelDigest = tuple[str, NDArray[np.uint8]]  # size and digest of all pixels, thumbnail (32, 32, 3)
Words = NDArray[np.uint64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shapes:
    """What is known of N images that can be read, each an array (N,).

    shape: 64 bits (`check.image.shape_of`). tone: mean red, green and blue, a byte each. part:
    a number for the part of the set that the image is in; parts kept apart come first. row: the
    number of the image in the set, ascending.
    """

    shape: Words
    tone: Words
    part: Rows
    row: Rows


@dataclass(frozen=True, eq=False)
class Proposals:
    """pairs: (earlier row, later row) to compare by pixels.

    crowded: how many images had more neighbours of like shape than each was compared with.
    """

    pairs: list[Pair]
    crowded: int


def same_bytes(content: Words) -> Iterator[Pair]:
    """(first row, later row) of files with equal digests (N,); all later ones with the first."""
    _, first, group = np.unique(content, return_index=True, return_inverse=True)
    firsts = first[group]
    for row in np.flatnonzero(firsts != np.arange(len(content))).tolist():
        yield int(firsts[row]), row


def propose(images: Shapes) -> Proposals:
    """Pairs whose shapes differ in at most three bits and whose mean colours agree.

    Of one image at most `CANDIDATES` with earlier ones: those in other parts of the set first, then
    those of nearest shape.
    """
    unique, group = np.unique(images.shape, return_inverse=True)
    members = np.lexsort((np.arange(len(group)), group))
    starts = np.searchsorted(group[members], np.arange(len(unique) + 1))
    same, crowded = _same_shape(images, group)
    edges, dense = _near_shapes(unique)
    crowded[np.isin(group, dense)] = True
    pairs = np.concatenate([same, _between(edges, members, starts)])
    pairs = _nearest(images, _of_like_tone(images, _distinct(np.sort(pairs, 1), len(group))))
    return Proposals([(a, b) for a, b in images.row[pairs].tolist()], int(crowded.sum()))


def _same_shape(images: Shapes, group: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """Pairs of one shape that are near in mean colour, and which images had more of those."""
    total = _channels(images.tone).sum(1)
    pairs, crowded = _in_sorted_order(np.lexsort((total, group)), group, WINDOW)
    kept = np.abs(total[pairs[:, 0]] - total[pairs[:, 1]]) <= TONES
    many = np.zeros(len(group), bool)
    many[crowded] = True
    return _nearest(images, _of_like_tone(images, pairs[kept])), many


def _near_shapes(shapes: Words) -> tuple[Rows, Rows]:
    """Pairs (P, 2) of distinct shapes that differ in at most three bits, and the crowded ones."""
    found, crowded = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for quarter in range(4):
        key = shapes >> np.uint64(16 * quarter) & np.uint64(0xFFFF)
        pairs, many = _in_sorted_order(np.lexsort((shapes, key)), key, WINDOW)
        found.append(_near(shapes, pairs))
        if not len(many):
            continue
        for fine in _fine_keys(shapes[many], quarter):
            pairs, rest = _in_sorted_order(np.lexsort((shapes[many], fine)), fine, FINE_WINDOW)
            found.append(_near(shapes, many[pairs]))
            crowded.append(many[rest])
    edges = _distinct(np.concatenate(found), len(shapes))
    differ = np.bitwise_count(shapes[edges[:, 0]] ^ shapes[edges[:, 1]])
    edges = edges[np.lexsort((edges[:, 0], differ, edges[:, 1]))]
    return edges[_rank(edges[:, 1]) < EDGES], np.unique(np.concatenate(crowded))


def _fine_keys(shapes: Words, quarter: int) -> Iterator[Words]:
    """Keys of 40 bits: a quarter, and three of the six bytes outside of it.

    Three different bits touch three bytes at most, so two such shapes share one of the keys.
    """
    own = shapes >> np.uint64(16 * quarter) & np.uint64(0xFFFF)
    places = [byte for byte in range(8) if byte // 2 != quarter]
    for chosen in combinations(places, 3):
        key = own
        for byte in chosen:
            key = key << np.uint64(8) | shapes >> np.uint64(8 * byte) & np.uint64(0xFF)
        yield key


def _in_sorted_order(order: Rows, keys: NDArray[Any], window: int) -> tuple[Rows, Rows]:
    """Pairs (P, 2) that share a key and lie within `window` places of each other in `order`.

    `order` sorts by `keys`. Also the rows, ascending, whose key more than `window` others have.
    """
    found = [np.empty((0, 2), np.int64)]
    ordered = keys[order]
    at = np.arange(len(order))  # those whose neighbour `step` places on has the same key
    for step in range(1, window + 1):
        at = at[: np.searchsorted(at, len(order) - step)]
        at = at[ordered[at] == ordered[at + step]]
        if not len(at):
            return np.concatenate(found), at
        found.append(np.stack([order[at], order[at + step]], 1))
    start, end = (np.searchsorted(ordered, ordered, side) for side in ("left", "right"))
    return np.concatenate(found), np.sort(order[end - start > window + 1])


def _near(shapes: Words, pairs: Rows) -> Rows:
    """Those that differ in few bits, the lesser row first."""
    differ = np.bitwise_count(shapes[pairs[:, 0]] ^ shapes[pairs[:, 1]])
    return np.sort(pairs[differ <= DISTANCE], 1)


def _between(edges: Rows, members: Rows, starts: Rows) -> Rows:
    """Pairs of images, one of each shape of an edge: all of one with the first of the other."""
    found = [np.empty((0, 2), np.int64)]
    sizes = np.diff(starts)
    for one, other in (edges[:, 0], edges[:, 1]), (edges[:, 1], edges[:, 0]):
        for place in range(FELLOWS):
            has = sizes[one] > place
            first, count = members[starts[one[has]] + place], sizes[other[has]]
            step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            found.append(
                np.stack(
                    [np.repeat(first, count), members[np.repeat(starts[other[has]], count) + step]],
                    1,
                )
            )
    return np.concatenate(found)


def _channels(tone: Words) -> Rows:
    """(N, 3) mean red, green and blue."""
    shifts = np.array([16, 8, 0], np.uint64)
    return (tone[:, None] >> shifts & np.uint64(0xFF)).astype(np.int64)


def _of_like_tone(images: Shapes, pairs: Rows) -> Rows:
    return pairs[_tones_apart(images, pairs) <= TONES]


def _tones_apart(images: Shapes, pairs: Rows) -> Rows:
    """Differences of mean red, green and blue, added up."""
    one, other = (_channels(images.tone[pairs[:, side]]) for side in (0, 1))
    return np.abs(one - other).sum(1)


def _nearest(images: Shapes, pairs: Rows) -> Rows:
    """Of each later image the `CANDIDATES` best pairs: across parts first, then nearest shapes."""
    pairs = np.sort(pairs, 1)
    one, other = pairs[:, 0], pairs[:, 1]
    distance = np.bitwise_count(images.shape[one] ^ images.shape[other])
    together = images.part[one] == images.part[other]
    order = np.lexsort((one, _tones_apart(images, pairs), distance, together, other))
    ordered = pairs[order]
    kept = ordered[_rank(ordered[:, 1]) < CANDIDATES]
    return kept[np.lexsort((kept[:, 1], kept[:, 0]))]


def _distinct(pairs: Rows, count: int) -> Rows:
    """Each of the pairs of numbers below `count` once, sorted."""
    keys = np.unique(pairs[:, 0] * count + pairs[:, 1])
    return np.stack([keys // count, keys % count], 1)


def _rank(keys: Rows) -> Rows:
    """The place of each among equal `keys`, which are sorted."""
    return np.arange(len(keys)) - np.searchsorted(keys, keys, "left")


def _limit(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean difference up to which two thumbnails look alike: less where there is little to see."""
    contrast = min(float(np.abs(each - each.mean()).mean()) for each in (first, second))
    return min(ALIKE, max(1.0, contrast / 4))


def compare(
    pairs: Iterable[Pair], see: Callable[[int], PixelDigest], workers: int
) -> Iterator[tuple[Pair, float]]:
    """Each pair with the mean difference of its thumbnails, 0..255; -1 where all pixels agree.

    Infinite where images of little contrast differ by much of it. `see` reads an image again. A
    pair of which one has gone since is left out.
    """
    remembered = lru_cache(REMEMBERED)(see)

    def difference(pair: Pair) -> float | None:
        try:
            (one, first), (other, second) = map(remembered, pair)
        except DataError:
            return None
        if one == other:
            return -1.0
        difference = float(np.abs(first.astype(np.int16) - second).mean())
        return difference if difference <= _limit(first, second) else math.inf

    for pair, found in prefetch(difference, pairs, workers=workers, ahead=AHEAD * workers):
        if found is not None:
            yield pair, found
