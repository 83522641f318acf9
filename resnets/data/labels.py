"""Labels as people write them, names or numbers, as numbers of sorted classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from resnets.data.errors import DataError
from resnets.data.parts import Rows

ONE_LABEL = "each image has one label here; multi-label sets are not supported yet"
NUMBER = re.compile(r"\d+")
LIST = re.compile(r"[\[{].*[\]}]|.*[;|].*|\d+(\s*[,\s]\s*\d+)+", re.DOTALL)


def is_list(label: str) -> bool:
    """Whether a label looks like several: "[1, 2]", "cat;dog", "cat|dog", "1 2"."""
    return LIST.fullmatch(label) is not None


def check_lists(labels: Sequence[str], place: Callable[[int], str]) -> None:
    """DataError where a label is made of other labels, "cat,dog" beside "cat" and "dog".

    `place(row)` says where it is. One that is called so, "cat, small", is a class.
    """
    known = set(labels)
    for row, label in enumerate(labels):
        parts = {part.strip() for part in re.split(r"[,;|/+&]", label)}
        if len(parts) > 1 and parts <= known:
            raise DataError(f"{place(row)}: {label!r} are several labels; {ONE_LABEL}")


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels, in numerical order where all are numbers, else in that of the text."""
    names = set(labels)
    if all(map(NUMBER.fullmatch, names)):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def number_labels(
    labels: Sequence[str],
    classes: Sequence[str],
    place: Callable[[int], str],
    *,
    by_place: bool = False,
) -> Rows:
    """(N,) the class of each label, by name; with `by_place` a number may be its place instead.

    DataError where `place(row)`, a file and line, has a label that is no class.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    found = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels):
        number = numbers.get(label)
        if number is None and by_place and NUMBER.fullmatch(label) and int(label) < len(classes):
            number = int(label)
        if number is None:
            raise DataError(
                f"{place(row)}: {label!r} is none of the training part's {len(classes):,} classes"
            )
        found[row] = number
    return found
