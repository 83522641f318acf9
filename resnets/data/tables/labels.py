"""Convert labels, names or numbers, to indices of the sorted classes.

A label is a name, or a tuple of names for multi-label data (`tables.multilabel`).
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

ONE_LABEL = "each image has one label here; for multi-label data set data.labels=multi"
Label = str | tuple[str, ...]
NUMBER = re.compile(r"\d+")
MISSING = frozenset(
    {
        "", "nan", "none", "null", "nil", "n/a", "<na>", "nat", "-nan", "(null)", "<null>",
        "\\n",  # in dumps of MySQL and Hive
        "#n/a", "#n/a n/a", "#na", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!",
        "-1.#ind", "1.#ind", "-1.#qnan", "1.#qnan",
    }
)  # fmt: skip
LIST = re.compile(r"[\[{].*[\]}]|.*[;|].*|\d+(\s*[,\s]\s*\d+)+", re.DOTALL)


def is_list(label: str) -> bool:
    """Return whether a cell looks like several labels: "[1, 2]", "cat;dog", "cat|dog", "1 2"."""
    return LIST.fullmatch(label) is not None


def is_missing(label: str) -> bool:
    """Return whether a cell stands for a missing value: empty, nan, None, null, N/A, #REF!."""
    return label == "NA" or label.casefold() in MISSING


def label_names(label: Label) -> tuple[str, ...]:
    """Return the names in a label."""
    return (label,) if isinstance(label, str) else label


def class_names(labels: Iterable[Label]) -> tuple[str, ...]:
    """Return the distinct names, in numerical order if all are numbers, else sorted as text."""
    names = {name for label in labels for name in label_names(label)}
    if all(map(NUMBER.fullmatch, names)):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def encode_labels(
    labels: Sequence[Label],
    classes: Sequence[str],
    locate: Callable[[int], str],
    *,
    by_index: bool = False,
) -> Labels:
    """Return the class index of each label, (N,), or multi-hot rows (N, K) for tuples of names.

    Labels are class names. With `by_index` they may all be indices of the classes instead; that
    is decided for all labels together, and names take precedence. `locate(row)` returns the file
    and line of a row for messages.

    Raises DataError for a label that is not a class, and for numbers that could be names or
    indices and would mean different classes.
    """
    if any(isinstance(label, tuple) for label in labels):
        sets = [label_names(label) for label in labels]
        row_of = [row for row, names in enumerate(sets) for _ in names]
        flat = [name for names in sets for name in names]
        indices = iter(
            _encode_names(flat, classes, lambda row: locate(row_of[row]), by_index).tolist()
        )
        return multi_hot([[next(indices) for _ in names] for names in sets], len(classes))
    return _encode_names([str(label) for label in labels], classes, locate, by_index)


def _encode_names(
    labels: Sequence[str], classes: Sequence[str], locate: Callable[[int], str], by_index: bool
) -> Rows:
    class_index = {name: number for number, name in enumerate(classes)}
    unknown = next((row for row, label in enumerate(labels) if label not in class_index), None)
    if unknown is None:
        indices = np.array([class_index[label] for label in labels], np.int64)
        if by_index and (row := ambiguous_number(labels, classes)) is not None:
            raise DataError(
                f"{locate(row)}: {labels[row]!r} may be the class of that name or, counted from 0,"
                f" {classes[int(labels[row])]!r}, and so may the other labels; give the images of"
                " each class a folder, or the classes names that are no numbers"
            )
        return indices
    if not by_index or not all(map(_is_class_index, labels, repeat(len(classes)))):
        raise DataError(
            f"{locate(unknown)}: {labels[unknown]!r} is not one of the {len(classes):,} classes"
            " of the training part"
        )
    if (
        by_name := next((row for row, label in enumerate(labels) if label in class_index), None)
    ) is None:
        return np.array([int(label) for label in labels], np.int64)
    raise DataError(
        f"{locate(by_name)}: {labels[by_name]!r} is a class, but {labels[unknown]!r} is none, so"
        f" the labels may be names or indices of the {len(classes):,} classes; write the names"
        " of classes"
    )


def ambiguous_number(labels: Sequence[str], classes: Sequence[str]) -> int | None:
    """Return the first row whose number is the name of one class and the index of another.

    None if the labels cannot all be indices, or if the classes are named 0, 1, 2, ...
    """
    if set(classes) == set(map(str, range(len(classes)))):
        return None
    if not all(map(_is_class_index, labels, repeat(len(classes)))):
        return None
    if any(label != str(int(label)) for label in labels):  # "01" is a name
        return None
    return next((row for row, label in enumerate(labels) if classes[int(label)] != label), None)


def _is_class_index(label: str, count: int) -> bool:
    return NUMBER.fullmatch(label) is not None and int(label) < count


DIGITS = re.compile(r"\d+")
WIDTH = 24  # digits; longer numbers are compared by characters


def argsort_by_name(file: object, names: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the rows that sort `names`: tuples of a file name and parts that break ties.

    Raises DataError if sorting by the numbers in the names gives a different order.
    """
    order = sorted(range(len(names)), key=lambda row: names[row])
    padded = [tuple(DIGITS.sub(_pad_number, part) for part in name) for name in names]
    by_number = sorted(range(len(names)), key=lambda row: padded[row])
    if (position := _first_difference(order, by_number)) is not None:
        one, other = names[order[position]][0], names[by_number[position]][0]
        raise DataError(
            f"{file}: labels without file names, and image {position + 1} is {one} by characters"
            f" but {other} by number; give a table of path,label"
        )
    return order


def format_first_pair(name: str, label: str) -> str:
    """Format the first image and its label, so that users can check the pairing."""
    return f"{posixpath.basename(name)} = {label or 'no label'}"


def _pad_number(digits: re.Match[str]) -> str:
    return digits[0].zfill(WIDTH)


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
