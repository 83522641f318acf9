"""Image sets val1 and val2: halves of val with about as many objects of each class.

For ImageNet's detection set, whose training images have few objects each: val1 is trained on too,
and val2 validates (Girshick et al. 2014, R-CNN; the paper, appendix B). R-CNN's lists are used
where the set has them; these halves serve the same purpose, but hold other images.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from statistics import median

from resnets.config import DetectSpec
from resnets.data import order
from resnets.data.dataset.image_identity import hash_names
from resnets.detect.formats.records import RawDataset, RawImage, RawImageSet

log = logging.getLogger("resnets")
WHOLE, HALVES = "val", ("val1", "val2")


def named_sets(detect: DetectSpec) -> Iterable[str]:
    """The image sets that a recipe names."""
    return (
        name
        for titles in (detect.train_set, detect.val_set, detect.test_set)
        for name in titles.split("+")
    )


def with_halves(source: RawDataset, named: Iterable[str]) -> RawDataset:
    """`source` with image sets val1 and val2, if they are `named`, and it has val but not them."""
    titles = source.titles
    if not set(named) & set(HALVES) or WHOLE not in titles or set(HALVES) & set(titles):
        return source

    @cache
    def halves() -> tuple[list[RawImage], list[RawImage]]:
        whole = source.load(WHOLE)
        first, second = split_by_classes(whole.images)
        log.warning("%s: %s", source.name, _described(first, second))
        return first, second

    def load(title: str) -> RawImageSet:
        if title not in HALVES:
            return source.load(title)
        whole, images = source.load(WHOLE), halves()[HALVES.index(title)]
        count = sum(len(image.objects) for image in images)
        # Problems of no single image are those of both.
        return replace(whole, images=images, objects=count if whole.objects is not None else None)

    return replace(source, titles=(*titles, *HALVES), load=load)


def split_by_classes(images: Sequence[RawImage]) -> tuple[list[RawImage], list[RawImage]]:
    """Two halves, each class's objects about equally in both; each in the order of `images`.

    Images of the rarest classes are dealt first, each to the half that has fewer of its classes.
    The same images give the same halves; another image may move others.
    """
    counts = [Counter(each.label for each in image.objects) for image in images]
    totals: Counter[int] = sum(counts, Counter())
    keys = hash_names([image.path or image.name for image in images])
    luck = order.random_bits(0, 0, keys, order.STREAM_SPLIT).tolist()

    def rarest(row: int) -> int:
        return min((totals[label] for label in counts[row]), default=1 << 62)

    halves: tuple[list[int], list[int]] = ([], [])
    have: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for row in sorted(range(len(images)), key=lambda row: (rarest(row), luck[row])):
        excess = sum(
            number * (have[0][label] - have[1][label]) / totals[label]
            for label, number in counts[row].items()
        )
        half = int(excess > 0) if excess else int(len(halves[0]) > len(halves[1]))
        halves[half].append(row)
        have[half].update(counts[row])
    first, second = ([images[row] for row in sorted(rows)] for rows in halves)
    return first, second


def imbalances(first: Sequence[RawImage], second: Sequence[RawImage]) -> list[float]:
    """|a - b| / (a + b) of the a and b objects of each class in two sets of images."""
    a, b = (
        Counter(each.label for image in half for each in image.objects) for half in (first, second)
    )
    return [abs(a[label] - b[label]) / (a[label] + b[label]) for label in sorted(a | b)]


def _described(first: Sequence[RawImage], second: Sequence[RawImage]) -> str:
    found = imbalances(first, second) or [0.0]
    return (
        f"{HALVES[0]} and {HALVES[1]}: {len(first):,} and {len(second):,} images of {WHOLE}, halved"
        f" by class (imbalance at most {100 * max(found):.0f}%, median {100 * median(found):.0f}%);"
        " R-CNN's own lists are used where they are among the image sets"
    )
