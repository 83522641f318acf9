"""Labels that cannot be right, or that are not measured: one image in two classes, absent ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.labels import (
    NO_LABEL,
    Labels,
    class_counts,
    label_groups,
    label_text,
)
from resnets.data.dataset.source import Part, Rows
from resnets.data.layout.class_spelling import BLANKS
from resnets.data.layout.class_spelling import SIGNED as NUMBER

SHOWN = 3  # class names in a message
UNLABELED = frozenset(
    {
        *("?", "??", "-", "--", "-1", "nan", "none", "null", "na", "n/a", "nil", "undefined"),
        *("unlabeled", "unlabelled", "unlabel", "not labeled", "not labelled", "no label"),
        *("nolabel", "unknown", "unk", "unannotated", "unassigned", "unsorted", "todo", "tbd"),
        *("missing", "skip", "ignore", "unsure"),
    }
)
FEW = 5  # images of a class on average, where classes may be quantities
MANY = 10  # classes that may be


@dataclass(frozen=True, eq=False)
class Labeled:
    """Images of a part: its `rows`, and their (N,) content keys, 0 = not known."""

    part: Part
    rows: Rows
    content: Keys

    def name(self, place: int) -> str:
        """What messages call one of them."""
        row, files = int(self.rows[place]), self.part.files
        return f"{self.part.title} image {row}".strip() if files is None else files.name(row)


def label_conflicts(shares: Sequence[Labeled], classes: Sequence[str]) -> tuple[str, ...]:
    """One warning where images of equal content have different labels, in one split or in two."""
    content = np.concatenate([share.content for share in shares])
    given = np.concatenate([share.part.labels[share.rows] for share in shares])
    labels = label_groups(given)
    order = np.lexsort((np.arange(len(labels)), content))
    keys = content[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else order
    if len(starts) == 0:
        return ()
    sizes = np.diff(np.r_[starts, len(keys)])
    sorted_labels = labels[order]
    least = np.minimum.reduceat(sorted_labels, starts)
    most = np.maximum.reduceat(sorted_labels, starts)
    mixed = (least != most) & (keys[starts] != 0)
    if not mixed.any():
        return ()
    group = int(np.flatnonzero(mixed)[np.argmin(order[starts[mixed]])])
    members = order[starts[group] : starts[group] + sizes[group]]
    other = members[labels[members] != labels[members[0]]][0]
    pair = " and ".join(
        f"{_name(shares, int(place))} ({label_text(given[place], classes, NO_LABEL)})"
        for place in (members[0], other)
    )
    count = int(sizes[mixed].sum())
    return (
        f"{count:,} images lie in two classes: byte-identical files under different labels, such"
        f" as {pair}; remove or move the wrong ones",
    )


def class_warnings(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Warnings of `classes` of `counts` images that seem to be no classes.

    Names that people give to images without a label, numbers of a quantity, a class for each image.
    """
    found = []
    named = [
        f"{name!r} ({count:,} images)"
        for name, count in zip(classes, counts, strict=True)
        if BLANKS.sub(" ", name.casefold()).strip() in UNLABELED or name.strip() in UNLABELED
    ]
    if named:
        found.append(
            f"trained on as {'a class' if len(named) == 1 else 'classes'}: {', '.join(named)},"
            f" called as images without a label are; leave such images out"
        )
    total = sum(counts)
    single = sum(count == 1 for count in counts)
    if len(classes) >= MANY and 2 * single > len(classes):
        found.append(
            f"{single:,} of {len(classes):,} classes have one image: they may be ids or captions;"
            " such a class is not measured"
        )
    elif len(classes) >= MANY and total < FEW * len(classes) and all(map(NUMBER.match, classes)):
        found.append(
            f"the {len(classes):,} classes are numbers ({', '.join(classes[:SHOWN])}, ...) with"
            f" {total / len(classes):.1f} images each: if they are a quantity, as an age, a"
            " classifier does not know that 20 is near 21; make ranges of them"
        )
    return found


def unmeasured_classes(labels: Labels, classes: Sequence[str], title: str) -> tuple[str, ...]:
    """A line where some of the `classes` are not among the `labels` (N,) of a held-out split."""
    counts = class_counts(labels, len(classes))
    absent = [classes[int(label)] for label in np.flatnonzero(counts == 0)]
    if not absent:
        return ()
    count = f"{len(absent):,} class{'es' * (len(absent) > 1)}"
    more = f" and {len(absent) - SHOWN:,} more" if len(absent) > SHOWN else ""
    names = ", ".join(absent[:SHOWN]) + more
    return (f"no {title} image is of {count}, whose errors are not measured: {names}",)


def _name(shares: Sequence[Labeled], place: int) -> str:
    for share in shares:
        if place < len(share.rows):
            return share.name(place)
        place -= len(share.rows)
    raise AssertionError(place)
