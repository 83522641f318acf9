"""Labels as people write them, names or numbers, as numbers of sorted classes.

A label is a name, or a tuple of names where images may have several (`tables.label_sets`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

import numpy as np

from resnets.data.dataset.labels import Labels, multi_hot
from resnets.data.dataset.source import Rows
from resnets.data.errors import DataError

ONE_LABEL = "each image has one label here; for sets of labels set data.labels=multi"
Label = str | tuple[str, ...]
NUMBER = re.compile(r"\d+")
MISSING = frozenset(("", "nan", "none", "null", "nil", "n/a", "#n/a", "<na>", "nat", "-nan"))
LIST = re.compile(r"[\[{].*[\]}]|.*[;|].*|\d+(\s*[,\s]\s*\d+)+", re.DOTALL)


def is_list(label: str) -> bool:
    """Whether a label looks like several: "[1, 2]", "cat;dog", "cat|dog", "1 2"."""
    return LIST.fullmatch(label) is not None


def is_missing(label: str) -> bool:
    """Whether a cell is how programs write that there is no label: empty, nan, None, null, N/A."""
    return label == "NA" or label.casefold() in MISSING


def names_of(label: Label) -> tuple[str, ...]:
    """The names of a label."""
    return (label,) if isinstance(label, str) else label


def class_names(labels: Iterable[Label]) -> tuple[str, ...]:
    """The distinct names, in numerical order where all are numbers, else in that of the text."""
    names = {name for label in labels for name in names_of(label)}
    if all(map(NUMBER.fullmatch, names)):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def number_labels(
    labels: Sequence[Label],
    classes: Sequence[str],
    place: Callable[[int], str],
    *,
    by_place: bool = False,
) -> Labels:
    """(N,) the class of each label: by name, or with `by_place` all by their places from 0.

    (N, K) where labels are tuples of names.

    Which of the two is decided for all labels together: by name where each is a class.
    DataError where `place(row)`, a file and line, has a label that is no class, and where numbers
    may be names or places: where they are both, and mean other classes as the one than as the
    other.
    """
    if any(isinstance(label, tuple) for label in labels):
        sets = [names_of(label) for label in labels]
        row_of = [row for row, names in enumerate(sets) for _ in names]
        flat = [name for names in sets for name in names]
        found = iter(_numbers(flat, classes, lambda row: place(row_of[row]), by_place).tolist())
        return multi_hot([[next(found) for _ in names] for names in sets], len(classes))
    return _numbers([str(label) for label in labels], classes, place, by_place)


def _numbers(
    labels: Sequence[str], classes: Sequence[str], place: Callable[[int], str], by_place: bool
) -> Rows:
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = next((row for row, label in enumerate(labels) if label not in numbers), None)
    if unknown is None:
        found = np.array([numbers[label] for label in labels], np.int64)
        if by_place and (row := ambiguous_number(labels, classes)) is not None:
            raise DataError(
                f"{place(row)}: {labels[row]!r} may be the class of that name or, counted from 0,"
                f" {classes[int(labels[row])]!r}, and so may the other labels; give the images of"
                " each class a folder, or the classes names that are no numbers"
            )
        return found
    if not by_place or not all(map(_is_place, labels, repeat(len(classes)))):
        raise DataError(
            f"{place(unknown)}: {labels[unknown]!r} is none of the training part's"
            f" {len(classes):,} classes"
        )
    if (named := next((row for row, label in enumerate(labels) if label in numbers), None)) is None:
        return np.array([int(label) for label in labels], np.int64)
    raise DataError(
        f"{place(named)}: {labels[named]!r} is a class, but {labels[unknown]!r} is none, so the"
        f" labels may be names or places among the {len(classes):,} classes; write the names of"
        " classes"
    )


def ambiguous_number(labels: Sequence[str], classes: Sequence[str]) -> int | None:
    """Row of a number that means one class as a name and another as a place from 0, where all of
    the `labels` may be either; None where there is none.

    Classes that are called 0, 1, 2, ... are meant by their names.
    """
    if set(classes) == set(map(str, range(len(classes)))):
        return None
    if not all(map(_is_place, labels, repeat(len(classes)))):
        return None
    if any(label != str(int(label)) for label in labels):  # "01" is a name
        return None
    return next((row for row, label in enumerate(labels) if classes[int(label)] != label), None)


def _is_place(label: str, count: int) -> bool:
    return NUMBER.fullmatch(label) is not None and int(label) < count


DIGITS = re.compile(r"\d+")
WIDTH = 24  # digits; longer numbers are compared by characters


def order_by_name(file: object, names: Sequence[tuple[str, ...]]) -> list[int]:
    """The rows of images in the order of their `names`: the file name, then what tells equal ones.

    DataError where the order by number is another one.
    """
    order = sorted(range(len(names)), key=lambda row: names[row])
    padded = [tuple(DIGITS.sub(_padded, part) for part in name) for name in names]
    by_number = sorted(range(len(names)), key=lambda row: padded[row])
    if (place := _first_difference(order, by_number)) is not None:
        one, other = names[order[place]][0], names[by_number[place]][0]
        raise DataError(
            f"{file}: labels without file names, and image {place + 1} is {one} by characters but"
            f" {other} by number; give a table of path,label"
        )
    return order


def first_pair(name: str, label: str) -> str:
    """The first image and its label, which tell people whether the order is right."""
    return f"{posixpath.basename(name)} = {label or 'no label'}"


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(WIDTH)


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
