"""How many images each class has in each part, and which classes are uneven or not measured."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from resnets.data.check.parts import Contents
from resnets.data.dataset.labels import class_counts, is_multilabel
from resnets.data.dataset.source import VAL_NAMES
from resnets.data.finding_kinds import IMBALANCE, UNMEASURED, Finding

MANY, SMALLEST, LARGEST = 20, 10, 3  # classes that are shown
UNEVEN = 10  # times the smallest class that the largest may have
TRAIN, VAL, TEST = "training", "validation", "test"


@dataclass(frozen=True)
class ClassRow:
    """A class and its number of images in each part."""

    name: str
    counts: Sequence[int]


@dataclass(frozen=True)
class ClassTable:
    """Images by class and part; `rows` from the smallest class to the largest.

    parts: titles as the set has them. counted: place of the part that training takes.
    """

    parts: Sequence[str]
    rows: Sequence[ClassRow]
    counted: int

    @property
    def ratio(self) -> float:
        """Training images of the largest class for each one of the smallest."""
        counts = [row.counts[self.counted] for row in self.rows]
        return max(counts) / max(1, min(counts))


def role_of(part: str, parts: Sequence[str]) -> str:
    """What the part is to training: "training", "validation" or "test"; "" where it has no parts.

    Without a test part the validation part is the test set, as in ImageNet's layout.
    """
    if part in VAL_NAMES:
        return VAL if "test" in parts else TEST
    return TRAIN if part == "train" else part.removesuffix(" share")


def class_table(contents: Contents) -> ClassTable | None:
    """The table; None for a set without classes."""
    sections = [each for each in contents.sections if len(each.classes)]
    names = list(dict.fromkeys(name for each in sections for name in each.classes))
    if not [name for name in names if name]:
        return None
    number = {name: place for place, name in enumerate(names)}
    parts = list(dict.fromkeys(each.part for each in sections))
    counts = np.zeros((len(names), len(parts)), np.int64)
    for section in sections:
        found = class_counts(section.labels, len(section.classes))
        places = [number[name] for name in section.classes]
        np.add.at(counts[:, parts.index(section.part)], places, found)
    roles = [role_of(part, parts) for part in parts]
    counted = roles.index(TRAIN) if TRAIN in roles else len(parts) - 1
    rows = [ClassRow(name, counts[number[name]].tolist()) for name in names]
    rows.sort(key=lambda row: (row.counts[counted], row.name))
    return ClassTable(parts, rows, counted)


@dataclass(frozen=True)
class LabelSets:
    """Of images with sets of labels: how many images, labels in all, and images without a label.

    together: the pairs of labels that most images have both of, with the count, highest first.
    """

    images: int
    labels: int
    unlabeled: int
    together: Sequence[tuple[str, str, int]]


def label_sets(contents: Contents, most: int = 3) -> LabelSets | None:
    """What sets of labels there are; None where images have one label each."""
    sections = [each for each in contents.sections if is_multilabel(each.labels)]
    if not sections:
        return None
    classes = sections[0].classes
    labels = np.concatenate([each.labels for each in sections]).astype(np.int64)
    pairs = np.triu(labels.T @ labels, 1)  # (K, K) images that have both
    order = np.argsort(-pairs, axis=None, kind="stable")[:most]
    rows, columns = (each.tolist() for each in np.unravel_index(order, pairs.shape))
    together = [
        (classes[one], classes[two], int(pairs[one, two]))
        for one, two in zip(rows, columns, strict=True)
        if pairs[one, two]
    ]
    unlabeled = int((labels.sum(1) == 0).sum())
    return LabelSets(len(labels), int(labels.sum()), unlabeled, together)


def shown_classes(table: ClassTable) -> list[ClassRow | None]:
    """Rows for a page or terminal: all of a few, else the smallest and largest; None is a gap."""
    if len(table.rows) <= MANY:
        return [*table.rows]
    return [*table.rows[:SMALLEST], None, *table.rows[-LARGEST:]]


def suffix_counts(contents: Contents) -> list[tuple[str, int]]:
    """How many images have each suffix ("" = none), the most first."""
    names = (contents.path(number) for number in range(len(contents)))
    counts = Counter(posixpath.splitext(name)[1].lower() for name in names)
    return counts.most_common()


def class_findings(contents: Contents) -> Iterator[Finding]:
    """Uneven classes, and classes that a part which is measured on lacks."""
    table = class_table(contents)
    if table is None or len(table.rows) < 2:
        return
    least, most = table.rows[0], table.rows[-1]
    if table.ratio >= UNEVEN:
        few, many = least.counts[table.counted], most.counts[table.counted]
        detail = f"{most.name} {many:,}, {least.name} {few:,} images: {table.ratio:,.0f} to 1"
        yield Finding(IMBALANCE, "", detail, table.parts[table.counted], least.name)
    for place, part in enumerate(table.parts):
        if place == table.counted:
            continue
        for row in table.rows:
            if row.counts[table.counted] and not row.counts[place]:
                role = role_of(part, table.parts)
                yield Finding(UNMEASURED, "", f"{row.name}: no {role} image", part, row.name)
