"""Warnings about labels.

Identical images in two classes, names that are not classes, and classes that are not measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.labels import (
    NO_LABEL,
    Labels,
    class_counts,
    format_label,
    group_labels,
)
from resnets.data.layout.class_spelling import BLANKS, is_misspelling
from resnets.data.layout.class_spelling import SIGNED as NUMBER
from resnets.data.splits.share import Share
from resnets.utils.printable import format_count, join_names

UNLABELED = frozenset(
    {
        "?", "??", "-", "--", "-1", "nan", "none", "null", "na", "n/a", "nil", "undefined",
        "unlabeled", "unlabelled", "unlabel", "not labeled", "not labelled", "no label",
        "nolabel", "unknown", "unk", "unannotated", "unassigned", "unsorted", "todo", "tbd",
        "missing", "skip", "ignore", "unsure",
    }
)  # fmt: skip
MAX_IMAGES_PER_VALUE = 5  # average below which numeric classes may be quantities
MAX_COMPARED = 1000  # classes up to which all pairs of names are compared
MIN_RATIO = 4  # images of a class per image of one whose name may be a misspelling of it
FRACTION = re.compile(r"[+-]?\d*[.,]\d*[1-9]\d*")
MIN_VALUES = 10  # classes from which they may be quantities or ids


def label_conflicts(
    shares: Sequence[Share], contents: Sequence[Keys], classes: Sequence[str]
) -> tuple[str, ...]:
    """Return a warning if images of equal content have different labels, in any of the shares.

    contents: the content keys of each share's images, 0 if unknown.
    """
    content = np.concatenate(contents)
    stored_labels = np.concatenate([share.part.labels[share.rows] for share in shares])
    labels = group_labels(stored_labels)
    order = np.lexsort((np.arange(len(labels)), content))
    keys = content[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else order
    if len(starts) == 0:
        return ()
    sizes = np.diff(np.r_[starts, len(keys)])
    sorted_labels = labels[order]
    least = np.minimum.reduceat(sorted_labels, starts)
    most = np.maximum.reduceat(sorted_labels, starts)
    is_conflict = (least != most) & (keys[starts] != 0)
    if not is_conflict.any():
        return ()
    group = int(np.flatnonzero(is_conflict)[np.argmin(order[starts[is_conflict]])])
    members = order[starts[group] : starts[group] + sizes[group]]
    other = members[labels[members] != labels[members[0]]][0]
    offsets = np.cumsum([0, *(len(share.rows) for share in shares)])

    def describe(index: int) -> str:
        number = int(np.searchsorted(offsets, index, "right")) - 1
        name = shares[number].name(index - int(offsets[number]))
        return f"{name} ({format_label(stored_labels[index], classes, NO_LABEL)})"

    pair = f"{describe(int(members[0]))} and {describe(int(other))}"
    count = int(sizes[is_conflict].sum())
    return (
        f"{count:,} images are in two classes: byte-identical files under different labels, such"
        f" as {pair}; remove or move the wrong ones",
    )


def class_warnings(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return warnings about `classes`, with `counts` images, that are probably not classes.

    These are names for images without a label, misspellings of another class, numbers of a
    quantity, and one class per image.
    """
    warnings = []
    named = [
        f"{name!r} ({count:,} images)"
        for name, count in zip(classes, counts, strict=True)
        if BLANKS.sub(" ", name.casefold()).strip() in UNLABELED or name.strip() in UNLABELED
    ]
    if named:
        warnings.append(
            f"trained on as {'a class' if len(named) == 1 else 'classes'}: {', '.join(named)},"
            f" called as images without a label are; exclude them"
        )
    warnings += _misspelling_warning(classes, counts)
    total = sum(counts)
    num_single = sum(count == 1 for count in counts)
    if len(classes) >= MIN_VALUES and 2 * num_single > len(classes):
        warnings.append(
            f"{num_single:,} of {len(classes):,} classes have one image: they may be ids or"
            " captions; such a class is not measured"
        )
    elif all(map(NUMBER.fullmatch, classes)) and (
        any(map(FRACTION.fullmatch, classes))
        or (len(classes) >= MIN_VALUES and total < MAX_IMAGES_PER_VALUE * len(classes))
    ):
        warnings.append(
            f"the {len(classes):,} classes are numbers ({', '.join(classes[:3])}, ...) with"
            f" {total / len(classes):.1f} images each: if they are a quantity, as an age, a"
            " classifier does not know that 20 is near 21; make ranges of them"
        )
    return warnings


def _misspelling_warning(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return a warning about classes that have few images and almost the name of a larger one."""
    if len(classes) > MAX_COMPARED:
        return []
    largest = sorted(zip(counts, classes, strict=True), reverse=True)
    found = [
        f"{name!r} ({format_count(count, 'image')}) for {other!r} ({many:,})"
        for count, name in largest[::-1]
        for many, other in largest
        if many >= MIN_RATIO * count > 0 and is_misspelling(name, other)
    ]
    if not found:
        return []
    return [
        f"class names that may be misspelt: {', '.join(found[:3])}{', ...' * (len(found) > 3)};"
        " put the images together if they are of one class"
    ]


def unmeasured_classes(labels: Labels, classes: Sequence[str], title: str) -> tuple[str, ...]:
    """Return a line if some `classes` are not among the `labels` (N,) of a held-out split."""
    counts = class_counts(labels, len(classes))
    absent = [classes[int(label)] for label in np.flatnonzero(counts == 0)]
    if not absent:
        return ()
    count = f"{len(absent):,} class{'es' * (len(absent) > 1)}"
    return (f"no {title} image is of {count}, whose errors are not measured: {join_names(absent)}",)
